"""Outlook attention (arXiv 2106.13112): each place predicts how its neighbourhood mixes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import KernelError
from ..kernel import kernel
from ..shared import wide


def outlook_map(
    rows: slice,
    v: Tensor,
    weight: Tensor,
    grid: tuple[int, int],
    kernel_size: int = 3,
    stride: int = 1,
    padding: int = 1,
) -> Tensor:
    """M[i, j] = the sum of softmax(weight)[l, p, s] over windows l whose places p, s are i, j."""
    count = grid[0] * grid[1]
    tokens = window_tokens(grid, kernel_size, stride, padding).to(v.device)  # l k2
    places = torch.arange(count, device=v.device)[rows]
    row_of = torch.full((count + 1,), -1, device=v.device)
    row_of[places] = torch.arange(len(places), device=v.device)
    at = row_of[tokens]  # -1: not among the rows; the token -1 is the last entry
    window, place = (at >= 0).nonzero(as_tuple=True)
    shares = wide(weight)[:, :, window, place].softmax(-1)  # b h pairs k2
    columns = tokens[window] % (count + 1)
    index = at[window, place][:, None] * (count + 1) + columns
    sums = shares.new_zeros(*shares.shape[:2], len(places) * (count + 1))
    sums = sums.index_add(2, index.flatten(), shares.flatten(2))
    return torch.unflatten(sums, 2, (len(places), count + 1))[..., :-1]


@kernel("outlook", share=("v",), hold=("weight",), mixing=outlook_map, fast="triton_op")
def outlook(
    v: Tensor,
    weight: Tensor,
    *,
    grid: tuple[int, int],
    kernel_size: int = 3,
    stride: int = 1,
    padding: int = 1,
) -> Tensor:
    """fold(softmax(weight) unfold(v)).

    v: b h n e, tokens of `grid` in raster order; weight: b h l k2 k2, for each of l windows the
    scores of its k2 places (rows) for its k2 sources (columns), scaled -> b h n e.
    Windows overlap and add up; sources outside the grid are zeros that take part.
    Raises KernelError for shapes that do not fit.
    """
    check(v, weight, grid, kernel_size, stride, padding)
    b, h, n, e = v.shape
    how = {"kernel_size": kernel_size, "padding": padding, "stride": stride}
    picture = wide(v).transpose(2, 3).reshape(b, h * e, *grid)
    parts = torch.unflatten(F.unfold(picture, **how), 1, (h, e, kernel_size**2))
    parts = parts.permute(0, 1, 4, 3, 2)
    mixed = wide(weight).softmax(-1).to(parts.dtype) @ parts  # b h l k2 e
    flat = mixed.permute(0, 1, 4, 3, 2).flatten(1, 3)
    return F.fold(flat, grid, **how).reshape(b, h, e, n).transpose(2, 3).to(v.dtype)


def windows(grid: tuple[int, int], kernel_size: int, stride: int, padding: int) -> tuple[int, int]:
    """Rows and columns of windows."""
    y, x = ((side + 2 * padding - kernel_size) // stride + 1 for side in grid)
    return y, x


def window_tokens(grid: tuple[int, int], kernel_size: int, stride: int, padding: int) -> Tensor:
    """The token at each place of each window, `l k2`; -1 outside the grid."""
    axes = []
    for side, count in zip(grid, windows(grid, kernel_size, stride, padding), strict=True):
        start = torch.arange(count)[:, None] * stride - padding
        axes.append((start + torch.arange(kernel_size), side))
    (rows, height), (columns, width) = axes
    row, column = rows[:, None, :, None], columns[None, :, None, :]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return torch.where(inside, row * width + column, -1).flatten(2).flatten(0, 1)


def check(
    v: Tensor, weight: Tensor, grid: tuple[int, int], kernel_size: int, stride: int, padding: int
) -> None:
    """Raise KernelError for options or shapes that do not fit."""
    if len(grid) != 2 or min(*grid, kernel_size, stride) < 1 or padding < 0:
        raise KernelError(
            f"outlook got grid={grid}, kernel_size={kernel_size}, stride={stride}, "
            f"padding={padding}: give rows and columns, and no number below 1 but padding=0"
        )
    y, x = windows(grid, kernel_size, stride, padding)
    if min(y, x) < 1:
        raise KernelError(
            f"outlook's kernel of {kernel_size} does not fit into a grid of {grid[0]} x {grid[1]} "
            f"padded by {padding}: give a smaller kernel_size or a larger padding"
        )
    want = (*v.shape[:2], y * x, kernel_size**2, kernel_size**2)
    if v.ndim != 4 or v.shape[2] != grid[0] * grid[1] or tuple(weight.shape) != want:
        raise KernelError(
            f"outlook over a grid of {grid[0]} x {grid[1]} takes v b h {grid[0] * grid[1]} e and "
            f"weight {want}, not v {tuple(v.shape)} and weight {tuple(weight.shape)}: the weight "
            f"holds {kernel_size**2} x {kernel_size**2} scores for each of {y} x {x} windows"
        )
