"""The gradients of scores summed to the shape of a bias or a position, tile by tile.

Each program sums over what shares its tile; parts of long sums are added up by torch.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# Triton types kernels when it compiles them.
from __future__ import annotations

import math
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ..shared.triton_launch import ceil_div, options
from .triton_operands import AttentionOperands, backward_tiles, by_window
from .triton_tiles import (
    Saved,
    at_head,
    columns_of,
    on_grid,
    position_scores,
    relative_logits,
    rows_of,
    score_gradient,
    score_tile,
    share_of,
    token_of,
)

MOST_PROGRAMS = 1024  # sums in parts keep a GPU busy, but each part is written once more


class Shared(NamedTuple):
    """Of heads and windows, those with a bias of their own and those that share it; then all
    sharers, how many of them a program sums over, and rows and columns of what it writes."""

    own_h: int
    own_w: int
    loop_h: int
    loop_w: int
    loops: int
    each: int
    high: int
    wide: int


class Target(NamedTuple):
    """What is fixed of a bias when a kernel is compiled.

    PLACED         it is the position of gated attention
    SLOPED         it is the slopes, which are multiplied by distances
    OVER_M, OVER_N queries or keys share it
    """

    PLACED: bool
    SLOPED: bool
    OVER_M: bool
    OVER_N: bool
    BLOCK_M: int
    BLOCK_N: int


@triton.jit
def _to_scores(
    p, s_q, s_k, s_v, s_bias, s_position, s_rows, s_columns, s_keep, s_mask, saved, s_g, p_sums,
    z, shared, FORM: tl.constexpr, TARGET: tl.constexpr,
):  # fmt: skip
    """ds of one tile, summed over what the bias is shared by; or that of position, if PLACED.

    sums   `part own high wide`: where queries or keys share a bias, one row or column a tile
    """
    BLOCK_M: tl.constexpr = TARGET.BLOCK_M
    BLOCK_N: tl.constexpr = TARGET.BLOCK_N
    down, across = tl.cdiv(z.n, BLOCK_M), tl.cdiv(z.m, BLOCK_N)
    i_n, i_m = tl.program_id(0) % across, tl.program_id(0) // across % down
    i_own = tl.program_id(0) // across // down
    o_m, o_n = i_m * BLOCK_M + tl.arange(0, BLOCK_M), i_n * BLOCK_N + tl.arange(0, BLOCK_N)
    m_m, m_n = o_m < z.n, o_n < z.m
    b_sum = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    first = tl.program_id(1) * shared.each
    for i in tl.range(first, tl.minimum(first + shared.each, shared.loops)):
        i_w = i_own % shared.own_w + i % shared.loop_w
        i_h = (i_own // shared.own_w % shared.own_h + i // shared.loop_w % shared.loop_h).to(
            tl.int64
        )
        i_b = (i_own // shared.own_w // shared.own_h + i // shared.loop_w // shared.loop_h).to(
            tl.int64
        )
        b_sum += _score_gradients(
            o_m, o_n, m_m, m_n, p, s_q, s_k, s_v, s_bias, s_rows, s_columns, s_keep, s_mask, saved,
            s_g, z, i_b, i_h, i_w, FORM, TARGET,
        )  # fmt: skip
    mask = m_m[:, None] & m_n[None, :]
    if TARGET.PLACED:
        i_h = i_own.to(tl.int64)
        b_s = position_scores(p, s_position, i_h, o_m[:, None], o_n[None, :], mask, 0.0)
        b_lse = tl.load(saved.lse_2 + i_h * z.total + o_m, mask=m_m, other=float("inf"))
        b_sum *= tl.exp2(b_s - b_lse[:, None]) * tl.load(p.gate + i_h).to(tl.float32)
    if TARGET.SLOPED:
        b_sum *= -tl.abs(o_m[:, None] + (z.m - z.n) - o_n[None, :]).to(tl.float32)
    b_sum = tl.where(mask, b_sum, 0.0)
    i_line = (tl.program_id(1) * (tl.num_programs(0) // across // down) + i_own).to(tl.int64)
    p_sums += i_line * shared.high * shared.wide
    if TARGET.OVER_M and TARGET.OVER_N:
        tl.store(p_sums + i_m * shared.wide + i_n, tl.sum(tl.sum(b_sum, 1), 0))
    elif TARGET.OVER_M:
        tl.store(p_sums + i_m * shared.wide + o_n, tl.sum(b_sum, 0), mask=m_n)
    elif TARGET.OVER_N:
        tl.store(p_sums + o_m * shared.wide + i_n, tl.sum(b_sum, 1), mask=m_m)
    else:
        tl.store(p_sums + o_m[:, None] * shared.wide + o_n[None, :], b_sum, mask=mask)


@triton.jit
def _score_gradients(
    o_m, o_n, m_m, m_n, p, s_q, s_k, s_v, s_bias, s_rows, s_columns, s_keep, s_mask, saved, s_g, z,
    i_b, i_h, i_w, FORM: tl.constexpr, TARGET: tl.constexpr,
):  # fmt: skip
    """ds of one tile; of position without its share of the map."""
    AT_Q: tl.constexpr = FORM.AT_Q
    AT_K: tl.constexpr = FORM.AT_K
    BLOCK_M: tl.constexpr = TARGET.BLOCK_M
    t_m, t_n = token_of(o_m, i_w, AT_Q), token_of(o_n, i_w, AT_K)
    m_grid = on_grid(o_n, i_w, m_n, AT_K)
    p_g = at_head(saved.g, s_g, i_b, i_h)
    b_g = rows_of(p_g, s_g, t_m, m_m, FORM.E, FORM.BLOCK_E, False, True, FORM.DTYPE)
    p_v = at_head(p.v, s_v, i_b, i_h // z.shared_v)
    b_v = columns_of(p_v, s_v, t_n, m_grid, FORM.E, FORM.BLOCK_E, False, True, FORM.DTYPE)
    b_ds = tl.dot(b_g, b_v, input_precision=FORM.PRECISION)
    o_row = (i_b * z.heads + i_h) * z.total + t_m
    b_delta = tl.zeros((BLOCK_M,), tl.float32)
    if not FORM.SIGMOID:
        b_delta = tl.load(saved.delta + o_row, mask=m_m, other=0.0)
    if TARGET.PLACED:
        b_ds -= (b_delta + tl.load(saved.dgate + o_row, mask=m_m, other=0.0))[:, None]
    else:
        p_q = at_head(p.q, s_q, i_b, i_h)
        b_q = rows_of(p_q, s_q, t_m, m_m, FORM.D, FORM.BLOCK_D, False, True, FORM.DTYPE)
        p_k = at_head(p.k, s_k, i_b, i_h // z.shared_k)
        b_k = columns_of(p_k, s_k, t_n, m_grid, FORM.D, FORM.BLOCK_D, False, True, FORM.DTYPE)
        b_relative = None
        if p.rows is not None:
            o_r = tl.arange(0, FORM.BLOCK_R)
            b_relative = relative_logits(
                p, s_rows, s_columns, i_b, i_h, t_m[:, None], o_r[None, :], m_m[:, None], AT_K,
                FORM.DTYPE,
            )  # fmt: skip
        b_s = score_tile(
            b_q, b_k, b_relative, o_m, o_n, m_m, m_n, p, s_bias, s_keep, s_mask, z, i_b, i_h, i_w,
            FORM, True,
        )  # fmt: skip
        b_lse = tl.zeros((BLOCK_M,), tl.float32)
        if not FORM.SIGMOID:
            b_lse = tl.load(saved.lse + o_row, mask=m_m, other=float("inf"))
        b_p = share_of(b_s, b_lse[:, None], FORM.SIGMOID)
        b_ds = score_gradient(b_p, b_ds, b_delta[:, None], FORM.SIGMOID)
        if p.position is not None:
            b_ds *= 1.0 - tl.load(p.gate + i_h).to(tl.float32)
    return b_ds


def bias_gradient(x: AttentionOperands, bias: Tensor, saved: Saved) -> Tensor:
    """The gradient of the bias in the shape that the caller gave it."""
    return scores_gradient(x, by_window(bias), saved).reshape(bias.shape)


def slopes_gradient(x: AttentionOperands, slopes: Tensor, saved: Saved) -> Tensor:
    """The gradient of ALiBi's slopes, `h`."""
    like = slopes.reshape(1, -1, 1, 1, 1)
    return scores_gradient(x, like, saved, sloped=True).reshape(slopes.shape)


