"""Square patches of an image pyramid as vectors with positions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Patches:
    """Vectorised patches `n d` and their centres `n 2`, in units of the longer image side."""

    values: Tensor
    at: Tensor


def resized(planes: Tensor, ratio: float) -> Tensor:
    """The planes `c y x` with both sides times a ratio, rounded; bilinear with antialias."""
    h, w = (max(1, round(ratio * n)) for n in planes.shape[1:])
    if (h, w) == planes.shape[1:]:
        return planes
    return F.interpolate(planes[None], (h, w), mode="bilinear", antialias=True)[0]


def cut(planes: Tensor, size: int, rows: Tensor, columns: Tensor, sides: Tensor) -> Patches:
    """The `size x size` patches around pixels (rows[i], columns[i]) of `c y x`, edges replicated.

    `sides` are the two sides of the full image over its longer one.
    """
    padded = F.pad(planes[None], (size // 2,) * 4, mode="replicate")[0]
    views = padded.unfold(1, size, 1).unfold(2, size, 1)
    shape = planes.new_tensor(planes.shape[1:])
    at = (torch.stack([rows, columns], 1).to(shape) + 0.5) / shape * sides
    return Patches(views[:, rows, columns].transpose(0, 1).flatten(1), at)


def grid(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of each point of a grid, row by row."""
    return rows.repeat_interleave(len(columns)), columns.repeat(len(rows))


def sides(planes: Tensor) -> Tensor:
    """Both sides of an image over the longer one."""
    lengths = planes.new_tensor(planes.shape[1:])
    return lengths / lengths.max()
