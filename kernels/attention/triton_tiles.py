"""What the kernels of attention share: tokens of windows, loads, scores, and the sizes of tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..kernel import interpreted
from ..windows import Window

BITS = tl.constexpr(1.4426950408889634)  # of a nat: kernels exponentiate to base 2

# A lattice tells where the places of a window lie: the columns and rows of one window, the windows
# in a row, how far windows lie apart down and across, how far places lie apart down and across,
# the rim outside the window, the rows and columns of the grid.
Lattice = tuple[int, int, int, int, int, int, int, int, int, int]


@triton.jit
def token_of(i, w, at: tl.constexpr):
    """The token at place i of window w; any number where that lies outside the grid."""
    if at is None:
        token = i
    else:
        y = w // at[2] * at[3] + i // at[0] * at[5] - at[7]
        x = w % at[2] * at[4] + i % at[0] * at[6] - at[7]
        token = y * at[9] + x
    return token


@triton.jit
def on_grid(i, w, there, at: tl.constexpr):
    """Which of the places `there` lie on the grid and not in the rim."""
    inside = there
    if at is not None and at[7] > 0:
        y = w // at[2] * at[3] + i // at[0] * at[5] - at[7]
        x = w % at[2] * at[4] + i % at[0] * at[6] - at[7]
        inside = inside & (y >= 0) & (y < at[8]) & (x >= 0) & (x < at[9])
    return inside


@triton.jit
def fetch(at, here, there, some: tl.constexpr, dtype: tl.constexpr):
    """A tile, zeros where `there` or, if only `some` are, `here` is false; `there` None is all."""
    if some:
        if there is None:
            x = tl.load(at, mask=here, other=0.0)
        else:
            x = tl.load(at, mask=here & there, other=0.0)
    elif there is None:
        x = tl.load(at)
    else:
        x = tl.load(at, mask=there, other=0.0)
    return x.to(dtype)


@triton.jit
def judged(
    s, i, j, here, there, bias, bias_s, keep, keep_s, shift,
    causal: tl.constexpr, masked: tl.constexpr,
):  # fmt: skip
    """Scores in bits with their bias, -inf where a query must not look."""
    if bias is not None:  # a stride None is shared by all: one row, one column or one number
        if bias_s[3] is None and bias_s[4] is None:
            added = tl.load(bias)
        elif bias_s[3] is None:
            added = tl.load(bias + j * bias_s[4], mask=there, other=0.0)
        elif bias_s[4] is None:
            added = tl.load(bias + i * bias_s[3], mask=here, other=0.0)
        else:
            added = tl.load(bias + i * bias_s[3] + j * bias_s[4], mask=here & there, other=0.0)
        s += added.to(tl.float32) * BITS
    if keep is not None:
        kept = tl.load(keep + j * keep_s[1], mask=there, other=0)
        s = tl.where(kept != 0, s, float("-inf"))
    if masked:
        seen = there
        if causal:
            seen = seen & (j <= i + shift)
        s = tl.where(seen, s, float("-inf"))
    return s


@triton.jit
def logits(rows, columns, rows_s, columns_s, token, t, here, at: tl.constexpr, dtype: tl.constexpr):
    """Relative logits of queries by row, then by column of a window, side by side."""
    row = rows + token * rows_s[2] + t * rows_s[3]
    column = columns + token * columns_s[2] + (t - at[1]) * columns_s[3]
    found = tl.load(row, mask=here & (t < at[1]), other=0.0).to(dtype)
    behind = here & (t >= at[1]) & (t < at[0] + at[1])
    return found + tl.load(column, mask=behind, other=0.0).to(dtype)


@triton.jit
def on_axes(j, t, at: tl.constexpr, dtype: tl.constexpr):
    """1 where t is the row of key j or, past the rows, its column."""
    return ((t == j // at[0]) | (t == at[1] + j % at[0])).to(dtype)


@triton.jit
def share_of(s, lse, sigmoid: tl.constexpr):
    """The map from scores in bits; a log-sum-exp of +inf makes it zero."""
    return 1.0 / (1.0 + tl.exp2(-s)) if sigmoid else tl.exp2(s - lse)


@dataclass(frozen=True)
class Call:
    """The arguments of one call as kernels take them.

    bias    expanded to `b h w q k`, stride 0 where it broadcasts
    keep    bytes `b m`
    n, m    queries and keys of one window; without windows all of them, and one window
    """

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None
    position: Tensor | None
    gate: Tensor | None
    rows: Tensor | None
    columns: Tensor | None
    keep: Tensor | None
    scale: float
    causal: bool
    sigmoid: bool
    windows: int
    n: int
    m: int
    at_q: Lattice | None
    at_k: Lattice | None
    home: Lattice | None
    reach: tuple[int, ...] | None

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        return (self.q, self.k, self.v, self.bias, *self.gated, *self.relative, self.keep)

    @property
    def gated(self) -> tuple[Tensor | None, Tensor | None]:
        return self.position, self.gate

    @property
    def relative(self) -> tuple[Tensor | None, Tensor | None]:
        return self.rows, self.columns

    @property
    def strides(self) -> tuple[tuple[int | None, ...] | None, ...]:
        """Of all tensors but the gate, which is dense; None where queries or keys share a bias."""
        own = (self.q, self.k, self.v, self.bias, self.position, *self.relative, self.keep)
        told: list[tuple[int | None, ...] | None] = [None if x is None else x.stride() for x in own]
        if self.bias is not None:
            steps = self.bias.stride()
            told[3] = (*steps[:3], *(step or None for step in steps[3:]))
        return tuple(told)

    @property
    def numbers(self) -> tuple[Any, ...]:
        """Heads, heads that share keys, windows, queries and keys in one, in all, the scale."""
        h = self.q.shape[1]
        counts = h, h // self.k.shape[1], self.windows, self.n, self.m, self.q.shape[2]
        return (*counts, self.scale * BITS.value)

    @property
    def fixed(self) -> tuple[Any, ...]:
        """Head sizes, lattices, causal, sigmoid, dot precision and type."""
        tf32 = torch.backends.cuda.matmul.allow_tf32 and not interpreted()
        widths = self.q.shape[-1], self.v.shape[-1]
        form = self.at_q, self.at_k, self.causal, self.sigmoid
        return (*widths, *form, "tf32" if tf32 else "ieee", dot_type(self.q.dtype))

    @property
    def blocks(self) -> tuple[int, int, int]:
        """Head sizes and relative logits, padded to what a dot takes."""
        height, width = (self.at_k[1], self.at_k[0]) if self.at_k is not None else (0, 0)
        return padded(self.q.shape[-1]), padded(self.v.shape[-1]), padded(height + width)


def padded(size: int) -> int:
    """The next power of two that a dot takes."""
    return max(16, triton.next_power_of_2(size))


def dot_type(dtype: torch.dtype) -> Any:
    """What dots take; numpy, where the interpreter computes, knows no bfloat16."""
    known = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
    return tl.float32 if interpreted() and dtype == torch.bfloat16 else known[dtype]


def prepare(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Tensor | None = None,
    position: Tensor | None = None,
    gate: Tensor | None = None,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
    keep: Tensor | None = None,
    scale: float | None = None,
    causal: bool = False,
    window: Window | None = None,
    score: str = "softmax",
) -> Call:
    """The arguments of `attention` as kernels take them."""
    windows, n, m = 1, q.shape[2], k.shape[2]
    at_q = at_k = home = reach = None
    if window is not None:
        at_q, at_k, home, reach = lattices(window)
        n, m = math.prod(window.query_size), math.prod(window.key_size)
        windows = q.shape[2] // n
    if bias is not None:
        whole = (*q.shape[:2], windows, n, m)
        bias = (bias if bias.ndim == 5 else flat(bias).unsqueeze(-3)).expand(whole)
    return Call(
        q, k, v, bias,
        position,
        None if gate is None else gate.reshape(-1).contiguous(),
        rows, columns,
        None if keep is None else keep.view(torch.uint8),
        q.shape[-1] ** -0.5 if scale is None else scale,
        causal, score == "sigmoid", windows, n, m, at_q, at_k, home, reach,
    )  # fmt: skip


def flat(bias: Tensor) -> Tensor:
    """At least `1 1 1 1`."""
    return bias.reshape((1,) * (4 - bias.ndim) + tuple(bias.shape)) if bias.ndim < 4 else bias


@lru_cache(maxsize=256)
def lattices(window: Window) -> tuple[Lattice, Lattice, Lattice, tuple[int, ...] | None]:
    """Where queries, the keys they see, and the tiles of keys lie; how far keys are seen."""
    if window.kind == "grid":
        at = _lattice(window.size, window.grid, 0, spread=True)
        return at, at, at, None
    queries = _lattice(window.query_size, window.query_grid, 0)
    keys, home = (_lattice(window.size, window.grid, rim) for rim in (window.halo, 0))
    if not window.halo:
        return queries, keys, home, None
    (height, width), halo = window.size, window.halo
    down, across = window.grid[0] // height, window.grid[1] // width
    far = -(-halo // height), -(-halo // width)
    return queries, keys, home, (*far, down, across, height, width, halo)


def _lattice(
    size: tuple[int, int], grid: tuple[int, int], rim: int, *, spread: bool = False
) -> Lattice:
    counts = grid[0] // size[0], grid[1] // size[1]
    apart, step = ((1, 1), counts) if spread else (size, (1, 1))
    return (size[1] + 2 * rim, size[0] + 2 * rim, counts[1], *apart, *step, rim, *grid)


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
def shared_memory(device: torch.device) -> int:
    """Bytes that one program may hold on chip."""
    if device.type != "cuda":
        return 166_912
    told = torch.cuda.get_device_properties(device)
    return int(getattr(told, "shared_memory_per_block_optin", 101_376))


@lru_cache(maxsize=256)
def warp_groups(device: torch.device) -> bool:
    """Whether four warps multiply as one, reading from on-chip memory: fewer registers needed."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] >= 9


def backward_tiles(call: Call, larger: tuple[int, int], m: int) -> Tiles:
    """`larger`, queries and keys, in half precision and with heads of at most 64; else fewer."""
    block_d, block_e, _ = call.blocks
    width, size = max(block_d, block_e), call.q.element_size()
    if size == 4:
        tiles = Tiles(32, 32, 8, 1) if width <= 64 else Tiles(16, 32, 8, 1)
    elif width <= 64:
        tiles = Tiles(*larger, 8, 2)
    elif width <= 128:
        tiles = Tiles(64, 64, 4 if warp_groups(call.q.device) else 8, 1)
    else:
        tiles = Tiles(32, 64, 8, 1)
    return tiles.within(call.n, m)
