"""Statistics of a map: room for them, and a second pass for gated positional attention.

The entropy of a mixture is no sum over its parts: both softmaxes must be summed up first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from .triton_tiles import BITS, Call, Tiles, fetch, judged

NAMES = ("entropy", "distance", "mass", "peak")


@triton.jit
def _measure(
    q, k, v, bias, position, gate, rows, columns, keep,
    lse, lse_2, entropy, distance, mass, peaks,
    q_s, k_s, v_s, bias_s, position_s, rows_s, columns_s, keep_s,
    heads, shared, windows, n, m, total, scale, radius, pools,
    d: tl.constexpr, e: tl.constexpr, at_q: tl.constexpr, at_k: tl.constexpr,
    causal: tl.constexpr, sigmoid: tl.constexpr, precision: tl.constexpr, dtype: tl.constexpr,
    block_d: tl.constexpr, block_e: tl.constexpr, block_r: tl.constexpr,
    grid: tl.constexpr, pool: tl.constexpr, wide_pool: tl.constexpr,
    block_m: tl.constexpr, block_n: tl.constexpr,
):  # fmt: skip
    """One tile of queries of one head: p = (1 - gate) softmax(scores) + gate softmax(position)."""
    blocks = tl.cdiv(n, block_m)
    head = (tl.program_id(0) // blocks).to(tl.int64)
    b, h = head // heads, head % heads
    i = tl.program_id(0) % blocks * block_m + tl.arange(0, block_m)
    here = i < n
    dd = tl.arange(0, block_d)
    q_at = q + b * q_s[0] + h * q_s[1] + i[:, None] * q_s[2] + dd[None, :] * q_s[3]
    q_tile = fetch(q_at, here[:, None], (dd < d)[None, :], True, dtype)
    k += b * k_s[0] + h // shared * k_s[1]
    position += h * position_s[0]
    if bias is not None:
        bias += b * bias_s[0] + h * bias_s[1]
    if keep is not None:
        keep += b * keep_s[0]
    norm = tl.load(lse + head * total + i, mask=here, other=float("inf"))
    norm_2 = tl.load(lse_2 + head * total + i, mask=here, other=float("inf"))
    share = tl.load(gate + h).to(tl.float32)
    surprise = tl.zeros((block_m,), tl.float32)
    far = tl.zeros((block_m,), tl.float32)
    near = tl.zeros((block_m,), tl.float32)
    best = tl.zeros((block_m,), tl.float32)
    tiles = tl.cdiv(m, block_n)
    if pool is not None:
        tiles = tl.cdiv(pools * wide_pool, block_n)
    for step in tl.range(0, tiles):
        c = step * block_n + tl.arange(0, block_n)
        if pool is None:
            j = c
            there = j < m
        else:
            j = c // wide_pool * pool + c % wide_pool
            there = (c % wide_pool < pool) & (j < m)
        k_at = k + j[None, :] * k_s[2] + dd[:, None] * k_s[3]
        k_tile = fetch(k_at, there[None, :], (dd < d)[:, None], True, dtype)
        s = tl.dot(q_tile, k_tile, input_precision=precision) * scale
        s = judged(
            s, i[:, None], j[None, :], here[:, None], there[None, :],
            bias, bias_s, keep, keep_s, m - n, causal, True,
        )  # fmt: skip
        at = position + i[:, None] * position_s[1] + j[None, :] * position_s[2]
        seen = here[:, None] & there[None, :]
        where = tl.load(at, mask=seen, other=float("-inf")).to(tl.float32) * BITS
        p = (1.0 - share) * tl.exp2(s - norm[:, None]) + share * tl.exp2(where - norm_2[:, None])
        surprise -= tl.sum(p * tl.log2(tl.where(p > 0.0, p, 1.0)), 1)
        if distance is not None:
            dy = (i // grid[1])[:, None] - (j // grid[1])[None, :]
            dx = (i % grid[1])[:, None] - (j % grid[1])[None, :]
            square = (dy * dy + dx * dx).to(tl.float32)
            far += tl.sum(p * tl.sqrt(square), 1)
            if mass is not None:
                near += tl.sum(tl.where(square <= radius, p, 0.0), 1)
        if pool is not None:
            line = peaks + (head * total + i)[:, None] * pools
            if wide_pool <= block_n:
                parts: tl.constexpr = block_n // wide_pool
                found = tl.max(tl.reshape(p, (block_m, parts, wide_pool)), 2)
                part = (step * parts + tl.arange(0, parts))[None, :]
                tl.store(line + part, found, mask=here[:, None] & (part < pools))
            else:
                turns: tl.constexpr = wide_pool // block_n
                best = tl.where(step % turns == 0, 0.0, best)
                best = tl.maximum(best, tl.max(p, 1))
                tl.store(line + step // turns, best[:, None], mask=here[:, None])
    place = head * total + i
    tl.store(entropy + place, surprise / BITS, mask=here)
    if distance is not None:
        tl.store(distance + place, far, mask=here)
        if mass is not None:
            tl.store(mass + place, near, mask=here)


@dataclass(frozen=True)
class Told:
    """Which statistics to take: see `attention_statistics`.

    grid   rows and columns of keys, and how many of them lie between queries
    """

    grid: tuple[int, int, int] | None = None
    radius: float | None = None
    pool: int | None = None

    def numbers(self, m: int) -> tuple[float | None, int | None]:
        """The largest square within the radius, and the blocks of keys.

        Squares are multiples of a quarter: the slack undoes what float32 rounds away, no more.
        """
        blocks = None if self.pool is None else -(-m // self.pool)
        if self.radius is None:
            return None, blocks
        within = float(torch.tensor(self.radius, dtype=torch.float32))
        return within * abs(within) * (1 + 5e-7), blocks

    @property
    def fixed(self) -> tuple[Any, ...]:
        """The grid, the pool, and the pool as wide as tiles hold it."""
        return self.grid, self.pool, self.pool and triton.next_power_of_2(self.pool)


def room(call: Call, told: Told | None) -> dict[str, Tensor]:
    """Unwritten memory for statistics; for peaks one number a query and block of keys."""
    if told is None:
        return {}
    asked = True, told.grid is not None, told.radius is not None, told.pool is not None
    blocks = told.numbers(call.m)[1]
    found = {}
    for name, wanted in zip(NAMES, asked, strict=True):
        if wanted:
            more = (blocks,) if name == "peak" else ()
            found[name] = call.q.new_empty(*call.q.shape[:3], *more, dtype=torch.float32)
    return found


def shares(scores: Tensor, lse: Tensor | None) -> Tensor:
    """Entries of the map from scores in bits."""
    if lse is None:
        return (scores / BITS.value).sigmoid_()
    return (scores - lse[..., None]).exp2_()


def pooled(peaks: Tensor, pool: int | None) -> Tensor:
    """The largest of each block of queries; the last block may be smaller."""
    if pool is None:
        return peaks
    return F.pad(peaks, (0, 0, 0, -peaks.shape[2] % pool)).unflatten(2, (-1, pool)).amax(3)


def mixed(call: Call, told: Told, sums: Tensor, tiles: Tiles) -> dict[str, Tensor]:
    """Statistics of gated positional attention, from the log-sum-exps of both softmaxes."""
    stats = room(call, told)
    programs = triton.cdiv(call.n, tiles.queries) * call.q.shape[0] * call.q.shape[1]
    _measure[(programs,)](
        *call.tensors, sums[0], sums[1], *(stats.get(name) for name in NAMES),
        *call.strides, *call.numbers, *told.numbers(call.m),
        *call.fixed, *call.blocks, *told.fixed, tiles.queries, tiles.keys,
        num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    if "peak" in stats:
        stats["peak"] = pooled(stats["peak"], told.pool)
    return stats
