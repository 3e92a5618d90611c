"""Occlusion: how far the score falls when a window of the input is covered."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...probe.attribution import pass_method
from ...probe.errors import MethodError, OptionError
from ..gradients import Baseline, reference

Window = tuple[slice, slice]


@pass_method("occlusion")
def occlusion(
    runner: Any,
    x: Tensor,
    target: Any,
    *,
    window: int = 16,
    stride: int = 8,
    baseline: Baseline = "zero",
    batch: int = 64,
) -> Tensor:
    """Per pixel, the mean fall of the score over the windows that cover it; signed.

    Windows are square, of `window` pixels, each `stride` from the last, cut at the border.
    Source: Zeiler, Fergus, arXiv 1311.2901, section 4.2.
    """
    if not 1 <= stride <= window or batch < 1:
        raise OptionError(
            f"occlusion takes 1 <= stride <= window and batch of 1 or more, not stride={stride}, "
            f"window={window}, batch={batch}"
        )
    want_pictures("occlusion", x)
    places = windows(x.shape[-2], x.shape[-1], window, stride)
    whole = runner.scores(x, target)
    rows = [
        _sample(runner, x[i], target.take([i]), whole[i], places, baseline, batch)
        for i in range(len(x))
    ]
    return torch.stack(rows)


def want_pictures(method: str, x: Tensor) -> None:
    """Raise MethodError unless the input is `b c y x`."""
    if x.ndim != 4:
        raise MethodError(
            f"{method} covers parts of pictures b c y x, but the input is {tuple(x.shape)}; "
            "choose a gradient method"
        )


def windows(height: int, width: int, window: int, stride: int) -> list[Window]:
    """Where the windows lie: as few as cover every pixel, row by row."""
    tops = range(0, max(height - window, 0) + stride, stride)
    lefts = range(0, max(width - window, 0) + stride, stride)
    return [
        (slice(y, y + window), slice(s, s + window))
        for y in tops
        for s in lefts
        if y < height and s < width
    ]


def _sample(
    runner: Any,
    x: Tensor,
    target: Any,
    whole: Tensor,
    places: list[Window],
    baseline: Baseline,
    batch: int,
) -> Tensor:
    fallen, seen = torch.zeros(x.shape[-2:]).to(x), torch.zeros(x.shape[-2:]).to(x)
    blank = reference(x, baseline)
    for start in range(0, len(places), batch):
        some = places[start : start + batch]
        covered = x.repeat(len(some), 1, 1, 1)
        for k, (rows, columns) in enumerate(some):
            covered[k, :, rows, columns] = blank[:, rows, columns]
        drops = whole - runner.scores(covered, target.take([0] * len(some)))
        for drop, (rows, columns) in zip(drops, some, strict=True):
            fallen[rows, columns] += drop
            seen[rows, columns] += 1
    return fallen / seen
