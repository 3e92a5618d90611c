"""Heads exchanged between two runs, and what the output makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...probe.errors import OptionError
from ...probe.probe import Probe
from ...probe.sites import Site
from ...probe.trace import Trace, exchange
from .evidence import Evidence, feed
from .score import Score, from_pairs
from .tasks import PairBatch

ROWS = 64  # inputs that run at a time


By = Literal["zero", "mean", "resample"]


def replacement(evidence: Evidence, by: By) -> Tensor:
    """What takes the place of z, `t h d`."""
    if by == "zero":
        return torch.zeros_like(evidence.clean.z)
    if by == "mean":
        return evidence.corrupt.z.mean(0, keepdim=True).expand_as(evidence.clean.z)
    if by == "resample":
        return evidence.corrupt.z
    raise OptionError(f"heads are exchanged for 'zero', 'mean' or 'resample', not {by!r}")


def gap(evidence: Evidence) -> float:
    """The mean metric on clean inputs minus that on corrupt ones. Raises OptionError at 0."""
    fall = float((evidence.clean.metric - evidence.corrupt.metric).mean())
    if abs(fall) < 1e-6:
        raise OptionError(
            f"effects are shares of the metric's fall from clean to corrupt inputs, but on "
            f"{evidence.pairs.name!r} it does not fall: choose a task that the model can do"
        )
    return fall


def exchanged_score(evidence: Evidence, side: str, new: Tensor, pairs: int) -> Score:
    count = min(pairs or len(evidence.pairs), len(evidence.pairs))
    base = (evidence.clean if side == "clean" else evidence.corrupt).metric[:count]
    change = each_head(evidence, side, new, count) - base[:, None]
    sign = -1 if side == "clean" else 1
    return from_pairs(sign * change / gap(evidence), facts={"pairs": count})


def each_head(evidence: Evidence, side: str, new: Tensor, count: int) -> Tensor:
    """The metric of the first pairs with each single head's z exchanged for `new`: `p h`."""
    effects = torch.zeros(count, evidence.heads)
    for group in evidence.pairs[:count].batches(max(1, ROWS // evidence.outputs.layers[0].heads)):
        blocks = Blocks(evidence, group, side)
        z = new[evidence.rows(group.places)].unflatten(0, (len(group.places), -1))
        for layer in range(len(evidence.outputs.layers)):
            span = evidence.outputs.span(layer)
            metric = blocks.patched(layer, z[:, :, span])
            effects[group.places, span] = metric.T.float().cpu()
    return effects


class Blocks:
    """One group of inputs and what every layer gave for it, so that a run can begin at any."""

    def __init__(self, evidence: Evidence, group: PairBatch, side: str) -> None:
        self.outputs = evidence.outputs
        self.model, self.group = evidence.model, group
        self.x = feed(self.model, group.clean if side == "clean" else group.corrupt)
        self._paths = list(dict.fromkeys(o.block for o in self.outputs.layers if o.block))
        self.trace = watched_calls(self.model, self.x, self._paths)

    def patched(self, layer: int, z: Tensor) -> Tensor:
        """The metric with each head of a layer exchanged in turn for z `b n h d`: `h b`."""
        output = self.outputs.layers[layer]
        heads, size = output.heads, len(self.x)

        def change(old: Tensor) -> Tensor:
            rows = old.unflatten(0, (heads, size)).clone()
            for head in range(heads):
                rows[head, :, :, head] = z[:, -rows.shape[2] :, head].to(rows)
            return rows.flatten(0, 1)

        with Probe(self.model, grad=False, whole=True) as probe:
            probe.replay(self.before(output.block, heads), output.block or None)
            probe.edit({output.site: output.edit(change)})
            result = probe(self.x.repeat(heads, *[1] * (self.x.ndim - 1)))
        with torch.no_grad():
            target = self.group.pairs.target().take(list(range(size)) * heads)
            return target(result).unflatten(0, (heads, size))

    def before(self, block: str, count: int = 1) -> dict[str, Any]:
        """What the layers before a block answer to `count` copies of the inputs."""
        paths = self._paths[: self._paths.index(block)] if block else []
        calls = self.trace.calls
        return {path: _copies(calls[path, 0].output, len(self.x), count) for path in paths}


def watched_calls(model: nn.Module, x: Tensor, paths: Sequence[str]) -> Trace:
    """The trace of x with the calls of every module at `paths`, and the output."""
    with Probe(model, grad=False, whole=True) as probe:
        probe.watch(*(Site(path) for path in paths), keep="call")
        probe(x)
        return probe.trace


def _copies(answer: Any, size: int, count: int) -> Any:
    """A layer's answer for `count` copies of the batch."""

    def more(_: str, t: Tensor) -> Tensor:
        return t.repeat(count, *[1] * (t.ndim - 1)) if t.ndim and len(t) == size else t

    return exchange(answer, more)
