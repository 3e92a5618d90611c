"""How a fused neighbourhood attention cuts its grid: the tiles that visit the fewest pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, prod
from typing import NamedTuple

from .axes import Axis, span

Triple = tuple[int, int, int]

STEP, PROGRAM = 1024, 4096  # what a step and a program cost besides their pairs, in pairs


class Windows(NamedTuple):
    """The windows of a grid, each option by axis; kernels take them as they are."""

    kernel: Triple
    stride: Triple
    dilation: Triple
    causal: tuple[bool, bool, bool]


@dataclass(frozen=True)
class Tiles:
    """Tiles on three axes, and what a launch needs to know of them.

    rows      the tile that a program holds: queries, or keys on the way back
    columns   the tile that it walks with
    tests     the axes on which a pair must be tested
    whole     every pair of a program is seen, and every column is a key
    """

    grid: Triple
    windows: Windows
    rows: Triple
    columns: Triple
    tests: tuple[bool, bool, bool]
    whole: bool
    programs: int
    warps: int
    stages: int


@dataclass(frozen=True)
class _Side:
    """An axis as the kernels count it; the ones before a grid's first have one token."""

    length: int = 1
    kernel: int = 1
    stride: int = 1
    dilation: int = 1
    causal: bool = False

    def tiles(self, block: int) -> int:
        return ceil(ceil(self.length / self.dilation) / block) * self.dilation

    def span(self, block: int, back: bool) -> int:
        """At most so many columns meet a tile of `block` rows."""
        if back:
            columns = ((self.kernel + block - 2) // self.stride + 1) * self.stride
        else:
            columns = span(self.kernel, self.stride, self.causal, block)
        return min(columns, ceil(self.length / self.dilation))

    def tested(self, block: int, back: bool) -> bool:
        """Whether rows of a tile may meet different columns."""
        if self.causal:
            return self.length > 1
        if self.kernel * self.dilation == self.length:
            return False
        if back:
            apart = self.stride == self.kernel and self.kernel % block == 0
            return not (apart and self.length % (self.kernel * self.dilation) == 0)
        return self.stride % block != 0


def tiles(axes: Sequence[Axis], *, widest: int, back: bool, exact: bool = False) -> Tiles:
    """Choose the tiles for these axes.

    widest   bytes of the widest row of channels: wide rows take smaller tiles
    back     rows are keys and columns the queries that see them
    exact    products in full float32, which hold whole rows of channels in registers
    """
    sides = [_Side(a.length, a.kernel, a.stride, a.dilation, bool(a.causal)) for a in axes]
    return _tiles((_Side(),) * (3 - len(sides)) + tuple(sides), widest, back, exact)


@lru_cache(maxsize=256)
def _tiles(sides: tuple[_Side, ...], widest: int, back: bool, exact: bool) -> Tiles:
    sizes = _exact_sizes(widest) if exact else _sizes(widest, back)
    rows, columns = _cheapest(sides, *sizes, back)
    many = widest <= 512 if exact else prod(rows) > 64 or (back and widest > 128)
    z, y, x = sides
    tests = tuple(side.tested(block, back) for side, block in zip(sides, rows, strict=True))
    full = all(side.kernel % block == 0 for side, block in zip(sides, columns, strict=True))
    return Tiles(
        (z.length, y.length, x.length),
        Windows(
            (z.kernel, y.kernel, x.kernel),
            (z.stride, y.stride, x.stride),
            (z.dilation, y.dilation, x.dilation),
            (z.causal, y.causal, x.causal),
        ),
        rows,
        columns,
        (tests[0], tests[1], tests[2]),
        full and not any(tests),
        prod([side.tiles(block) for side, block in zip(sides, rows, strict=True)]),
        warps=8 if many else 4,
        stages=2 if back or widest > 128 else 3,
    )


def _sizes(widest: int, back: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Rows and columns that leave a program of an H100 its registers, one or several of each."""
    if widest > 512:
        return (32,), (32,)
    if widest > 256:
        return (64,), (32,)
    return (64,) if back else (64, 128), (32, 64)


def _exact_sizes(widest: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return ((16,), (16,)) if widest > 512 else ((32,), (32,))


def _cheapest(
    sides: tuple[_Side, ...], heights: tuple[int, ...], widths: tuple[int, ...], back: bool
) -> tuple[Triple, Triple]:
    """The pair of tiles with the fewest pairs to look at, steps and programs counted in."""
    costs = []
    for size in heights:
        for rows in _boxes(size):
            programs = prod([s.tiles(t) for s, t in zip(sides, rows, strict=True)])
            spans = [s.span(t, back) for s, t in zip(sides, rows, strict=True)]
            tests = sum(s.tested(t, back) for s, t in zip(sides, rows, strict=True))
            for width in widths:
                for columns in _boxes(width):
                    steps = prod([ceil(n / u) for n, u in zip(spans, columns, strict=True)])
                    cost = programs * (PROGRAM + steps * (size * width + STEP))
                    costs.append((cost, tests, rows, columns))
    return min(costs)[2:]


def _boxes(size: int) -> Iterator[Triple]:
    """The boxes of `size` places with sides that are powers of two."""
    powers = [1 << n for n in range(size.bit_length())]
    for z in powers:
        for y in powers:
            if size % (z * y) == 0:
                yield z, y, size // (z * y)
