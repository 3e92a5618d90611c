"""Does a proposed circuit do the task? Faithfulness, completeness and minimality, against chance.

F(S) = (m(only S) - m(none)) / (m(all) - m(none)), where m(only S) is the metric on the clean inputs
with the z of every head outside S exchanged. All but attention is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ....probe.attribution import Count, Natural, in_range
from ....probe.errors import OptionError
from ....probe.probe import Probe
from ..evidence import Evidence, feed
from ..interventions import By, replacement
from .truth import as_heads

if TYPE_CHECKING:
    from pandas import DataFrame

SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 30, 50, 80, 120, 180, 250, 400)


@dataclass(frozen=True)
class CircuitCheck:
    """What is left of the metric, as shares of its fall when all heads are exchanged.

    faithfulness   the circuit alone
    completeness   without the circuit; near 0 where nothing else does the task
    minimality     what each head of the circuit adds to it, by (layer, head)
    random         mean and standard deviation of faithfulness of random circuits that have as
                   many heads in each layer
    """

    faithfulness: float
    completeness: float
    minimality: dict[tuple[int, int], float]
    random: tuple[float, float]


@in_range
def verify(
    evidence: Evidence,
    circuit: Iterable[tuple[int, int]],
    *,
    by: By = "resample",
    draws: Count = 20,
    pairs: Natural = 0,
    seed: int = 0,
) -> CircuitCheck:
    """Faithfulness, completeness and minimality of the heads (layer, number).

    by     what stands for an exchanged head: its output on the corrupt input of the same pair, the
           mean over corrupt inputs, or zero; what is far from usual moves later norms as well
    draws  random circuits; pairs: how many pairs are run, 0 for all
    """
    places = [evidence.outputs.place(*head) for head in as_heads(circuit)]
    if not places:
        raise OptionError("a circuit of no heads was to be verified; give some (layer, head)")
    inside = torch.zeros(evidence.heads, dtype=torch.bool)
    inside[places] = True
    less = inside.repeat(len(places), 1)
    less[torch.arange(len(places)), places] = False
    chance = random_circuits(evidence, inside, draws, seed)
    shares = kept_share(evidence, torch.cat([inside[None], ~inside[None], less, chance]), by, pairs)
    whole, without, rest = shares[0].item(), shares[1].item(), shares[2:]
    drops = (whole - rest[: len(places)]).tolist()
    others = rest[len(places) :]
    names = [evidence.outputs.names[i] for i in places]
    spread = others.std(unbiased=False).item()
    return CircuitCheck(
        whole, without, dict(zip(names, drops, strict=True)), (others.mean().item(), spread)
    )


def random_circuits(evidence: Evidence, inside: Tensor, draws: int, seed: int) -> Tensor:
    """Circuits with as many heads in each layer as `inside`, `r h`."""
    generator = torch.Generator().manual_seed(seed)
    circuits = torch.zeros(draws, evidence.heads, dtype=torch.bool)
    for layer in range(len(evidence.outputs.layers)):
        span = evidence.outputs.span(layer)
        wanted = int(inside[span].sum())
        for row in circuits:
            taken = torch.randperm(span.stop - span.start, generator=generator)[:wanted]
            row[span.start + taken] = True
    return circuits


def kept_share(evidence: Evidence, kept: Tensor, by: By = "resample", pairs: int = 0) -> Tensor:
    """F of circuits given as `r h` of booleans: `r`."""
    ends = torch.tensor([[True], [False]]).expand(2, evidence.heads)
    metric = kept_metric(evidence, torch.cat([ends, kept]), by, pairs).mean(1)
    whole, none = metric[0], metric[1]
    if (whole - none).abs() < 1e-6:
        raise OptionError(
            "the metric is the same with all heads and with none, so no circuit can be judged; "
            "choose another task or by='zero'"
        )
    return (metric[2:] - none) / (whole - none)


def kept_metric(evidence: Evidence, kept: Tensor, by: By = "resample", pairs: int = 0) -> Tensor:
    """The metric on clean inputs when only some heads keep their z: `r h` to `r p`."""
    new = replacement(evidence, by)
    count = pairs or len(evidence.pairs)
    metrics = torch.zeros(len(kept), min(count, len(evidence.pairs)))
    outputs = evidence.outputs
    for group in evidence.pairs[:count].batches(evidence.batch):
        substitute = new[evidence.rows(group.places)].unflatten(0, (len(group.places), -1))
        step = max(1, 64 // len(group.places))
        for start in range(0, len(kept), step):
            part = kept[start : start + step]
            edits = {
                o.site: o.edit(_held(part[:, outputs.span(i)], substitute[:, :, outputs.span(i)]))
                for i, o in enumerate(outputs.layers)
                if not part[:, outputs.span(i)].all()
            }
            x = feed(evidence.model, group.clean)
            with Probe(evidence.model, grad=False, whole=True) as probe:
                output = probe.edit(edits)(x.repeat(len(part), *[1] * (x.ndim - 1)))
            target = group.pairs.target().take(list(range(len(x))) * len(part))
            with torch.no_grad():
                metric = target(output).unflatten(0, (len(part), -1))
            metrics[start : start + step, group.places] = metric.float().cpu()
    return metrics


def _held(kept: Tensor, new: Tensor) -> Callable[[Tensor], Tensor]:
    """Heads that are not kept, `r h`, get their new z, `b n h d`."""

    def change(z: Tensor) -> Tensor:
        rows, substitute = z.unflatten(0, (len(kept), -1)), new[:, -z.shape[1] :]
        return torch.where(
            kept[:, None, None, :, None].to(z.device), rows, substitute.to(z)
        ).flatten(0, 1)

    return change


@in_range
def curve(
    evidence: Evidence,
    ranking: Tensor,
    *,
    by: By = "resample",
    sizes: Sequence[int] = SIZES,
    pairs: Natural = 0,
    draws: Count = 5,
    seed: int = 0,
) -> DataFrame:
    """Faithfulness and completeness of the k heads that rank first, for growing k.

    ranking  one number a head, `h`
    Columns: heads, faithfulness, completeness, random (mean faithfulness of `draws` circuits of
    the same size in each layer).
    """
    import pandas

    order = ranking.argsort(descending=True)
    counts = sorted({k for k in sizes if k < evidence.heads})
    inside = torch.zeros(len(counts), evidence.heads, dtype=torch.bool)
    for row, k in zip(inside, counts, strict=True):
        row[order[:k]] = True
    chance = [random_circuits(evidence, row, draws, seed) for row in inside]
    shares = kept_share(evidence, torch.cat([inside, ~inside, *chance]), by, pairs)
    faith, rest, other = shares.split([len(counts), len(counts), len(counts) * draws])
    return pandas.DataFrame(
        {
            "heads": counts,
            "faithfulness": faith.tolist(),
            "completeness": rest.tolist(),
            "random": other.unflatten(0, (len(counts), draws)).mean(1).tolist(),
        }
    )
