"""What lies beside a place, over one, two or three axes: blur, imputation, patches."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...probe.errors import OptionError

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def blurred(x: Tensor, side: int = 11, sigma: float = 5.0) -> Tensor:
    """A Gaussian blur of `c` and the places, zeros outside."""
    steps = torch.arange(side, dtype=x.dtype, device=x.device) - side // 2
    line = (-(steps**2) / (2 * sigma**2)).exp()
    line = line / line.sum()
    count = x.ndim - 1
    for axis in reversed(range(count)):
        shape = [side if i == axis else 1 for i in range(count)]
        x = convolve(x, line.reshape(shape))
    return x


def impute(x: Tensor, gone: Tensor, *, most: int = 2000, close: float = 1e-4) -> Tensor:
    """Missing places of `c` and the places as weighted means of their neighbours, by sweeps.

    Weights are products of 1, 2, 1 along each axis: of pixels 1/6 beside and 1/12 across.
    """
    line = torch.tensor([1.0, 2, 1], dtype=x.dtype, device=x.device)
    count = gone.ndim
    weights = reduce(lambda a, b: a[..., None] * b, [line] * count)
    weights[(1,) * count] = 0
    weights = weights / weights.sum()
    edge = convolve(torch.ones_like(x[:1]), weights)
    kept = (~gone).expand_as(x)
    every = tuple(range(1, x.ndim))
    mean = (x * kept).sum(every, keepdim=True) / kept.sum(every, keepdim=True).clamp(min=1)
    now = torch.where(gone, mean, x)
    for _ in range(most):
        new = torch.where(gone, convolve(now, weights) / edge, x)
        if float((new - now).abs().max()) < close:
            return new
        now = new
    return now


def patch_means(values: Tensor, side: int, step: int | None = None) -> Tensor:
    """Means over patches of `b` and places, side by side unless `step` apart, cut at the end."""
    count = values.ndim - 1
    pool = _of_places(_POOLS, count)
    return pool(values[:, None], (side,) * count, (step or side,) * count, ceil_mode=True)[:, 0]


def convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """Each channel of `c` and the places with one kernel of odd sides, zeros outside."""
    kernels = kernel.expand(len(x), 1, *kernel.shape)
    padding = tuple(side // 2 for side in kernel.shape)
    run = _of_places(_CONVOLUTIONS, kernel.ndim)
    return run(x[None], kernels, padding=padding, groups=len(x))[0]


def _of_places(functions: dict[int, Callable[..., Any]], count: int) -> Callable[..., Any]:
    if count not in functions:
        raise OptionError(
            f"neighbours are known along one to three axes of places, but there are {count}; "
            "choose a metric or a baseline that reads places one by one"
        )
    return functions[count]
