"""Which heads do the work: many methods on one set of activations, judged against a truth."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ...probe.attribution import (
    BoundMethod,
    Count,
    MethodSpec,
    Natural,
    bound_methods,
    convert,
    in_range,
)
from ...probe.capture import exclusive, keeps_model
from ...probe.engine import about_model
from ...probe.errors import MethodError, ModelError, OptionError
from ...probe.results import About, marked_parquet, replaceable, write
from ...probe.sites import Tokenizer, check_length, positions, tokenizer_of
from .evidence import Evidence
from .judging import CircuitCheck, Published, Truth, curve, evaluate, measured, truth, verify
from .score import CircuitScore, Score, as_score
from .tasks import Pairs, task

if TYPE_CHECKING:
    from pandas import DataFrame

    from ...probe.results.figure import Figure

DEFAULT = (
    "attribution",
    "code_attr",
    "edge_attribution",
    "direct_logit",
    "discrete_sae",
    "discrete_sae_edge",
    "mutual_information",
    "mean_difference",
    "linear_probe",
    "untrained_sae",
    "null_split",
    "diversity",
    "norm",
)
TRUTH_PAIRS = 16


@dataclass(frozen=True, eq=False, repr=False)
class Circuit:
    """What every method said of every head.

    evidence   model, pairs and activations, for whatever is asked next
    scores     by method, in the order asked
    seconds    what each method took after the shared forwards; those are `evidence.seconds`
    truth      what the ranking is judged by, None if nothing is known
    evaluation one row a method: average precision, AUC, ... with their nulls
    about      model, seed, versions

    Example:
        >>> found = ll.circuit(lm, "induction", ["attribution"], count=4)
        >>> len(found.top(3)), found.score("attribution").values.shape
        (3, torch.Size([8]))
    """

    evidence: Evidence
    scores: Mapping[str, Score]
    seconds: Mapping[str, float]
    truth: Truth | None
    evaluation: DataFrame
    about: About
    notes: tuple[str, ...] = ()
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def pairs(self) -> Pairs:
        return self.evidence.pairs

    @property
    def names(self) -> tuple[tuple[int, int], ...]:
        """Layer and number of each head."""
        return self.evidence.outputs.names

    def score(self, method: str = "") -> Score:
        """The score of a method; the first asked for unless told. Raises MethodError."""
        chosen = method or next(iter(self.scores))
        if chosen not in self.scores:
            raise MethodError(
                f"method {chosen!r} was not run here; there are {', '.join(self.scores)}"
            )
        return self.scores[chosen]

    def table(self) -> DataFrame:
        """One row for every method and head: score, null, p, q, signed effect, in the circuit."""
        import pandas

        rows = [self._rows(name, score) for name, score in self.scores.items()]
        return pandas.concat(rows, ignore_index=True)

    def _rows(self, name: str, score: Score) -> DataFrame:
        import pandas

        none = [None] * len(self.names)
        inside, effects = none, none
        if self.truth is not None:
            inside = self.truth.inside.tolist()
            effects = none if self.truth.effects is None else self.truth.effects.tolist()
        columns = {
            "method": name,
            "layer": [layer for layer, _ in self.names],
            "head": [head for _, head in self.names],
            "score": score.values.tolist(),
            "null": none if score.null is None else score.null.mean(0).tolist(),
            "p": none if score.p is None else score.p.tolist(),
            "q": none if score.q is None else score.q.tolist(),
            "signed": none if score.signed is None else score.signed.tolist(),
            "in_circuit": inside,
            "effect": effects,
        }
        return pandas.DataFrame(columns)

    def top(self, count: int = 10, method: str = "") -> list[tuple[int, int]]:
        """The heads (layer, number) that a method ranks first."""
        most = convert("top", "count", count, Natural)
        order = self.score(method).values.argsort(descending=True, stable=True)[:most]
        return [self.names[i] for i in order.tolist()]

    def edges(self, method: str = "edge_attribution", *, count: int = 100) -> DataFrame:
        """The largest edges of a method: from_layer, from_head, to_layer, to_head, score."""
        import pandas

        most, edges = convert("edges", "count", count, Natural), self.score(method).edges
        if edges is None:
            raise MethodError(f"method {method!r} scores heads only, no edges")
        best = edges.flatten().argsort(descending=True)[: min(most, int((edges > 0).sum()))]
        pairs = [divmod(i, len(edges)) for i in best.tolist()]
        rows = [(*self.names[u], *self.names[v], float(edges[u, v])) for u, v in pairs]
        names = ["from_layer", "from_head", "to_layer", "to_head", "score"]
        return pandas.DataFrame(rows, columns=names)

    def verify(self, heads: Iterable[tuple[int, int]] | int = 10, **options: Any) -> CircuitCheck:
        """Faithfulness, completeness, minimality of heads, or of the first method's top ones."""
        chosen = self.top(heads) if isinstance(heads, int) else heads
        with exclusive(self.evidence.model):
            return verify(self.evidence, chosen, **options)

    def curve(self, method: str = "", **options: Any) -> DataFrame:
        """Faithfulness and completeness of a method's top k heads, k growing."""
        key = "curve", method, tuple(sorted(options.items()))
        if key not in self._kept:
            with exclusive(self.evidence.model):
                self._kept[key] = curve(self.evidence, self.score(method).values, **options)
        return self._kept[key]

    def figure(self, method: str = "") -> Figure:
        """The score of every head as a plotly figure, layers by heads, beside what exact patching
        found; heads of the circuit are outlined.

        method  whose score; the first asked for unless told
        `figure.save("circuit.pdf")` prints it. Raises MethodError, LimelightError without plotly.
        """
        from ...probe.results.figure import figure
        from .views import head_grids

        truth, chosen = self.truth, method or next(iter(self.scores))
        drawn, marks = {chosen: self.score(chosen).values}, []
        if truth is not None:
            marks = [name for name, i in zip(self.names, truth.inside, strict=True) if i]
            drawn |= {} if truth.effects is None else {"exact patching": truth.effects}
        return figure(head_grids(drawn, self.names, marks, self.pairs.name), columns=2)

    def __repr__(self) -> str:
        asked = f"{len(self.pairs)} pairs of {self.pairs.name!r}, {len(self.names)} heads"
        return f"Circuit({asked}, scores {', '.join(self.scores)})"

    def _repr_html_(self) -> str:
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        table: str = self.evaluation.to_html(index=False, float_format="{:.3f}".format)
        return f"<p>{escape(repr(self))}</p>{table}<ul>{notes}</ul>"

    def save(self, folder: str | Path, *, force: bool = False) -> Path:
        """Write scores.parquet and evaluation.parquet; the folder.

        force  also over files that were not written here
        Raises OptionError for a file that is to stay.
        """
        target = Path(folder)
        tables = {"scores": self.table(), "evaluation": self.evaluation}
        files = {name: target / f"{name}.parquet" for name in tables}
        for path in files.values():
            replaceable(path, force)
        target.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            write(files[name], marked_parquet(table, "circuit"))
        return target


