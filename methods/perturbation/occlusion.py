"""Occlusion: how far the score falls when a window of the input is covered."""

from __future__ import annotations

from torch import Tensor

from ...probe.attribution import Count, pass_method
from ...probe.engine import Runner
from ...probe.targets import Target
from ..gradients import Baseline, laid_out, reference
from .copies import own_layout
from .windows import Size, window_sizes, windows


@pass_method("occlusion", perturbs=True)
def occlusion(
    runner: Runner,
    x: Tensor,
    target: Target,
    *,
    window: Size = None,
    stride: Size = None,
    baseline: Baseline = "zero",
    batch: Count = 64,
) -> Tensor:
    """Per place, the mean fall of the score over the windows that cover it; signed.

    window    one number, or one for each axis of places, `4x16x16`; cut at the borders
    stride    the step from one window to the next
    baseline  what covers: zero, the mean of each channel, or a tensor of one sample's shape
    Unless told, windows are 16 pixels a side and 8 apart; single features and single tokens; along
    other axes, and in pictures of no more than 16 x 16, 16 and 8, at most a quarter and an eighth
    of the length.
    Source: Zeiler, Fergus, arXiv 1311.2901, section 4.2.
    """
    layout = runner.layout
    sample = layout.canonical(x)[0]
    shape = sample.shape[1:]
    places = windows(shape, *window_sizes(layout.axes, shape, window, stride))
    blank = reference(sample, laid_out(baseline, layout, x))
    whole = runner.scores(x, target)
    fallen, seen = sample.new_zeros(shape), sample.new_zeros(shape)
    for start in range(0, len(places), batch):
        some = places[start : start + batch]
        covered = sample.repeat(len(some), *[1] * sample.ndim)
        for k, area in enumerate(some):
            covered[k][:, *area] = blank[:, *area]
        copies = own_layout(covered, layout, x)
        drops = whole - runner.scores(copies, target.take([0] * len(some)))
        for drop, area in zip(drops, some, strict=True):
            fallen[area] += drop
            seen[area] += 1
    return (fallen / seen)[None]
