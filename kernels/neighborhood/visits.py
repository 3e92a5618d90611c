"""The tiles of keys that a tiled kernel visits for a neighbourhood, and what it could save."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from ..errors import KernelError
from .axes import Axis

UNVISITED, PARTLY, WHOLE = 0, 1, 2


@dataclass(frozen=True)
class Visits:
    """What a tiled kernel does for a neighbourhood, and what it could save.

    dense_tiles    those of dense attention, which knows no dilation groups
    tile_speedup   tiles of dense attention over visited tiles
    flop_speedup   pairs of dense attention over visible pairs
    block_sparse   whether every visited tile is seen whole: no element is masked
    """

    visited_tiles: int
    dense_tiles: int
    tile_speedup: float
    flop_speedup: float
    sparsity: float
    block_sparse: bool


def simulate(axes: Sequence[Axis], q_tile: Sequence[int], kv_tile: Sequence[int]) -> Visits:
    """Count tiles of a kernel with these query and key tiles, axis by axis, group by group.

    Raises KernelError for tiles of another number of axes, or without a token.
    """
    _check(axes, q_tile, kv_tile)
    maps = [axis_map(*each) for each in zip(axes, q_tile, kv_tile, strict=True)]
    visited = prod(int((m != UNVISITED).sum()) for m in maps)
    dense = prod(
        -(-axis.length // rows) * -(-axis.length // columns)
        for axis, rows, columns in zip(axes, q_tile, kv_tile, strict=True)
    )
    pairs = prod(int((end - start).sum()) for start, end in (axis.windows() for axis in axes))
    tokens = prod(axis.length for axis in axes)
    whole = not any(bool((m == PARTLY).any()) for m in maps)
    return Visits(visited, dense, dense / visited, tokens**2 / pairs, 1 - pairs / tokens**2, whole)


def tile_map(axes: Sequence[Axis], q_tile: Sequence[int], kv_tile: Sequence[int]) -> Tensor:
    """Which tiles of keys each tile of queries visits, `q k` in raster order over the axes.

    0 for tiles that are left out, 1 where some pairs are masked, 2 where all are seen. Along an
    axis the tiles of a dilation group follow each other. Raises KernelError as `simulate` does.
    """
    _check(axes, q_tile, kv_tile)
    whole = torch.full((1, 1), WHOLE, dtype=torch.uint8)
    for each in zip(axes, q_tile, kv_tile, strict=True):
        along = axis_map(*each)
        joint = torch.minimum(whole[:, None, :, None], along[None, :, None, :])
        whole = joint.flatten(2).flatten(0, 1)
    return whole


def axis_map(axis: Axis, rows: int, columns: int) -> Tensor:
    """The same along one axis, with tiles of so many queries and keys."""
    start, end = axis.windows()
    groups = [
        _group_map(start[group :: axis.dilation], end[group :: axis.dilation], rows, columns)
        for group in range(axis.dilation)
    ]
    whole: Tensor = torch.block_diag(*groups)
    return whole.to(torch.uint8)


def _group_map(start: Tensor, end: Tensor, rows: int, columns: int) -> Tensor:
    """Tiles of one dilation group, whose windows grow neither shorter nor lie further back."""
    size = len(start)
    last = (torch.arange(0, size, rows) + rows - 1).clamp(max=size - 1)
    from_, to = torch.arange(0, size, columns), torch.arange(columns, size + columns, columns)
    low, high = start[::rows, None], end[last, None]
    visited = (to > low) & (from_ < high)
    whole = (from_ >= start[last, None]) & (to.clamp(max=size) <= end[::rows, None])
    return visited.to(torch.uint8) + whole


def _check(axes: Sequence[Axis], q_tile: Sequence[int], kv_tile: Sequence[int]) -> None:
    for name, tile in (("q_tile", q_tile), ("kv_tile", kv_tile)):
        if len(tile) != len(axes) or min(tile) < 1:
            raise KernelError(
                f"{name}={tuple(tile)} cannot cut {len(axes)} axes: give a positive side for each"
            )
