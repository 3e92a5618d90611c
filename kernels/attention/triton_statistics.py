"""Statistics of a map on the way of its result, and a second pass for gated positional attention.

The entropy of a mixture is no sum over its parts: both softmaxes must be summed up first.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# Triton types kernels when it compiles them.
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ..shared.triton_launch import ceil_div, options, power_of_2
from ..shared.triton_rows import LOG2E
from .triton_operands import AttentionOperands, Tiles
from .triton_tiles import (
    at_head,
    columns_of,
    position_scores,
    query_tile,
    rows_of,
    score_tile,
)


class Outputs(NamedTuple):
    """Where statistics go, one number a query; for peaks one a query and block of keys."""

    entropy: Tensor | None = None
    distance: Tensor | None = None
    mass: Tensor | None = None
    peak: Tensor | None = None


class Asked(NamedTuple):
    """What is fixed of statistics when a kernel is compiled: the grid with the stride of queries,
    the pool, and the pool as wide as tiles hold it."""

    GRID: tuple[int, int, int] | None
    POOL: int | None
    WIDE: int | None


@triton.jit
def key_places(step, m, ASKED: tl.constexpr, BLOCK_N: tl.constexpr):
    """The keys of a tile and which there are; with a pool, its blocks begin at multiples of it."""
    o_c = step * BLOCK_N + tl.arange(0, BLOCK_N)
    if ASKED.POOL is None:
        o_n = o_c
        m_n = o_n < m
    else:
        o_n = o_c // ASKED.WIDE * ASKED.POOL + o_c % ASKED.WIDE
        m_n = (o_c % ASKED.WIDE < ASKED.POOL) & (o_n < m)
    return o_n, m_n


@triton.jit
def squared_distances(t_m, t_n, GRID: tl.constexpr):
    """Of queries to keys, `m n`, in steps of the keys' grid."""
    y = (t_m // (GRID[1] // GRID[2])) * GRID[2] + (GRID[2] - 1) * 0.5
    x = (t_m % (GRID[1] // GRID[2])) * GRID[2] + (GRID[2] - 1) * 0.5
    dy = y[:, None] - (t_n // GRID[1])[None, :]
    dx = x[:, None] - (t_n % GRID[1])[None, :]
    return dy * dy + dx * dx


@triton.jit
def entropy_step(
    b_p, b_s, b_own, b_shrink, b_expected, b_mass, SEEN: tl.constexpr, SIGMOID: tl.constexpr
):
    """Sums of own p log p or, of a softmax, of own s and own, which its log-sum-exp completes.

    b_own   the shares p without those of keys outside the grid
    """
    if SIGMOID:
        b_log = tl.log2(tl.where(b_own > 0.0, b_own, 1.0))
        b_expected += tl.sum(b_own * b_log, 1)
    else:
        b_level = b_s if SEEN else tl.where(b_p > 0.0, b_s, 0.0)
        b_expected = b_expected * b_shrink + tl.sum(b_own * b_level, 1)
        b_mass = b_mass * b_shrink + tl.sum(b_own, 1)
    return b_expected, b_mass


@triton.jit
def sum_step(b_x, b_shrink, b_sum, SIGMOID: tl.constexpr):
    """A running sum over the keys of softmax shares, which shrinks as their maximum grows."""
    return tl.sum(b_x, 1) + (b_sum if SIGMOID else b_sum * b_shrink)


@triton.jit
def store_peaks(
    b_x, b_peak, p_peaks, i_row, t_m, m_m, step, total, pools,
    LOWEST: tl.constexpr, ASKED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Write the largest of each block of keys; returned is that of a block wider than a tile."""
    WIDE: tl.constexpr = ASKED.WIDE
    p_line = p_peaks + (i_row * total + t_m)[:, None] * pools
    if ASKED.WIDE <= BLOCK_N:
        PARTS: tl.constexpr = BLOCK_N // ASKED.WIDE
        b_largest = tl.max(tl.reshape(b_x, (BLOCK_M, PARTS, WIDE)), 2)
        o_part = (step * PARTS + tl.arange(0, PARTS))[None, :]
        tl.store(p_line + o_part, b_largest, mask=m_m[:, None] & (o_part < pools))
    else:
        TILES: tl.constexpr = ASKED.WIDE // BLOCK_N
        b_peak = tl.where(step % TILES == 0, LOWEST, b_peak)
        b_peak = tl.maximum(b_peak, tl.max(b_x, 1))
        tl.store(p_line + step // TILES, b_peak[:, None], mask=m_m[:, None])
    return b_peak


@triton.jit
def _measure_gated(
    p, s_q, s_k, s_bias, s_position, s_keep, s_mask, p_lse, p_lse_2, stats, z, radius, pools,
    FORM: tl.constexpr, ASKED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """One tile of queries of one head: p = (1 - gate) softmax(scores) + gate softmax(position)."""
    GRID: tl.constexpr = ASKED.GRID
    i_b, i_h, i_row, i_w, _, o_m, m_m, _t = query_tile(z, FORM, BLOCK_M)
    p_q = at_head(p.q, s_q, i_b, i_h)
    b_q = rows_of(p_q, s_q, o_m, m_m, FORM.D, FORM.BLOCK_D, False, True, FORM.DTYPE)
    p_k = at_head(p.k, s_k, i_b, i_h // z.shared_k)
    b_lse = tl.load(p_lse + i_row * z.total + o_m, mask=m_m, other=float("inf"))
    b_lse_2 = tl.load(p_lse_2 + i_row * z.total + o_m, mask=m_m, other=float("inf"))
    gate = tl.load(p.gate + i_h).to(tl.float32)
    b_entropy = tl.zeros((BLOCK_M,), tl.float32)
    b_distance = tl.zeros((BLOCK_M,), tl.float32)
    b_mass = tl.zeros((BLOCK_M,), tl.float32)
    b_peak = tl.zeros((BLOCK_M,), tl.float32)
    tiles = tl.cdiv(z.m, BLOCK_N)
    if ASKED.POOL is not None:
        tiles = tl.cdiv(pools * ASKED.WIDE, BLOCK_N)
    for step in tl.range(0, tiles):
        o_n, m_n = key_places(step, z.m, ASKED, BLOCK_N)
        b_k = columns_of(p_k, s_k, o_n, m_n, FORM.D, FORM.BLOCK_D, False, True, FORM.DTYPE)
        b_s = score_tile(
            b_q, b_k, None, o_m, o_n, m_m, m_n, p, s_bias, s_keep, s_mask, z, i_b, i_h, i_w, FORM,
            True,
        )  # fmt: skip
        mask = m_m[:, None] & m_n[None, :]
        b_s_2 = position_scores(p, s_position, i_h, o_m[:, None], o_n[None, :], mask, float("-inf"))
        b_p = (1.0 - gate) * tl.exp2(b_s - b_lse[:, None]) + gate * tl.exp2(
            b_s_2 - b_lse_2[:, None]
        )
        b_entropy -= tl.sum(b_p * tl.log2(tl.where(b_p > 0.0, b_p, 1.0)), 1)
        if stats.distance is not None:
            b_square = squared_distances(o_m, o_n, GRID)
            b_distance += tl.sum(b_p * tl.sqrt(b_square), 1)
            if stats.mass is not None:
                b_mass += tl.sum(tl.where(b_square <= radius, b_p, 0.0), 1)
        if ASKED.POOL is not None:
            b_peak = store_peaks(
                b_p, b_peak, stats.peak, i_row, o_m, m_m, step, z.total, pools,
                0.0, ASKED, BLOCK_M, BLOCK_N,
            )  # fmt: skip
    o_row = i_row * z.total + o_m
    tl.store(stats.entropy + o_row, b_entropy / LOG2E, mask=m_m)
    if stats.distance is not None:
        tl.store(stats.distance + o_row, b_distance, mask=m_m)
        if stats.mass is not None:
            tl.store(stats.mass + o_row, b_mass, mask=m_m)


@dataclass(frozen=True)
class StatisticsRequest:
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
        blocks = None if self.pool is None else ceil_div(m, self.pool)
        if self.radius is None:
            return None, blocks
        within = float(torch.tensor(self.radius, dtype=torch.float32))
        return within * abs(within) * (1 + 5e-7), blocks

    @property
    def fixed(self) -> Asked:
        return Asked(self.grid, self.pool, None if self.pool is None else power_of_2(self.pool))

    def memory(self, x: AttentionOperands) -> Outputs:
        """Unwritten, in float32."""
        q, blocks = x.pointers.q, self.numbers(x.m)[1]

        def new(wanted: bool, *more: Any) -> Tensor | None:
            return q.new_empty(*q.shape[:3], *more, dtype=torch.float32) if wanted else None

        return Outputs(
            new(True),
            new(self.grid is not None),
            new(self.radius is not None),
            new(self.pool is not None, blocks),
        )


def finished(stats: Outputs, pool: int | None) -> dict[str, Tensor]:
    """By name, with the peaks of blocks of queries; the last block may be smaller."""
    named = {name: x for name, x in stats._asdict().items() if x is not None}
    if pool is not None:
        peaks = named["peak"]
        peaks = F.pad(peaks, (0, 0, 0, -peaks.shape[2] % pool))
        named["peak"] = peaks.unflatten(2, (-1, pool)).amax(3)
    return named


def shares(scores: Tensor, lse: Tensor | None) -> Tensor:
    """Entries of the map from scores in bits."""
    if lse is None:
        return scores.div(LOG2E.value).sigmoid_()
    return (scores - lse[..., None]).exp2_()


def measure_gated(
    x: AttentionOperands, request: StatisticsRequest, sums: Tensor, tiles: Tiles
) -> Outputs:
    """Statistics of gated positional attention, from the log-sum-exps of both softmaxes."""
    stats = request.memory(x)
    _measure_gated[x.programs(x.n, tiles.queries)](
        x.pointers, x.strides.q, x.strides.k, x.strides.bias,
        x.strides.position, x.strides.keep, x.strides.mask, sums[0], sums[1], stats, x.sizes,
        *request.numbers(x.m), x.form, request.fixed, tiles.queries, tiles.keys,
        **options(tiles.warps, tiles.stages),
    )  # fmt: skip
    return stats
