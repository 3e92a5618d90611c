"""The arguments of attention as its kernels take them, and the sizes of tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from ..shared.triton_launch import ceil_div, dot_precision, dot_type, padded
from ..shared.triton_rows import LOG2E
from ..windows import Window
from .arguments import AttentionArguments
from .triton_tiles import Form, Halo, Lattice, Phases, Pointers, Sizes, Strides


@dataclass(frozen=True)
class AttentionOperands:
    """The arguments of one call as kernels take them.

    bias       expanded to `b h w q k`, stride 0 where it broadcasts
    keep       bytes `b m`
    mask       bytes `b h n m`, stride 0 where it broadcasts
    ahead      the last key that query 0 sees, and behind the first; None where all are seen
    n, m       queries and keys of one window; without windows all of them, and one window
    lattice_q  where queries lie in windows, lattice_k the keys they see, home the tiles of keys
    halo       which windows see a tile of keys; None where only its own does
    """

    pointers: Pointers
    factor: float
    ahead: int | None
    behind: int | None
    sigmoid: bool
    windows: int
    n: int
    m: int
    lattice_q: Lattice | None
    lattice_k: Lattice | None
    home: Lattice | None
    halo: Halo | None

    @property
    def gated(self) -> bool:
        return self.pointers.position is not None

    @property
    def rows(self) -> int:
        """Heads of all pictures."""
        return self.pointers.q.shape[0] * self.pointers.q.shape[1]

    @cached_property
    def strides(self) -> Strides:
        p = self.pointers
        some = p.bias, p.position, p.rows, p.columns, p.keep, p.mask
        rest = (None if x is None else x.stride() for x in some)
        return Strides(p.q.stride(), p.k.stride(), p.v.stride(), *rest)

    @cached_property
    def sizes(self) -> Sizes:
        p = self.pointers
        _, h, total, _ = p.q.shape
        by_key, by_value = h // p.k.shape[1], h // p.v.shape[1]
        ahead, behind, scale = self.ahead or 0, self.behind or 0, self.factor * LOG2E.value
        sizes = self.windows, self.n, self.m, total
        return Sizes(h, by_key, by_value, *sizes, ahead, behind, scale)

    @cached_property
    def form(self) -> Form:
        q, at = self.pointers.q, self.lattice_k
        d, e = q.shape[-1], self.pointers.v.shape[-1]
        blocks = padded(d), padded(e), padded(0 if at is None else at.rows + at.columns)
        lattices = self.lattice_q, self.lattice_k
        bias = self.pointers.bias
        by_axis = (False, False) if bias is None else (bias.stride(3) != 0, bias.stride(4) != 0)
        precision, dtype = dot_precision(), dot_type(q.dtype)
        band = self.ahead is not None, self.behind is not None
        return Form(d, e, *lattices, *band, self.sigmoid, *by_axis, precision, dtype, *blocks)

    @property
    def widest(self) -> int:
        """Channels of the wider of keys and values, padded."""
        return max(self.form.BLOCK_D, self.form.BLOCK_E)

    def programs(self, count: int, tile: int) -> tuple[int]:
        """One for each tile of the `count` tokens of a window."""
        return (ceil_div(count, tile) * self.windows * self.rows,)

    def phases(self, tiles: Tiles, *, masked: bool = False) -> Phases:
        """Of a walk over keys; `masked` where every tile has a mask."""
        first = 1 if masked or self.behind is not None or self.m < tiles.keys else 0
        last = 1 if not (first or self.ahead is not None or self.m % tiles.keys) else 2
        return Phases(first, last, tiles.queries, tiles.keys)


def prepare(x: AttentionArguments) -> AttentionOperands:
    """The arguments of `attention` as kernels take them."""
    windows, n, m = 1, x.q.shape[2], x.k.shape[2]
    lattice_q = lattice_k = home = halo = None
    if x.window is not None:
        lattice_q, lattice_k, home, halo = lattices(x.window)
        n, m = math.prod(x.window.query_size), math.prod(x.window.key_size)
        windows = x.q.shape[2] // n
    bias = x.bias
    if bias is not None:
        bias = by_window(bias).expand(*x.q.shape[:2], windows, n, m)
    pointers = Pointers(
        x.q, x.k, x.v, bias, x.position,
        None if x.gate is None else x.gate.reshape(-1).contiguous(),
        x.rows, x.columns,
        None if x.keep is None else x.keep.view(torch.uint8),
        None if x.mask is None else _expanded(x.mask, x).view(torch.uint8),
        None if x.slopes is None else x.slopes.contiguous(),
    )  # fmt: skip
    ahead = None if x.last is None else m - n + x.last
    behind = None if x.left is None else m - n - x.left
    return AttentionOperands(
        pointers, x.factor, ahead, behind, x.score == "sigmoid", windows, n, m,
        lattice_q, lattice_k, home, halo,
    )  # fmt: skip


def _expanded(mask: Tensor, x: AttentionArguments) -> Tensor:
    """A mask expanded to `b h n m`."""
    mask = mask.reshape((1,) * (4 - mask.ndim) + tuple(mask.shape))
    return mask.expand(*x.q.shape[:3], x.k.shape[2])


def by_window(bias: Tensor) -> Tensor:
    """A bias with axes `b h w q k`, some of them 1."""
    if bias.ndim == 5:
        return bias
    return bias.reshape((1,) * (4 - bias.ndim) + tuple(bias.shape)).unsqueeze(-3)


@lru_cache(maxsize=256)
def lattices(window: Window) -> tuple[Lattice, Lattice, Lattice, Halo | None]:
    """Where queries, the keys they see, and the tiles of keys lie; how far keys are seen."""
    if window.kind == "grid":
        at = _lattice(window.size, window.grid, 0, spread=True)
        return at, at, at, None
    queries = _lattice(window.query_size, window.query_grid, 0)
    keys, home = (_lattice(window.size, window.grid, rim) for rim in (window.halo, 0))
    if not window.halo:
        return queries, keys, home, None
    (height, width), rim = window.size, window.halo
    far = ceil_div(rim, height), ceil_div(rim, width)
    counts = window.grid[0] // height, window.grid[1] // width
    return queries, keys, home, Halo(*far, *counts, height, width, rim)


def _lattice(
    size: tuple[int, int], grid: tuple[int, int], rim: int, *, spread: bool = False
) -> Lattice:
    counts = grid[0] // size[0], grid[1] // size[1]
    apart, step = ((1, 1), counts) if spread else (size, (1, 1))
    return Lattice(size[1] + 2 * rim, size[0] + 2 * rim, counts[1], *apart, *step, rim, *grid)


def like(x: Tensor, channels: int) -> Tensor:
    """Unwritten memory for as many heads and tokens, lying in the order they have in x."""
    b, h, n = x.shape[:3]
    if x.stride(1) < x.stride(2):  # projections give b n h d: the result goes back without a copy
        return x.new_empty(b, n, h, channels).transpose(1, 2)
    return x.new_empty(b, h, n, channels)


@dataclass(frozen=True)
class Tiles:
    """Queries and keys of one tile, warps, and loads kept in flight."""

    queries: int
    keys: int
    warps: int
    stages: int

    def within(self, n: int, m: int) -> Tiles:
        """No larger than the problem."""
        queries, keys = min(self.queries, padded(n)), min(self.keys, padded(m))
        shrunk = queries * keys < self.queries * self.keys
        return replace(self, queries=queries, keys=keys, warps=4 if shrunk else self.warps)


@lru_cache(maxsize=256)
def warp_groups(device: torch.device) -> bool:
    """Whether four warps multiply as one, reading from on-chip memory: fewer registers needed."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] >= 9


def backward_tiles(x: AttentionOperands, larger: tuple[int, int], m: int) -> Tiles:
    """`larger`, queries and keys, in half precision and with heads of at most 64; else fewer."""
    q = x.pointers.q
    if q.element_size() == 4:
        tiles = Tiles(32, 32, 8, 1) if x.widest <= 64 else Tiles(16, 32, 8, 1)
    elif x.widest <= 64:
        tiles = Tiles(*larger, 8, 2)
    elif x.widest <= 128:
        tiles = Tiles(64, 64, 4 if warp_groups(q.device) else 8, 1)
    else:
        tiles = Tiles(32, 64, 8, 1)
    return tiles.within(x.n, m)
