"""Where an object lies on a shelf, as a vector: sinusoids of several kinds, or a fitted table."""

from __future__ import annotations

from math import ceil, log, sqrt
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....probe.errors import OptionError, near

Function = Literal["learned", "original", "exp1", "exp2", "linear", "original_update"]
_ROWS, _COLUMNS = 3, 11  # of the published tables of sinusoids; the learned ones have 11 or 14 rows
_ZERO_ROWS = 4  # below a learned table
_NORM, _OF = 8.764, 86  # of a row of the published table, and its width
_SHARPER = 15


class PositionCodes(nn.Module):
    """A fixed vector for each row, column and flag: those of the three beside each other, cut.

    The flag says that an object is the one searched for. Rows past the shelf are marks: the end
    lies at (rows, 0), padding at (rows, 1).
    """

    codes: Tensor

    def __init__(self, codes: Tensor) -> None:
        super().__init__()
        self.register_buffer("codes", codes, persistent=False)

    def forward(self, row: Tensor, column: Tensor, flag: Tensor) -> Tensor:
        """Whole numbers of any shape -> the same with the width behind."""
        return self.codes[row, column, flag]

    def cosines(self, row: int, column: int, grid: tuple[int, int]) -> Tensor:
        """How alike the codes of a grid's places are to that of one of them, `y x`, -1..1."""
        codes = self.codes[: grid[0], : grid[1], 0]
        return F.cosine_similarity(codes, self.codes[row, column, 0], dim=-1)


def part_width(width: int) -> int:
    """Channels of each of row, column and flag: the least even number of which three suffice."""
    return ceil(width / 6) * 2


def position_codes(
    rows: int,
    columns: int,
    width: int,
    function: str,
    *,
    alpha: float = 0.9,
    change_x: str = "None",
    pe: Any = None,
) -> PositionCodes:
    """The codes of a shelf, for rows 0 .. rows + 1.

    function  "learned": a table `pe`, or where none is given the least of the loss that the
              published tables are fitted by; else sin and cos of position times f, with
              original f = 10000^(-k/d), exp1 k^alpha/d, exp2 (k/d)^alpha, linear k alpha/d
              for k = 0, 2, ... below d; "original_update" sharpens original's cosines to the
              middle of the shelf to their 15th power
    change_x  "True" moves rows to 0, 1.6, 3.2, ...; "False" columns to 0, 0.6, 1.2, ...
    Raises OptionError.
    """
    if function not in get_args(Function):
        raise OptionError(
            f"function_choice={function!r} is no position code of OAT: write one of "
            f"{', '.join(get_args(Function))}{near(function, get_args(Function))}"
        )
    if str(change_x) not in ("None", "True", "False"):
        raise OptionError(f"change_x={change_x!r} is unknown: write 'None', 'True' or 'False'")
    size = (rows + 2, max(columns, 2))
    if function == "learned":
        if str(change_x) != "None":
            raise OptionError(
                f"change_x={change_x!r} moves the places of sinusoids, and learned codes have "
                "none: leave it out, or choose another function_choice"
            )
        table = _table(pe, part_width(width), size)
        return PositionCodes(_joined(table, table, table, size, width))
    if pe is not None:
        raise OptionError(
            f"pe= is the table of learned codes, but function_choice={function!r} computes them: "
            "leave one out"
        )
    codes = _sinusoids(size, width, function, alpha, str(change_x), max(rows, _ROWS))
    return PositionCodes(_sharper(codes, rows // 2, columns // 2) if "_" in function else codes)


def _joined(row: Tensor, column: Tensor, flag: Tensor, size: tuple[int, int], width: int) -> Tensor:
    """Three tables `n d` beside each other for every place and flag: `y x 2 width`."""
    y, x = size
    parts = (row[:y, None, None], column[None, :x, None], flag[None, None, :2])
    return torch.cat([part.expand(y, x, 2, -1) for part in parts], -1)[..., :width].contiguous()


def _sinusoids(
    size: tuple[int, int], width: int, function: str, alpha: float, change_x: str, known: int
) -> Tensor:
    """Interleaved sin and cos; nothing at all for rows that the table does not know."""
    d = part_width(width)
    k = torch.arange(0, d, 2, dtype=torch.float64)
    rates = {
        "exp1": k**alpha / d,
        "exp2": (k / d) ** alpha,
        "linear": k * alpha / d,
    }.get(function, torch.exp(-k / d * log(10000)))

    def waves(count: int, step: float) -> Tensor:
        angles = torch.arange(count, dtype=torch.float64)[:, None] * step * rates
        return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)

    down, across = (1.6 if change_x == "True" else 1.0), (0.6 if change_x == "False" else 1.0)
    tables = waves(size[0], down), waves(size[1], across), waves(2, 1.0)
    codes = _joined(*tables, size, width)
    codes[known:] = 0
    return codes.float()


def _sharper(codes: Tensor, row: int, column: int) -> Tensor:
    """Each vector turned, in its plane with that of a place, until their cosine is its power."""
    middle = F.normalize(codes[row, column, 0].double(), dim=0)
    lengths = codes.double().norm(dim=-1, keepdim=True)
    along = (F.normalize(codes.double(), dim=-1) @ middle)[..., None].clamp(-1, 1)
    beside = F.normalize(codes.double() - lengths * along * middle, dim=-1)
    power = along**_SHARPER
    return (lengths * (power * middle + (1 - power**2).sqrt() * beside)).float()


def _table(pe: Any, d: int, size: tuple[int, int]) -> Tensor:
    """The learned table with zero rows below. Raises OptionError for one that does not fit."""
    if pe is None:
        table = fitted_table(max(*size, _COLUMNS), d)
    else:
        read = np.load(Path(pe).expanduser()) if isinstance(pe, (str, Path)) else pe
        table = torch.as_tensor(read).detach().float()
    if table.ndim != 2 or table.shape[1] != d or len(table) + _ZERO_ROWS < max(size):
        raise OptionError(
            f"pe= has shape {tuple(table.shape)}, but a shelf of {size[0] - 2} x {size[1]} needs "
            f"{max(size) - _ZERO_ROWS} rows and more of {d} numbers: give such a table"
        )
    return F.pad(table, (0, 0, 0, _ZERO_ROWS))


def fitted_table(rows: int, d: int, sigma: float = 2.0) -> Tensor:
    """Vectors `rows d` of one length whose cosines fall with distance: exp(-(i-j)^2 / 2 sigma^2).

    The least value, 0, of the loss that OAT fits its tables by; the published ones are other
    solutions of it. With more rows than d there is none, and the cosines are near those.
    """
    place = np.arange(rows)
    wanted = np.exp(-((place[:, None] - place) ** 2) / (2 * sigma**2))
    values, vectors = np.linalg.eigh(wanted)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    n = max(rows, d)
    cosine = np.cos(np.pi / n * np.outer(np.arange(n), np.arange(n) + 0.5)) * sqrt(2 / n)
    cosine[0] /= sqrt(2)
    table = root @ cosine[:rows, :d]
    table *= _NORM * sqrt(d / _OF) / np.linalg.norm(table, axis=1, keepdims=True)
    return torch.from_numpy(table).float()


class TimeCodes(nn.Module):
    """Sinusoids over time, added to tokens `b n d`."""

    pos_embedding: Tensor

    def __init__(self, width: int, dropout: float, length: int = 5000) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        rates = torch.exp(torch.arange(0, width, 2) * (-log(10000) / width))
        angles = torch.arange(length)[:, None] * rates
        codes = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, None]
        self.register_buffer("pos_embedding", codes)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(x + self.pos_embedding[: x.shape[1], 0])