@in_range
@keeps_model
def circuit(
    model: nn.Module,
    pairs: Pairs | str | Path,
    methods: MethodSpec | Sequence[MethodSpec] | None = None,
    *,
    truth: str | Published | Truth | Iterable[tuple[int, int]] | None = "measured",
    count: Count = 64,
    truth_pairs: Count = TRUTH_PAIRS,
    seed: int = 0,
    batch: Count = 16,
) -> Circuit:
    """Score every attention head of a model for a task, controls beside methods.

    pairs    `Pairs`, the name of a task ("ioi", "greater_than", "docstring", "induction") or a file
             of prompts (JSON lines)
    methods  names with options, "code_attr:64"; default: the gradient scores, the published
             discrete autoencoder, and all controls
    truth    "measured": exact patching on `truth_pairs` pairs that no method sees; a published
             circuit ("ioi:sae"), heads (layer, number), a Truth, or None
    count    pairs of a named task
    Raises OptionError, MethodError.

    Example:
        >>> found = ll.circuit(lm, "induction", ["attribution", "norm"], count=4)
        >>> list(found.scores), len(found.evaluation)
        (['attribution', 'norm'], 2)
    """
    bounds = bound_methods(DEFAULT if methods is None else methods)
    for bound in bounds:
        _check(bound)
    extra = truth_pairs if truth == "measured" else 0
    whole = _pairs(model, pairs, count, extra, seed)
    scored = whole[: len(whole) - extra]
    evidence = Evidence(model, scored, batch=batch)
    reference = _truth(evidence, truth, whole[len(whole) - extra :])
    scores, seconds = _scores(evidence, bounds)
    about = about_model(model, seed)
    return Circuit(
        evidence,
        scores,
        seconds,
        reference,
        _evaluation(scores, reference, seconds),
        about,
        (
            *about.notes,
            *evidence.outputs.adapter.notes,
            *evidence.outputs.notes,
            *_doubts(evidence),
        ),
    )


