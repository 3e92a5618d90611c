"""One page of recall for several models: accuracy by gap and pairs beside state, maps, patching.

recall_report({"hyena": hyena, "attention": attention}, ll.mqar(...), "recall.html")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ...models.weights import fingerprint
from ...probe.engine import about_model
from ...probe.errors import OptionError
from ...probe.results import SaliencyMap, replaceable, write
from ...probe.sites import Site
from ..datasets import Recall
from ..explanation import Curve, FigureRow, MixerFigure, Table, render_figures
from ..html import joined, or_dash, percent, plural, significant_or_zero, three_digits
from .measures import ModelRecall, recalled

Found = dict[str, list[ModelRecall]]
_PATCHING = (
    "Patched: what the last mixer reads at the value's place is replaced by what it reads there in "
    "the same sequence with another value."
)


def recall_report(
    models: Mapping[str, nn.Module],
    recall: Recall | Sequence[Recall],
    path: str | Path,
    *,
    examples: int = 32,
    seed: int = 0,
    force: bool = False,
) -> Path:
    """Write the page of trained models by name; its path.

    recall    a set from `limelight.mqar`, or several, as of different numbers of pairs
    examples  sequences of each set whose maps are read and patched
    seed      of the values that patching puts in
    force     also over a file that was not written here
    Raises OptionError for no model, no set, a vocabulary that is too small, another ending than
    .html, and a file that is to stay; what a model refuses, such as more tokens than it takes, it
    says itself.

    Example:
        >>> recall = ll.mqar(vocab_size=64, num_examples=2, input_seq_len=32, num_kv_pairs=4)
        >>> sizes = {"vocab_size": 64, "d_model": 16, "n_layers": 2, "max_position_embeddings": 32}
        >>> model = ll.load("zoology_attention", weights=None, **sizes)
        >>> ll.recall_report({"attention": model}, recall, "recall.html", examples=2).name
        'recall.html'
    """
    target = Path(path).expanduser()
    sets = [recall] if isinstance(recall, Recall) else list(recall)
    if not models or not sets or examples < 1:
        raise OptionError("a page of recall needs one model, one set and one example or more")
    if target.suffix.lower() not in (".html", ".htm"):
        raise OptionError(f"{target.name!r} is to be an HTML page: choose the ending .html")
    replaceable(target, force)
    found = {
        name: [recalled(model, one, examples=examples, seed=seed) for one in sets]
        for name, model in models.items()
    }
    return write(target, render_recall(models, sets, found, examples, seed).encode("utf-8"))


def render_recall(
    models: Mapping[str, nn.Module],
    sets: Sequence[Recall],
    found: Found,
    examples: int,
    seed: int,
) -> str:
    """The page as text, to be written as UTF-8."""
    asked = "; ".join(_words(one) for one in sets)
    abouts = {name: about_model(model, seed) for name, model in models.items()}
    versions = next(iter(abouts.values())).versions
    return render_figures(
        f"What {joined(list(models)) if len(models) < 5 else plural(len(models), 'model')} recall"
        f"{'s' if len(models) == 1 else ''}",
        f"Keys and values, then the keys again: which value followed? {asked}.",
        [_table(sets, found), _pointing(found)],
        _figures(sets, found),
        {
            "Models": [
                f"{name}: {abouts[name].model}, {fingerprint(models[name])}" for name in models
            ],
            "Examples": [f"maps and patching on the first {examples} sequences of each set"],
            "Seed": [str(seed)],
            "Versions": [f"{name} {number}" for name, number in versions],
            "Notes": _notes(found),
        },
    )


def _words(recall: Recall) -> str:
    pairs = plural(recall.num_kv_pairs, "pair")
    return f"{len(recall)} sequences of {recall.input_seq_len} tokens with {pairs}"


def _notes(found: Found) -> list[str]:
    reasons = {
        name: next((f.why_not for f in each if f.why_not), "") for name, each in found.items()
    }
    return [f"{name} has no map: {reason}" for name, reason in reasons.items() if reason]


def _table(sets: Sequence[Recall], found: Found) -> Table:
    """Recall of each set beside the state."""
    alike = len({one.input_seq_len for one in sets}) == 1
    heads = [
        f"{plural(one.num_kv_pairs, 'pair')}{'' if alike else f', {one.input_seq_len} tokens'}"
        for one in sets
    ]
    rows = []
    for name, each in found.items():
        states = list(dict.fromkeys(or_dash(one.state, _bytes) for one in each))
        shares = [percent(one.accuracy) for one in each]
        rows.append((name, f"{each[0].parameters:,}", ", ".join(states), *shares))
    about = (
        "The share of queries whose likeliest next token is the value; the state is what a model "
        "says it keeps of a sequence, in float32."
    )
    return Table("Recall", ("model", "parameters", "state", *heads), tuple(rows), about)


def _bytes(count: float) -> str:
    return f"{count:,.0f} B" if count < 1e4 else f"{count / 1024:,.0f} KiB"


def _pointing(found: Found) -> Table:
    """Does the map point where the effect is?"""
    rows = []
    for name, each in found.items():
        looked = each[0].rows
        if looked is None:
            rows.append((name, *["–"] * 5))
            continue
        masses = looked.mass, looked.patched_mass, looked.other_mass
        means = [three_digits(float(m.mean())) for m in masses]
        effect = significant_or_zero(float(looked.effect.mean()))
        rows.append((name, *means, effect, or_dash(looked.agreement, three_digits)))
    head = (
        "model", "mass on the value", "once patched", "on another place", "effect, nats", "rank",
    )  # fmt: skip
    about = (
        "Shares of the last map's rows at queries, in the first set. Effect: what patching takes "
        "of the value's log-probability. Rank: correlation of mass and effect over queries. "
        f"{_PATCHING}"
    )
    return Table("Does the map point where the effect is?", head, tuple(rows), about)


def _figures(sets: Sequence[Recall], found: Found) -> list[MixerFigure]:
    figures = [_by_gap(found)]
    if len({one.num_kv_pairs for one in sets}) > 1:
        figures.append(_by_pairs(sets, found))
    rows = [row for name, each in found.items() for row in _rows(name, each[0])]
    if rows:
        about = (
            "The first sequence of the first set: a row for each query, in the order of the pairs, "
            f"over all tokens; and where the values lie. {_PATCHING}"
        )
        figures.append(MixerFigure("Where queries look", about, (_truth(sets[0]), *rows)))
    return figures


def _by_gap(found: Found) -> MixerFigure:
    curves = []
    for name, each in found.items():
        slices = each[0].by_gap
        x = torch.tensor([float(low) for low, _ in slices]).log2()
        curves.append(Curve(name, x, torch.tensor(list(slices.values()))))
    row = FigureRow("", curves=tuple(curves), x="gap from, in tokens, log2", y="recall")
    about = "Queries by the tokens between the value and where it is asked for, in the first set."
    return MixerFigure("Recall by gap", about, (row,))


def _by_pairs(sets: Sequence[Recall], found: Found) -> MixerFigure:
    order = sorted(range(len(sets)), key=lambda i: sets[i].num_kv_pairs)
    x = torch.tensor([float(sets[i].num_kv_pairs) for i in order])
    curves = [
        Curve(name, x, torch.tensor([each[i].accuracy for i in order]))
        for name, each in found.items()
    ]
    row = FigureRow("", curves=tuple(curves), x="pairs", y="recall")
    about = "All queries of each set, by its number of pairs."
    return MixerFigure("Recall by pairs", about, (row,))


def _truth(recall: Recall) -> FigureRow:
    where = torch.zeros(recall.num_kv_pairs, recall.input_seq_len)
    where[torch.arange(recall.num_kv_pairs), recall.values] = 1
    return FigureRow("the values", (("", _strip(where, "values")),), ends=(0.0, 1.0))


def _rows(name: str, found: ModelRecall) -> list[FigureRow]:
    looked = found.rows
    if looked is None:
        return []
    both = {
        "as given": (looked.given, looked.mass),
        "patched": (looked.patched, looked.patched_mass),
    }
    return [
        FigureRow(
            f"{name}, {words}",
            ((f"mass on the value, by query: {_listed(mass[0])}", _strip(rows[0], words)),),
            ends=(0.0, 1.0),
        )
        for words, (rows, mass) in both.items()
    ]


def _listed(mass: Tensor) -> str:
    return ", ".join(f"{float(m):.2f}" for m in mass)


def _strip(rows: Tensor, what: str) -> SaliencyMap:
    return SaliencyMap(rows.detach().float(), "row column", "", "any", what, Site("", "map"))
