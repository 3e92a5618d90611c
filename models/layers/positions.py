"""Learned positions and biases of offsets, at other sizes than they were trained for."""

from __future__ import annotations

from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from ...probe.errors import ModelError, OptionError, WeightsError
from ..card import State, sides

GridSize = tuple[int, int]


def grid_of(img_size: int | tuple[int, int], patch: int) -> GridSize:
    """Rows and columns of patches; raises OptionError where patches do not tile the picture."""
    height, width = sides(img_size)
    if patch < 1 or height < patch or width < patch or height % patch or width % patch:
        raise OptionError(
            f"a picture of {height} x {width} does not divide into patches of {patch}: "
            f"give sides that are multiples of {patch}"
        )
    return height // patch, width // patch


def check_grid(x: Tensor, patch: int, own: GridSize, what: str) -> None:
    """Raise ModelError for pictures of another grid of patches than a model's weights are for.

    what   the weights that fix the place of every token, in the plural
    """
    height, width = x.shape[-2:]
    asked = grid_of((height, width), patch)
    if asked != tuple(own):
        rows, columns = own
        raise ModelError(
            f"a picture of {height} x {width} has {asked[0]} x {asked[1]} patches, but {what} are "
            f"those of {rows} x {columns}: give {rows * patch} x {columns * patch}, or build the "
            f"model with img_size=({height}, {width})"
        )


def square_grid(tokens: int) -> GridSize:
    """The grid of a table of `tokens` patches, which must be square."""
    side = isqrt(max(tokens, 0))
    if side < 1 or side * side != tokens:
        raise WeightsError(
            f"the file's position table has {tokens} patch positions, which make no square grid: "
            "build the model with the img_size that the file was trained for"
        )
    return side, side


def resize_positions(
    table: Tensor,
    old: GridSize,
    new: GridSize,
    *,
    prefix: int = 0,
    align_corners: bool = False,
    antialias: bool | None = None,
) -> Tensor:
    """Bicubic resize of a table `1 (prefix + y x) c`; the prefix rows are kept.

    `align_corners=False` filters as timm does, True interpolates as torchvision does, and
    `antialias=False` interpolates between pixel centres.
    """
    if old == new:
        return table
    head, patches = table[:, :prefix], table[:, prefix:]
    plane = patches.float().reshape(1, *old, -1).permute(0, 3, 1, 2)
    smooth = not align_corners if antialias is None else antialias
    plane = F.interpolate(
        plane, size=new, mode="bicubic", align_corners=align_corners, antialias=smooth
    )
    grown = plane.permute(0, 2, 3, 1).flatten(1, 2).to(table.dtype)
    return torch.cat([head, grown], 1)


def fit_positions(
    state: State,
    name: str,
    grid: GridSize,
    *,
    prefix: int = 0,
    align_corners: bool = False,
    antialias: bool | None = None,
) -> None:
    """Resize the table of that name in a file's state to a model's grid, as `resize_positions`.

    A table that is missing or fits stays. Raises WeightsError where it is of no square grid.
    """
    table = state.get(name)
    if table is None or table.ndim != 3 or table.shape[1] == prefix + grid[0] * grid[1]:
        return
    old = square_grid(table.shape[1] - prefix)
    state[name] = resize_positions(
        table, old, grid, prefix=prefix, align_corners=align_corners, antialias=antialias
    )


def resize_offsets(table: Tensor, size: tuple[int, int]) -> Tensor:
    """A table of offsets `h 2y-1 2x-1` for a window of `size`: bilinear, between pixel centres."""
    new = (2 * size[0] - 1, 2 * size[1] - 1)
    if tuple(table.shape[1:]) == new:
        return table
    wide = table if table.is_floating_point() and table.itemsize > 2 else table.float()
    return F.interpolate(wide[None], new, mode="bilinear")[0].to(table.dtype)


def offset_bias(table: Tensor) -> Tensor:
    """The bias of each query and key of a window in raster order, `h q k`.

    table   `h 2y-1 2x-1`, the middle is offset 0: bias_qk = table[key - query + (y - 1, x - 1)]
    """
    height, width = (side // 2 + 1 for side in table.shape[1:])
    planes = table.unfold(1, height, 1).unfold(2, width, 1).flip(1, 2)  # h qy qx ky kx
    return planes.flatten(3).flatten(1, 2)
