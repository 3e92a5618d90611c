"""Convolution by kernels of every pixel, tile by tile: the weights as a matrix over a box."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt
from typing import Any, cast

import torch
from torch import Tensor

from ..shared import transformed, wide

_SIDE = 8  # pixels of a tile along an axis
Grid = tuple[int, int]


def window_starts(length: int, size: int, device: torch.device | None = None) -> Tensor:
    """The first place of every place's window along an axis: clamp(i - k // 2, 0, L - k)."""
    return (torch.arange(length, device=device) - size // 2).clamp(0, length - size)


def kernel_size(weight: Tensor) -> int:
    """The side of the window whose taps lie along the last axis."""
    return isqrt(weight.shape[-1])


@dataclass(frozen=True, eq=False)
class Tile:
    """Rows and columns of a tile, of the box that its windows see, and of each tap in the box."""

    own: tuple[slice, slice]
    box: tuple[slice, slice]
    at: tuple[Tensor, Tensor]

    def taps(self, heads: tuple[int, ...]) -> Tensor:
        """For each pixel the places of its window in the box, `b g p k2`; made when asked for."""
        rows, columns = self.at
        places = rows[:, None, :, None] * _sides(self.box)[1] + columns[None, :, None, :]
        return places.flatten(2).flatten(0, 1).expand(*heads, -1, -1)

    def of(self, x: Tensor) -> Tensor:
        """The tile's pixels of `b g y x c`, `b g p c`."""
        return x[:, :, *self.own].flatten(2, 3)

    def seen(self, picture: Tensor) -> Tensor:
        """The pixels of the box, `b g q e`."""
        return wide(picture[:, :, *self.box].flatten(2, 3))

    def matrix(self, weights: Tensor, like: Tensor) -> Tensor:
        """The weights of the tile over the pixels of the box, `b g p q`, to mix `like`."""
        shares = self.of(weights).to(like.dtype)
        nothing = shares.new_zeros(()).expand(*shares.shape[:3], like.shape[2])
        return nothing.scatter(3, self.taps(shares.shape[:2]), shares)


def tiles(grid: Grid, size: int, device: torch.device) -> list[list[Tile]]:
    """The tiles of a grid, row by row."""
    rows, columns = (_along(side, size, device) for side in grid)
    return [
        [Tile((y, x), (box_y, box_x), (at_y, at_x)) for x, box_x, at_x in columns]
        for y, box_y, at_y in rows
    ]


def _along(length: int, size: int, device: torch.device) -> list[tuple[slice, slice, Tensor]]:
    """Along an axis: places of a tile, those its windows see, and the taps of each among these."""
    starts, parts = window_starts(length, size, device), []
    for first in range(0, length, _SIDE):
        last = min(first + _SIDE, length)
        low, high = (min(max(at - size // 2, 0), length - size) for at in (first, last - 1))
        own = starts[first:last, None] - low
        taps = own + torch.arange(size, device=device)
        parts.append((slice(first, last), slice(low, high + size), taps))
    return parts


def mixed(v: Tensor, weight: Tensor, grid: Grid) -> Tensor:
    """One kernel, `b g n e` and `b g n k2` -> `b g n e`; its graph keeps the arguments alone."""
    plain = torch.compiler.is_compiling() or transformed() or not torch.is_grad_enabled()
    if plain or not (v.requires_grad or weight.requires_grad):
        return _by_tiles(v, weight, grid)
    return cast(Callable[..., Tensor], _MixedByTiles.apply)(v, weight, grid)


def _by_tiles(v: Tensor, weight: Tensor, grid: Grid) -> Tensor:
    picture, weights = torch.unflatten(v, 2, grid), torch.unflatten(weight, 2, grid)
    lines = []
    for row in tiles(grid, kernel_size(weight), v.device):
        line = []
        for tile in row:
            box = tile.seen(picture)
            out = (tile.matrix(weights, box) @ box).to(v.dtype)
            line.append(torch.unflatten(out, 2, _sides(tile.own)))
        lines.append(torch.cat(line, 3))
    return torch.cat(lines, 2).flatten(2, 3)


def _sides(places: tuple[slice, slice]) -> Grid:
    return places[0].stop - places[0].start, places[1].stop - places[1].start


class _MixedByTiles(torch.autograd.Function):
    """The tiles, made anew in the first backward; a second order goes through their graph."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, weight: Tensor, grid: Grid) -> Tensor:
        ctx.save_for_backward(v, weight)
        ctx.grid = grid
        return _by_tiles(v, weight, grid)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        v, weight = ctx.saved_tensors
        needs = ctx.needs_input_grad[:2]
        if not torch.is_grad_enabled():
            return (*_slopes(grads[0], v, weight, ctx.grid, *needs), None)
        leaves = [v.view_as(v), weight.view_as(weight)]  # apart even where both are one tensor
        wanted = [x for x, needed in zip(leaves, needs, strict=True) if needed]
        out = _by_tiles(leaves[0], leaves[1], ctx.grid)
        slopes = iter(torch.autograd.grad(out, wanted, grads[0], create_graph=True))
        return (*(next(slopes) if needed else None for needed in needs), None)


def _slopes(
    g: Tensor, v: Tensor, weight: Tensor, grid: Grid, by_v: bool, by_weight: bool
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of both, tile by tile: a box gathers, the weights of a pixel are products."""
    back, picture, weights = (torch.unflatten(x, 2, grid) for x in (g, v, weight))
    to_v = torch.zeros_like(wide(picture)) if by_v else None
    to_weight = torch.empty_like(weights) if by_weight else None
    for tile in [tile for row in tiles(grid, kernel_size(weight), v.device) for tile in row]:
        box, part = tile.seen(picture), wide(tile.of(back))
        if to_v is not None:
            sums = tile.matrix(weights, box).mT @ part
            to_v[:, :, *tile.box] += torch.unflatten(sums, 2, _sides(tile.box))
        if to_weight is not None:
            taps = tile.taps(part.shape[:2])
            slope = (part @ box.mT).gather(3, taps).to(weight.dtype)
            to_weight[:, :, *tile.own] = torch.unflatten(slope, 2, _sides(tile.own))
    return (
        None if to_v is None else to_v.flatten(2, 3).to(v.dtype),
        None if to_weight is None else to_weight.flatten(2, 3),
    )
