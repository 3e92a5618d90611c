"""Attention in one pass over the keys, with statistics of the map on the way.

A running softmax after Milakov & Gimelshein 2018 (arXiv:1805.02867), tiled as in FlashAttention,
Dao et al. 2022 (arXiv:2205.14135).
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# Triton types kernels when it compiles them.
from __future__ import annotations

from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..shared.triton_launch import ceil_div, options, shared_memory
from ..shared.triton_rows import LOG2E, softmax_step
from .triton_operands import AttentionOperands, Tiles, like
from .triton_statistics import (
    Outputs,
    StatisticsRequest,
    entropy_step,
    finished,
    key_places,
    measure_gated,
    shares,
    squared_distances,
    store_peaks,
    sum_step,
)
from .triton_tiles import (
    at_head,
    columns_of,
    key_tiles,
    on_grid,
    position_scores,
    query_tile,
    relative_logits,
    rows_of,
    score_tile,
    token_of,
)


@triton.jit
def _attend(
    p, s_q, s_k, s_v, s_bias, s_position, s_rows, s_columns, s_keep, s_mask, p_out, s_out, p_lse,
    p_change, p_lse_2, stats, z, radius, pools,
    FORM: tl.constexpr, PHASES: tl.constexpr, ASKED: tl.constexpr,
):  # fmt: skip
    """One tile of queries of one window and head; see `attend`."""
    AT_K: tl.constexpr = FORM.AT_K
    GRID: tl.constexpr = ASKED.GRID
    FIRST: tl.constexpr = PHASES.FIRST
    LAST: tl.constexpr = PHASES.LAST
    BLOCK_E: tl.constexpr = FORM.BLOCK_E
    BLOCK_M: tl.constexpr = PHASES.BLOCK_M
    RIM: tl.constexpr = FORM.AT_K is not None and FORM.AT_K.rim > 0
    i_b, i_h, i_row, i_w, i_m, o_m, m_m, t_m = query_tile(z, FORM, BLOCK_M)
    p_q = at_head(p.q, s_q, i_b, i_h)
    b_q = rows_of(p_q, s_q, t_m, m_m, FORM.D, FORM.BLOCK_D, False, True, FORM.DTYPE)
    p_k = at_head(p.k, s_k, i_b, i_h // z.shared_k)
    p_v = at_head(p.v, s_v, i_b, i_h // z.shared_v)
    b_relative = None
    if p.rows is not None:
        o_r = tl.arange(0, FORM.BLOCK_R)
        b_relative = relative_logits(
            p, s_rows, s_columns, i_b, i_h, t_m[:, None], o_r[None, :], m_m[:, None], AT_K,
            FORM.DTYPE,
        )  # fmt: skip
    b_max = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    b_sum = tl.zeros((BLOCK_M,), tl.float32)
    b_out = tl.zeros((BLOCK_M, BLOCK_E), tl.float32)
    if p.position is not None:
        b_max_2 = tl.full((BLOCK_M,), float("-inf"), tl.float32)
        b_sum_2 = tl.zeros((BLOCK_M,), tl.float32)
        b_out_2 = tl.zeros((BLOCK_M, BLOCK_E), tl.float32)
    if stats.entropy is not None:
        b_expected = tl.zeros((BLOCK_M,), tl.float32)
        b_inside = tl.zeros((BLOCK_M,), tl.float32)
    if stats.distance is not None:
        b_distance = tl.zeros((BLOCK_M,), tl.float32)
        b_near = tl.zeros((BLOCK_M,), tl.float32)
    b_peak = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    full, tiles = key_tiles(i_m, z, FORM, PHASES, p.position is not None)
    if ASKED.POOL is not None:
        full = 0
        tiles = tl.cdiv(pools * ASKED.WIDE, PHASES.BLOCK_N)

    for phase in tl.static_range(FIRST, LAST):  # all seen, then with a mask
        if phase == 0:
            start = 0
            stop = full
        else:
            start = full
            stop = tiles
        for step in tl.range(start, stop):
            o_n, m_n = key_places(step, z.m, ASKED, PHASES.BLOCK_N)
            t_n = token_of(o_n, i_w, AT_K)
            SOME: tl.constexpr = phase == 1 or RIM
            m_grid = on_grid(o_n, i_w, m_n, AT_K)
            b_k = columns_of(p_k, s_k, t_n, m_grid, FORM.D, FORM.BLOCK_D, True, SOME, FORM.DTYPE)
            b_s = score_tile(
                b_q, b_k, b_relative, o_m, o_n, m_m, m_n, p, s_bias, s_keep, s_mask, z, i_b, i_h,
                i_w, FORM, phase == 1,
            )  # fmt: skip
            SEEN: tl.constexpr = phase == 0 and p.bias is None and p.keep is None and p.mask is None
            if FORM.SIGMOID:
                b_shrink = 1.0
                b_p = 1.0 / (1.0 + tl.exp2(-b_s))
            else:
                b_p, b_shrink, b_max, b_sum = softmax_step(b_s, b_max, b_sum, SEEN)
                b_out *= b_shrink[:, None]
            if stats.entropy is not None:
                b_own = tl.where(m_grid[None, :], b_p, 0.0) if RIM else b_p
                b_expected, b_inside = entropy_step(
                    b_p, b_s, b_own, b_shrink, b_expected, b_inside, SEEN, FORM.SIGMOID
                )
            if stats.distance is not None:
                b_square = squared_distances(t_m, t_n, GRID)
                b_far = b_own * tl.sqrt(b_square)
                b_distance = sum_step(b_far, b_shrink, b_distance, FORM.SIGMOID)
                if stats.mass is not None:
                    b_close = tl.where(b_square <= radius, b_own, 0.0)
                    b_near = sum_step(b_close, b_shrink, b_near, FORM.SIGMOID)
            if ASKED.POOL is not None:
                b_peak = store_peaks(
                    b_s, b_peak, stats.peak, i_row, t_m, m_m, step, z.total, pools,
                    float("-inf"), ASKED, BLOCK_M, PHASES.BLOCK_N,
                )  # fmt: skip
            b_v = rows_of(p_v, s_v, t_n, m_grid, FORM.E, FORM.BLOCK_E, True, SOME, FORM.DTYPE)
            b_out = tl.dot(b_p.to(FORM.DTYPE), b_v, b_out, input_precision=FORM.PRECISION)
            if p.position is not None:
                mask = m_m[:, None] & m_n[None, :]
                b_s = position_scores(
                    p, s_position, i_h, o_m[:, None], o_n[None, :], mask, float("-inf")
                )
                b_p, b_shrink_2, b_max_2, b_sum_2 = softmax_step(b_s, b_max_2, b_sum_2, False)
                b_out_2 = tl.dot(b_p.to(FORM.DTYPE), b_v, b_out_2 * b_shrink_2[:, None],
                                 input_precision=FORM.PRECISION)  # fmt: skip

    o_row = i_row * z.total + t_m
    b_norm = tl.where(b_sum > 0.0, b_sum, 1.0)
    b_lse = b_max + tl.log2(b_norm)
    if not FORM.SIGMOID:
        b_out /= b_norm[:, None]
        if p_lse is not None:
            tl.store(p_lse + o_row, tl.where(b_sum > 0.0, b_lse, float("inf")), mask=m_m)
    o_e = tl.arange(0, FORM.BLOCK_E)
    o_out = i_b * s_out[0] + i_h * s_out[1] + t_m[:, None] * s_out[2] + o_e[None, :]
    mask = m_m[:, None] & (o_e < FORM.E)[None, :]
    if p.position is not None:
        b_norm_2 = tl.where(b_sum_2 > 0.0, b_sum_2, 1.0)
        b_change = b_out_2 / b_norm_2[:, None] - b_out
        b_lse_2 = tl.where(b_sum_2 > 0.0, b_max_2 + tl.log2(b_norm_2), float("inf"))
        tl.store(p_lse_2 + o_row, b_lse_2, mask=m_m)
        tl.store(p_change + o_out, b_change.to(p_change.dtype.element_ty), mask=mask)
        b_out += tl.load(p.gate + i_h).to(tl.float32) * b_change
    tl.store(p_out + o_out, b_out.to(p_out.dtype.element_ty), mask=mask)
    if stats.entropy is not None:
        if FORM.SIGMOID:
            b_entropy = -b_expected
        else:
            b_level = tl.where(b_sum > 0.0, b_lse, 0.0)
            b_entropy = (b_level * b_inside - b_expected) / b_norm
        tl.store(stats.entropy + o_row, b_entropy / LOG2E, mask=m_m)
    if stats.distance is not None:
        b_distance = b_distance if FORM.SIGMOID else b_distance / b_norm
        tl.store(stats.distance + o_row, b_distance, mask=m_m)
        if stats.mass is not None:
            tl.store(stats.mass + o_row, b_near if FORM.SIGMOID else b_near / b_norm, mask=m_m)


def attend(
    x: AttentionOperands, request: StatisticsRequest | None = None
) -> tuple[Tensor, tuple[Tensor, ...], dict[str, Tensor]]:
    """The result, what the backward needs, and statistics.

    Needed are the log-sum-exp of each row in bits, with a gate also that of its position and the
    difference between what position and content give.
    """
    q = x.pointers.q
    out = like(q, x.pointers.v.shape[-1])
    sums = torch.empty(1 + x.gated, *q.shape[:3], dtype=torch.float32, device=q.device)
    lse = None if x.sigmoid else sums[0]
    change, lse_2 = (torch.empty_like(out), sums[1]) if x.gated else (None, None)
    on_the_way = StatisticsRequest() if request is None or x.gated else request
    stats = Outputs() if request is None or x.gated else request.memory(x)
    tiles = _tiles(x, measured=request is not None)
    _attend[x.programs(x.n, tiles.queries)](
        x.pointers, *x.strides, out, out.stride(), lse, change, lse_2, stats, x.sizes,
        *on_the_way.numbers(x.m), x.form, x.phases(tiles, masked=on_the_way.pool is not None),
        on_the_way.fixed, **options(tiles.warps, tiles.stages),
    )  # fmt: skip
    if request is not None and x.gated:
        stats = measure_gated(x, request, sums, tiles)
    elif stats.peak is not None:
        stats = stats._replace(peak=shares(stats.peak, lse))
    saved = tuple(s for s in (lse, change, lse_2) if s is not None)
    return out, saved, finished(stats, None if request is None else request.pool)


def _tiles(x: AttentionOperands, *, measured: bool) -> Tiles:
    """By head size and precision; smaller where on-chip memory or registers would not hold."""
    p, form = x.pointers, x.form
    size = p.q.element_size()
    if size == 4:
        tiles = Tiles(64, 32, 8, 2) if x.widest <= 64 else Tiles(32, 32, 8, 2)
    elif x.gated or p.rows is not None:
        tiles = Tiles(64, 64, 4, 2) if x.widest <= 64 else Tiles(64, 32, 4, 2)
    elif x.widest <= 64:
        plain = not measured and p.bias is None and x.windows == 1
        tiles = Tiles(128, 64, 4 if plain else 8, 3)
    elif x.widest <= 128:
        tiles = Tiles(128, 64, 8, 3)
    else:
        tiles = Tiles(64, 32, 4, 2)
    tiles = tiles.within(x.n, x.m)
    held = tiles.queries * form.BLOCK_D * size
    step = tiles.keys * (form.BLOCK_D + form.BLOCK_E) * size
    room = (shared_memory(p.q.device) - held) // step
    return replace(tiles, stages=max(1, min(tiles.stages, room, ceil_div(x.m, tiles.keys))))
