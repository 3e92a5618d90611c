"""Convolution by kernels that every pixel brings itself (ContMix, arXiv 2502.20087)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import KernelError
from ..kernel import kernel
from ..shared import wide
from .tiles import kernel_size, mixed, window_starts


def context_map(
    rows: slice, v: Tensor, small: Tensor, large: Tensor | None = None, *, grid: tuple[int, int]
) -> Tensor:
    """Some rows of the map, `b h r n`: the weights of a pixel at the pixels of its window."""
    parts = []
    for weight in (small,) if large is None else (small, large):
        shares = wide(weight[:, :, rows])
        tokens = _window_tokens(grid, kernel_size(weight), v.device)[rows]
        whole = shares.new_zeros(*shares.shape[:3], grid[0] * grid[1])
        parts.append(whole.scatter(3, tokens.expand(shares.shape), shares))
    return torch.cat(parts, 1)


@kernel(
    "context_convolution",
    share=("v",),
    hold=("small", "large"),
    mixing=context_map,
    fast="triton_op",
)
def context_convolution(
    v: Tensor, small: Tensor, large: Tensor | None = None, *, grid: tuple[int, int]
) -> Tensor:
    """out[i] = sum over taps of weight[i, tap] v[window(i)[tap]], the weights as they are.

    v      b h n e, pixels of `grid` in raster order -> b h n e
    small  b g n k2, for each pixel and head the weights of a k x k window, taps in raster order
    large  the same for another window, for the second half of the heads: h is 2 g, or g without it
    The window is centred on the pixel and moved into the picture at its borders: along an axis of
    L it starts at clamp(i - k // 2, 0, L - k). Windows are gathered tile by tile; their values
    are never held for all pixels. Raises KernelError for shapes that do not fit.
    """
    check(v, small, large, grid)
    if large is None:
        return mixed(v, small, grid)
    first, second = v.chunk(2, 1)
    return torch.cat([mixed(first, small, grid), mixed(second, large, grid)], 1)


def _window_tokens(grid: tuple[int, int], size: int, device: torch.device) -> Tensor:
    """The pixels of every window, `n k2`."""
    taps = torch.arange(size, device=device)
    rows, columns = (window_starts(side, size, device)[:, None] + taps for side in grid)
    tokens = rows[:, None, :, None] * grid[1] + columns[None, :, None, :]
    return tokens.flatten(2).flatten(0, 1)


def check(v: Tensor, small: Tensor, large: Tensor | None, grid: tuple[int, int]) -> None:
    """Raise KernelError for shapes that do not fit."""
    weights = {"small": small} | ({} if large is None else {"large": large})
    if len(grid) != 2 or v.ndim != 4 or v.shape[2] != grid[0] * grid[1]:
        raise KernelError(
            f"context_convolution over grid={tuple(grid)} takes v b h n e with the pixels of rows "
            f"and columns as n, not {tuple(v.shape)}: give the grid that its pixels lie on"
        )
    want = (v.shape[0], v.shape[1] // len(weights), v.shape[2])
    for name, weight in weights.items():
        if weight.ndim != 4 or tuple(weight.shape[:3]) != want or v.shape[1] % len(weights):
            raise KernelError(
                f"{name} weights {tuple(weight.shape)} do not fit v {tuple(v.shape)}: give b g n "
                f"k2 with g heads each for {len(weights)} kernels, here {want}"
            )
        size = kernel_size(weight)
        if size < 1 or size * size != weight.shape[3]:
            raise KernelError(
                f"{name} has {weight.shape[3]} weights a pixel, no k x k of them: give the "
                "weights of a square window"
            )
        if size > min(grid):
            raise KernelError(
                f"the {name} window of {size} x {size} does not lie in a picture of {grid[0]} x "
                f"{grid[1]}: give a smaller kernel or resize the picture"
            )
