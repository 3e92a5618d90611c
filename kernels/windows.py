"""Which tokens attend to which in windows, by index arithmetic: tiles, dilated grids, halos."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .errors import KernelError

Pair = tuple[int, int]
CPU = torch.device("cpu")
MOST_TABLES = 64  # windows and devices that are remembered


@dataclass(frozen=True)
class Window:
    """A partition of queries on a grid of tokens, and the keys that each part sees.

    block   tiles of `size`, each sees itself
    grid    `size` cells spread evenly: tokens at one offset within cells of grid / size see
            each other (MaxViT)
    halo    tiles of `size` see `halo` more keys on each side; keys outside the grid are zeros
            that take part (HaloNet). With a stride, queries lie on the grid / stride.
    grid    rows and columns of the keys, in raster order
    """

    kind: Literal["block", "grid", "halo"]
    size: Pair
    grid: Pair
    halo: int = 0
    stride: int = 1

    def __post_init__(self) -> None:
        if self.kind not in ("block", "grid", "halo"):
            raise KernelError(f"a window is 'block', 'grid' or 'halo', not {self.kind!r}")
        bad = [f"{g} by {s}" for g, s in zip(self.grid, self.size, strict=True) if g % s]
        if bad or min(self.size) < 1:
            raise KernelError(
                f"a grid of {self.grid[0]} x {self.grid[1]} tokens does not divide into windows "
                f"of {self.size[0]} x {self.size[1]}: give a grid of multiples"
            )
        if self.kind != "halo" and (self.halo or self.stride != 1):
            raise KernelError(f"only halo windows take halo and stride, not {self.kind!r} ones")
        if self.stride < 1 or any(s % self.stride for s in self.size):
            raise KernelError(
                f"a stride of {self.stride} does not divide tiles of "
                f"{self.size[0]} x {self.size[1]}: give a divisor"
            )

    @property
    def query_grid(self) -> Pair:
        return self.grid[0] // self.stride, self.grid[1] // self.stride

    @property
    def query_size(self) -> Pair:
        """Rows and columns of queries in one window."""
        return self.size[0] // self.stride, self.size[1] // self.stride

    @property
    def key_size(self) -> Pair:
        """Rows and columns of keys that one window sees."""
        return self.size[0] + 2 * self.halo, self.size[1] + 2 * self.halo

    def query_index(self, device: torch.device = CPU) -> Tensor:
        """The query tokens of each window, `w q`."""
        return _tables(self, device)[0]

    def key_index(self, device: torch.device = CPU) -> Tensor:
        """The key tokens of each window, `w k`; -1 where it sees zeros."""
        return _tables(self, device)[1]

    def place(self, device: torch.device = CPU) -> tuple[Tensor, Tensor]:
        """The window of each query and its number in there, both `n`."""
        return _tables(self, device)[2:]


Tables = tuple[Tensor, Tensor, Tensor, Tensor]
_kept: dict[tuple[Window, torch.device], Tables] = {}


def _tables(window: Window, device: torch.device) -> Tables:
    """The tables of a window, made once a device; a compiled graph makes its own."""
    if torch.compiler.is_compiling():
        return _make(window, device)
    tables = _kept.get((window, device))
    if tables is None:
        with torch.inference_mode(False):  # whoever comes first, later ones may want gradients
            tables = _make(window, device)
        if all(type(table) is Tensor for table in tables):  # no fake ones
            if len(_kept) >= MOST_TABLES:
                _kept.pop(next(iter(_kept)), None)  # the oldest
            _kept[window, device] = tables
    return tables


def _make(window: Window, device: torch.device) -> Tables:
    queries = _tokens(window, window.query_grid, window.query_size, 0)
    keys = _tokens(window, window.grid, window.size, window.halo)
    at = torch.empty(2, queries.numel(), dtype=torch.long, device="cpu")
    numbers = _count(0, queries.numel())
    at[0, queries.flatten()] = numbers // queries.shape[1]
    at[1, queries.flatten()] = numbers % queries.shape[1]
    return queries.to(device), keys.to(device), at[0].to(device), at[1].to(device)


def _tokens(window: Window, grid: Pair, size: Pair, halo: int) -> Tensor:
    """Token numbers by window and place in it; -1 outside the grid."""
    axes = []
    for length, side in zip(grid, size, strict=True):
        count = length // side
        if window.kind == "grid":  # cell by cell, `count` apart
            along = _count(0, side) * count + _count(0, count)[:, None]
        else:
            along = _count(-halo, side + halo) + side * _count(0, count)[:, None]
        axes.append(along)
    rows, columns = axes
    row = rows[:, None, :, None].expand(-1, len(columns), -1, columns.shape[1])
    column = columns[None, :, None, :].expand(len(rows), -1, rows.shape[1], -1)
    inside = (row >= 0) & (row < grid[0]) & (column >= 0) & (column < grid[1])
    tokens = torch.where(inside, row * grid[1] + column, -1)
    return tokens.reshape(len(rows) * len(columns), -1)


def _count(start: int, stop: int) -> Tensor:
    return torch.arange(start, stop, device="cpu")  # also while a model is built on "meta"
