"""Scores from gradients: what replacing a head's output would do to the metric, to first order."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ....probe.attribution import Count
from ....probe.probe import Probe
from ....probe.sites import Site, parse
from ....probe.trace import Edit
from ..evidence import Evidence, feed
from ..score import Score, circuit_method, from_pairs


def effects(evidence: Evidence, slope: Tensor, change: Tensor) -> Tensor:
    """Sum over the positions of a pair of slope . change: `t h d` twice, to `p h`."""
    return evidence.sum_pairs((slope * change).sum(-1))


@circuit_method("attribution", needs=("activations", "gradient"))
def attribution(evidence: Evidence, *, steps: Count = 1) -> Score:
    """Attribution patching: gradient . (corrupt z - clean z), summed over positions.

    |mean over pairs|; the sign in `signed` says whether the corrupt output raises the metric. To
    first order it is the effect of resample ablation, from two forwards and one backward.
    steps > 1 takes the mean gradient at that many points between corrupt and clean input of the
    first layer (the first, at the clean input, is the one of steps=1), as EAP-IG does
    (arXiv 2403.17806). Source: Nanda 2023; Syed and others 2023, arXiv 2310.10348.
    """
    change = evidence.corrupt.z - evidence.clean.z
    return from_pairs(effects(evidence, slope(evidence, steps), change))


def slope(evidence: Evidence, steps: int = 1) -> Tensor:
    """The mean gradient over inputs clean + k / steps (corrupt - clean), k < steps: `t h d`."""
    if steps == 1:
        return evidence.gradient
    return evidence.keep(("slope", steps), lambda: _between(evidence, steps))


def _between(evidence: Evidence, steps: int) -> Tensor:
    outputs, total = evidence.outputs, evidence.gradient.clone()
    entry = Site(parse(outputs.adapter.hidden[0]).path, "in")
    for group in evidence.pairs.batches(evidence.batch):
        start, end = (entered(evidence, entry, x) for x in (group.clean, group.corrupt))
        for k in range(1, steps):
            with Probe(evidence.model) as probe:
                probe.watch(*(o.site for o in outputs.layers))
                probe.edit({entry: placed(torch.lerp(start, end, k / steps))})
                probe(feed(evidence.model, group.clean))
                probe.backward(group.pairs.target(), retain=False)
                grad = outputs.stack(probe.trace, "grad").detach().float().cpu()
                total[evidence.rows(group.places)] += grad.flatten(0, 1)
    return total / steps


def entered(evidence: Evidence, entry: Site, x: Tensor) -> Tensor:
    """The value at a site for inputs x."""
    with Probe(evidence.model, grad=False) as probe:
        probe.watch(entry)
        probe(feed(evidence.model, x))
        return probe.trace[entry].act


def placed(new: Tensor) -> Edit:
    """Another value whose gradient still reaches what lies before."""
    return lambda value, site: value + (new.to(value) - value.detach())


@circuit_method("direct_logit", needs=("activations", "gradient"))
def direct_logit(evidence: Evidence, *, of: Literal["clean", "difference"] = "clean") -> Score:
    """Direct logit attribution: what a head writes, along the direction that the metric reads.

    result . d metric / d (output of the last layer), with the scale of the final norm held, summed
    over positions; |mean over pairs|. It sees the direct path to the output only. For models whose
    layers add to one residual stream and metrics that compare logits.
    of   "difference" takes the clean result minus the corrupt one
    """
    slope = final_slope(evidence, held=True)
    z = evidence.clean.z - evidence.corrupt.z if of == "difference" else evidence.clean.z
    pulled = torch.einsum("tm,hdm->thd", slope, evidence.outputs.weight)
    return from_pairs(effects(evidence, pulled, z))


def final_slope(evidence: Evidence, *, held: bool = False) -> Tensor:
    """d metric / d (output of the last layer) on clean inputs, `t m`; `held`: see `unnormed`."""
    x, slope = evidence.at(evidence.outputs.end)
    return unnormed(x, slope, evidence.clean.metric, evidence.pair) if held else slope


def unnormed(x: Tensor, slope: Tensor, metric: Tensor, pair: Tensor) -> Tensor:
    """The slope with the scale of a norm behind x held: `t m`.

    A norm turns x into x / s; where s follows x, the slope g has lost its part along x (and, for
    layer norm, along ones). For a metric w . x / s, w / s = g + x (metric / |x|^2) at the one
    position that is read; elsewhere, and where no norm stands (g . x is not 0), g is kept.
    """
    size = slope.norm(dim=-1, keepdim=True)
    ones = slope.sum(-1, keepdim=True).abs() < 1e-3 * size * slope.shape[-1] ** 0.5
    centred = torch.where(ones, x - x.mean(-1, keepdim=True), x)
    aligned = (slope * centred).sum(-1, keepdim=True).abs()
    length = centred.norm(dim=-1, keepdim=True).clamp(min=1e-30)
    read = torch.zeros(len(metric)).index_add_(0, pair, (size[:, 0] > 0).float())[pair][:, None]
    normed = (size > 0) & (read == 1) & (aligned < 1e-3 * size * length)
    return torch.where(normed, slope + centred * metric[pair][:, None] / length**2, slope)
