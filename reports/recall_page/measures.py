"""What models recall, where their last map looks from a query, and what patching there does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ...methods.metrics import spearman
from ...probe.attribution import heads_of, watched
from ...probe.capture import guarded
from ...probe.engine import chunks, trace
from ...probe.errors import LimelightError, OptionError
from ...probe.probe import Probe
from ...probe.sites import Site
from ...probe.trace import Edit
from ..datasets import Recall

_ROWS, _SEQUENCES, _AT_ONCE = 16, 32, 256
Gap = tuple[int, int]


@dataclass(frozen=True, eq=False)
class QueryRows:
    """The last map in the rows of queries, `b k`, before and after patching each query's value.

    Patching: what the last mixer reads at the value's place is what it reads there in the same
    sequence with another value. Rows are |map|, the mean of heads or channels, as shares of their
    sum: `b k n`.

    given, patched   rows
    mass             share at the value's place in a row as given; patched_mass after patching
    other_mass       share at a place drawn from those before the query that are not the value's
    effect           log-probability of the right value that patching takes
    """

    given: Tensor
    patched: Tensor
    mass: Tensor
    patched_mass: Tensor
    other_mass: Tensor
    effect: Tensor

    @property
    def agreement(self) -> float:
        """Rank correlation of mass and effect over all queries; nan where one is constant."""
        return float(spearman(self.mass.reshape(1, -1), self.effect.reshape(1, -1)))


@dataclass(frozen=True, eq=False)
class ModelRecall:
    """What one model recalls of one set: the share of queries answered.

    by_gap   for gaps from one number of tokens to before another
    state    bytes that the model says it keeps of a sequence of this length; None where it says
             nothing
    rows     None where the model has no map
    why_not  the reason for that
    """

    parameters: int
    state: int | None
    accuracy: float
    by_gap: Mapping[Gap, float]
    rows: QueryRows | None = None
    why_not: str = ""


def recalled(
    model: nn.Module, recall: Recall, *, examples: int = _SEQUENCES, seed: int = 0
) -> ModelRecall:
    """Ask a model all queries, and look at its last map for those of the first `examples`.

    seed   of the other values and places. Raises OptionError for a vocabulary that is too small.
    """
    logits = _answers(model, recall)
    asked, size = _first(recall, examples), getattr(model, "state_size", None)
    by_gap = recall.accuracy_by_gap(logits, gap_edges(recall))
    state = size(recall.input_seq_len) if callable(size) else None
    count = sum(p.numel() for p in model.parameters())
    known = ModelRecall(count, state, recall.accuracy(logits), by_gap)
    try:
        return replace(known, rows=query_rows(model, asked, seed=seed))
    except LimelightError as error:
        return replace(known, why_not=str(error))


def gap_edges(recall: Recall) -> list[int]:
    """Powers of two, up to past the longest gap."""
    edges = [1]
    while edges[-1] <= int(recall.gaps.max()):
        edges.append(2 * edges[-1])
    return edges


def query_rows(model: nn.Module, recall: Recall, *, seed: int = 0) -> QueryRows:
    """The rows of all queries before and after patching. Raises SiteError without a map."""
    draw = torch.Generator().manual_seed(seed)
    values, queries = recall.values.expand(len(recall), -1), recall.queries
    path, rows, logits = _looked(model, recall.inputs, {})
    given, clean = _at_queries(rows, queries), _log_probability(logits, recall)
    patched, effect = torch.zeros_like(given), torch.zeros_like(clean)
    for pair in range(recall.num_kv_pairs):
        theirs = trace(model, _other_value(recall, pair, draw), f"{path}:in")[f"{path}:in"].act
        edits = {f"{path}:in": _patch(theirs, int(recall.values[pair]))}
        _, after, answers = _looked(model, recall.inputs, edits)
        patched[:, pair] = _at_queries(after, queries)[:, pair]
        effect[:, pair] = (clean - _log_probability(answers, recall))[:, pair]
    others = (torch.rand(queries.shape, generator=draw) * (queries - 1)).long()
    others = others + (others >= values).long()
    mass, after_mass, elsewhere = (
        of.gather(2, place[..., None])[..., 0]
        for of, place in ((given, values), (patched, values), (given, others))
    )
    return QueryRows(given, patched, mass, after_mass, elsewhere, effect)


def _looked(model: nn.Module, ids: Tensor, edits: Mapping[str, Edit]) -> tuple[str, Tensor, Tensor]:
    """The path of the last mixer, its |map| over all heads `b n n`, and the logits."""
    with Probe(model, grad=False) as probe:
        patterns = watched(probe, ["heads"])
        logits = probe.edit(edits)(ids)
        last = heads_of(probe, patterns, None)[-1]
        n = last.shape[2]
        parts = [last.rows(part).abs().sum(1).cpu() for part in _parts(n, _ROWS)]
    return last.site.path, torch.cat(parts, 1), logits


def _at_queries(rows: Tensor, queries: Tensor) -> Tensor:
    """Shares of the rows of the queries, `b k n`."""
    found = rows.gather(1, queries[..., None].expand(-1, -1, rows.shape[-1])).float()
    return found / found.sum(-1, keepdim=True).clamp_min(1e-30)


def _patch(theirs: Tensor, at: int) -> Edit:
    """What a mixer reads, `b n c`, with what it read of others at one place."""

    def patched(value: Tensor, site: Site) -> Tensor:
        value = value.clone()
        value[:, at] = theirs[:, at].to(value)
        return value

    return patched


def _other_value(recall: Recall, pair: int, draw: torch.Generator) -> Tensor:
    """The sequences with another value at one pair, drawn among all values that the set holds."""
    place = int(recall.values[pair])
    own = recall.inputs[:, place].contiguous()
    known = recall.inputs[:, recall.values].unique()
    if len(known) < 2:
        raise OptionError("every value of this set is the same: give a set with several")
    step = torch.randint(1, len(known), own.shape, generator=draw)
    changed = recall.inputs.clone()
    changed[:, place] = known[(torch.searchsorted(known, own) + step) % len(known)]
    return changed


def _log_probability(logits: Tensor, recall: Recall) -> Tensor:
    """Of the right values at the queries, `b k`."""
    labels = recall.labels.gather(1, recall.queries)
    places = recall.queries[..., None].expand(-1, -1, logits.shape[-1])
    found = logits.detach().float().cpu().gather(1, places).log_softmax(-1)
    return found.gather(2, labels[..., None])[..., 0]


@torch.no_grad()
def _answers(model: nn.Module, recall: Recall) -> Tensor:
    """The logits of all sequences. Raises OptionError for a vocabulary that is too small."""
    most = int(max(recall.inputs.max(), recall.labels.max()))
    words = [m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)][:1]
    if words and words[0] <= most:
        raise OptionError(
            f"the set holds token {most}, but the model's vocabulary has {words[0]} tokens: build "
            f"it with vocab_size={most + 1} or more"
        )
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with guarded(model, grad=False, evaluate=True):
        parts = [
            model(recall.inputs[part].to(device)).cpu() for part in _parts(len(recall), _AT_ONCE)
        ]
    return torch.cat(parts)


def _parts(count: int, most: int) -> list[slice]:
    return [slice(part.start, part.stop) for part in chunks(count, most)]


def _first(recall: Recall, count: int) -> Recall:
    return replace(
        recall,
        inputs=recall.inputs[:count],
        labels=recall.labels[:count],
        queries=recall.queries[:count],
    )