def _scores(
    evidence: Evidence, bounds: Sequence[BoundMethod]
) -> tuple[dict[str, Score], dict[str, float]]:
    """What each method says, and its own seconds: shared forwards and backwards are nobody's.

    Edges come first: their pass leaves the gradient that others read.
    """
    edges = [b for b in bounds if b.method.name == "edge_attribution"]
    if not edges and any("gradient" in b.method.needs for b in bounds):
        evidence.run("clean", gradient=True)
    scores: dict[str, Score] = {}
    seconds: dict[str, float] = {}
    for bound in [*edges, *(b for b in bounds if b not in edges)]:
        start, shared = time.perf_counter(), sum(evidence.seconds.values())
        scores[bound.name] = as_score(bound(evidence), bound, evidence.heads)
        spent = max(sum(evidence.seconds.values()) - shared, 0)
        seconds[bound.name] = time.perf_counter() - start - spent
    return {b.name: scores[b.name] for b in bounds}, {b.name: seconds[b.name] for b in bounds}


def _check(bound: BoundMethod) -> None:
    """Raise MethodError for a method that scores no heads."""
    if not isinstance(bound.method, CircuitScore):
        raise MethodError(
            f"method {bound.name!r} makes maps, not scores of heads; `limelight methods` shows "
            f"which score circuits"
        )


def _pairs(model: nn.Module, pairs: Pairs | str | Path, count: int, extra: int, seed: int) -> Pairs:
    """The pairs to score and, behind them, those that the truth is measured on."""
    resolved = pairs
    if not isinstance(resolved, Pairs):
        resolved = task(resolved, _reader(model), count=count + extra, seed=seed)
    tokens = max((len(one.clean) for one in resolved if one.clean.ndim == 1), default=0)
    check_length(tokens, positions(model), "the longest prompt")
    if len(resolved) < extra + 2:
        raise OptionError(
            f"{len(resolved)} pairs were given, {extra} of which would measure the truth: give "
            f"more pairs, fewer truth_pairs, or truth=None"
        )
    return resolved


def _reader(model: nn.Module) -> Tokenizer | int:
    """The model's tokenizer; where it has none, how many tokens it knows."""
    try:
        return tokenizer_of(model)
    except ModelError:
        tables = [m for m in model.modules() if isinstance(m, nn.Embedding)]
        if not tables:
            raise
        return max(table.num_embeddings for table in tables)


def _truth(evidence: Evidence, spec: Any, pairs: Pairs) -> Truth | None:
    if spec is None or isinstance(spec, Truth):
        return spec
    if spec == "measured":
        return measured(Evidence(evidence.model, pairs, outputs=evidence.outputs))
    return truth(spec, evidence.outputs)


def _evaluation(
    scores: Mapping[str, Score], reference: Truth | None, seconds: Mapping[str, float]
) -> DataFrame:
    import pandas

    judged = reference is not None and reference.inside.any() and not reference.inside.all()
    rows = []
    for name, score in scores.items():
        figures = evaluate(score, reference) if judged else {}  # type: ignore[arg-type]
        rows.append({"method": name, **figures, "chance": score.chance, "seconds": seconds[name]})
    return pandas.DataFrame(rows)


def _doubts(evidence: Evidence) -> list[str]:
    """What a reader should know before trusting any score."""
    solved = (evidence.clean.metric > 0).float().mean().item()
    doubts = []
    if solved < 0.8:
        doubts.append(f"the model solves only {solved:.0%} of the clean inputs")
    if evidence.clean.metric.mean() <= evidence.corrupt.metric.mean():
        doubts.append("the metric does not fall from clean to corrupt inputs")
    return doubts