def scores_gradient(
    x: AttentionOperands, like: Tensor, saved: Saved, *, placed: bool = False, sloped: bool = False
) -> Tensor:
    """ds summed to the shape of a bias `b h w q k` or, if `placed`, a position `h n m`.

    sloped   each times minus how far the key lies from the query
    """
    sizes = *x.pointers.q.shape[:2], x.windows
    kept = (1, like.shape[0], 1) if placed else tuple(like.shape[:3])
    loop = tuple(1 if have == size else size for have, size in zip(kept, sizes, strict=True))
    over_m = not placed and (sloped or like.shape[-2] != x.n)
    over_n = not placed and (sloped or like.shape[-1] != x.m)
    tiles = backward_tiles(x, (64, 64), x.m)
    down, across = ceil_div(x.n, tiles.queries), ceil_div(x.m, tiles.keys)
    high, wide = down if over_m else x.n, across if over_n else x.m
    loops, programs = math.prod(loop), down * across * math.prod(kept)
    parts = max(1, min(loops, MOST_PROGRAMS // programs, 65_535))
    each = ceil_div(loops, parts)
    parts = ceil_div(loops, each)
    sums = saved.delta.new_empty(parts, *kept, high, wide)
    _to_scores[(programs, parts)](
        x.pointers, *x.strides, saved, saved.g.stride(), sums, x.sizes,
        Shared(kept[1], kept[2], loop[1], loop[2], loops, each, high, wide),
        x.form, Target(placed, sloped, over_m, over_n, tiles.queries, tiles.keys),
        **options(tiles.warps, 1),
    )  # fmt: skip
    sums = sums[0] if parts == 1 else sums.sum(0)
    sums = sums.sum(-2, keepdim=True) if over_m else sums
    sums = sums.sum(-1, keepdim=True) if over_n else sums
    return sums.reshape(like.shape).to(like.dtype)
