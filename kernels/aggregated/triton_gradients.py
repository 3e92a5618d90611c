"""The gradients of aggregated attention: by queries, by tokens, by pooled keys, by bias.

With p the shares, d = g v' and delta = sum p d, the gradient of a score is p (d - delta). A token
gathers from the queries whose windows hold it, so nothing is added up by atomics.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# Triton types kernels when it compiles them.
from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ..shared.triton_rows import LOG2E, load_rows, store_rows
from .triton_kernels import (
    cell,
    column,
    embedding,
    lengths,
    local_bias,
    pool_keys,
    pool_scores,
    scaled_queries,
    scales,
    turned,
    unit_rows,
    window_scores,
)

LN2 = tl.constexpr(0.6931471805599453)  # nats of a bit


class Given(NamedTuple):
    """What a backward starts from: g, the log-sum-exp of each query and memory for its delta."""

    g: Tensor
    lse: Tensor
    delta: Tensor


class QueryGradients(NamedTuple):
    """Memory for the gradients that queries make.

    q with the strides of batch, head and token; scale `b h n`, table `b h n w`; embedding
    `tiles b h d` and local_bias `tiles b h w`: sums over a tile
    """

    q: Tensor
    scale: Tensor
    table: Tensor
    embedding: Tensor
    local_bias: Tensor


@triton.jit
def to_queries(p, s_q, s_k, s_v, r, s_g, d, s_dq, z, PLAN: tl.constexpr):
    """A tile of queries: the gradients of all that belongs to them, and delta."""
    BLOCK_M: tl.constexpr = PLAN.BLOCK_M
    BLOCK_W: tl.constexpr = PLAN.BLOCK_W
    BLOCK_D: tl.constexpr = PLAN.BLOCK_D
    CELLS: tl.constexpr = PLAN.KERNEL * PLAN.KERNEL
    i_row = tl.program_id(1)
    i_b, i_h = (i_row // z.heads).to(tl.int64), (i_row % z.heads).to(tl.int64)
    o_m = tl.program_id(0) * PLAN.BLOCK_M + tl.arange(0, PLAN.BLOCK_M)
    m_m = o_m < z.tokens
    o_row = i_row.to(tl.int64) * z.tokens + o_m
    p_g = r.g + i_b * s_g[0] + i_h * s_g[1]
    b_g = load_rows(p_g, o_m, m_m, s_g[2], PLAN.E, PLAN.BLOCK_E, PLAN.DTYPE)
    b_lse = tl.load(r.lse + o_row, mask=m_m, other=float("inf"))
    p_k, p_v = p.k + i_b * s_k[0] + i_h * s_k[1], p.v + i_b * s_v[0] + i_h * s_v[1]
    p_q = p.q + i_b * s_q[0] + i_h * s_q[1]
    b_unit = load_rows(p_q, o_m, m_m, s_q[2], PLAN.D, PLAN.BLOCK_D, tl.float32)
    b_length = lengths(b_unit)
    b_unit = b_unit / b_length[:, None]
    b_scale = scales(p, i_h, o_m, m_m, z)
    b_sum_q = b_unit + embedding(p, i_h, PLAN)
    b_q = b_sum_q * (b_scale * LOG2E)[:, None]
    o_w = tl.arange(0, PLAN.BLOCK_W)
    b_dw = tl.zeros((BLOCK_M, BLOCK_W), tl.float32)
    for i_w in range(CELLS):
        o_n, m_n = cell(o_m, m_m, i_w, z, PLAN.KERNEL)
        b_v = load_rows(p_v, o_n, m_n, s_v[2], PLAN.E, PLAN.BLOCK_E, tl.float32)
        b_d = tl.sum(b_g.to(tl.float32) * b_v, 1)
        b_dw = tl.where((o_w == i_w)[None, :], b_d[:, None], b_dw)
    b_s = window_scores(b_q, p, s_k, i_b, i_h, o_m, m_m, z, PLAN)
    b_near = tl.exp2(b_s - b_lse[:, None])
    b_delta = tl.sum(b_near * b_dw, 1)
    for start in range(0, z.pooled, PLAN.BLOCK_N):  # the result is rounded: g . out is less exact
        o_n = start + tl.arange(0, PLAN.BLOCK_N)
        m_n = o_n < z.pooled
        b_k = pool_keys(p, s_k, i_b, i_h, o_n, m_n, z, PLAN)
        b_p = tl.exp2(pool_scores(b_q, b_k, p, i_h, o_m, m_m, o_n, m_n, z, PLAN) - b_lse[:, None])
        b_far = pool_slopes(b_g, p_v, s_v, o_n, m_n, z, PLAN)
        b_delta += tl.sum(b_p * b_far, 1)
    tl.store(r.delta + o_row, b_delta, mask=m_m)
    b_ds = b_near * (b_dw - b_delta[:, None])
    b_dq = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for i_w in range(CELLS):
        o_n, m_n = cell(o_m, m_m, i_w, z, PLAN.KERNEL)
        b_k = unit_rows(p_k, o_n, m_n, s_k[2], PLAN.D, PLAN.BLOCK_D)
        b_dq += column(b_ds, i_w, PLAN)[:, None] * b_k
    for start in range(0, z.pooled, PLAN.BLOCK_N):
        o_n = start + tl.arange(0, PLAN.BLOCK_N)
        m_n = o_n < z.pooled
        b_k = pool_keys(p, s_k, i_b, i_h, o_n, m_n, z, PLAN)
        b_p = tl.exp2(pool_scores(b_q, b_k, p, i_h, o_m, m_m, o_n, m_n, z, PLAN) - b_lse[:, None])
        b_far = pool_slopes(b_g, p_v, s_v, o_n, m_n, z, PLAN)
        b_far = (b_p * (b_far - b_delta[:, None])).to(PLAN.DTYPE)
        b_dq = tl.dot(b_far, b_k, b_dq, input_precision=PLAN.PRECISION)
    tl.store(d.scale + o_row, tl.sum(b_dq * b_sum_q, 1), mask=m_m)
    b_dq *= b_scale[:, None]
    p_dq = d.q + i_b * s_dq[0] + i_h * s_dq[1]
    b_own = turned(b_dq, b_unit, b_length)
    store_rows(p_dq, o_m, m_m, s_dq[2], b_own, PLAN.D, PLAN.BLOCK_D)
    p_table = d.table + o_row[:, None] * CELLS + o_w[None, :]
    tl.store(p_table, b_dw.to(d.table.dtype.element_ty), mask=m_m[:, None] & (o_w < CELLS)[None, :])
    o_d, i_sum = tl.arange(0, PLAN.BLOCK_D), tl.program_id(0) * tl.num_programs(1) + i_row
    tl.store(d.embedding + i_sum * PLAN.D + o_d, tl.sum(b_dq, 0), mask=o_d < PLAN.D)
    tl.store(d.local_bias + i_sum * CELLS + o_w, tl.sum(b_ds, 0), mask=o_w < CELLS)


@triton.jit
def pool_slopes(b_g, p_v, s_v, o_n, m_n, z, PLAN: tl.constexpr):
    """g v' of some pooled values."""
    b_v = load_rows(p_v, z.tokens + o_n, m_n, s_v[2], PLAN.E, PLAN.BLOCK_E, PLAN.DTYPE)
    return tl.dot(b_g, tl.trans(b_v), input_precision=PLAN.PRECISION)


@triton.jit
def to_tokens(p, s_q, s_k, s_v, r, s_g, p_dk, s_dk, p_dv, s_dv, z, PLAN: tl.constexpr):
    """A tile of the grid's tokens as keys and values: what queries around them give."""
    BLOCK_M: tl.constexpr = PLAN.BLOCK_M
    BLOCK_D: tl.constexpr = PLAN.BLOCK_D
    BLOCK_E: tl.constexpr = PLAN.BLOCK_E
    CELLS: tl.constexpr = PLAN.KERNEL * PLAN.KERNEL
    i_row = tl.program_id(1)
    i_b, i_h = (i_row // z.heads).to(tl.int64), (i_row % z.heads).to(tl.int64)
    o_m = tl.program_id(0) * PLAN.BLOCK_M + tl.arange(0, PLAN.BLOCK_M)
    m_m = o_m < z.tokens
    p_k, p_v = p.k + i_b * s_k[0] + i_h * s_k[1], p.v + i_b * s_v[0] + i_h * s_v[1]
    b_k = load_rows(p_k, o_m, m_m, s_k[2], PLAN.D, PLAN.BLOCK_D, tl.float32)
    b_length = lengths(b_k)
    b_k = b_k / b_length[:, None]
    b_v = load_rows(p_v, o_m, m_m, s_v[2], PLAN.E, PLAN.BLOCK_E, tl.float32)
    b_dk = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    b_dv = tl.zeros((BLOCK_M, BLOCK_E), tl.float32)
    p_g = r.g + i_b * s_g[0] + i_h * s_g[1]
    for i_w in range(CELLS):  # this token is in cell i_w of the query in its opposite cell
        o_n, m_n = cell(o_m, m_m, CELLS - 1 - i_w, z, PLAN.KERNEL)
        b_q = scaled_queries(p, s_q, i_b, i_h, o_n, m_n, z, PLAN)
        b_g = load_rows(p_g, o_n, m_n, s_g[2], PLAN.E, PLAN.BLOCK_E, tl.float32)
        o_row = i_row.to(tl.int64) * z.tokens + o_n
        b_lse = tl.load(r.lse + o_row, mask=m_n, other=float("inf"))
        b_delta = tl.load(r.delta + o_row, mask=m_n, other=0.0)
        b_p = tl.exp2(tl.sum(b_q * b_k, 1) + local_bias(p, i_h, i_w, PLAN) - b_lse)
        b_weight = b_p
        if p.table is not None:
            b_more = tl.load(p.table + o_row * CELLS + i_w, mask=m_n, other=0.0)
            b_weight = b_p + b_more.to(tl.float32)
        b_dv += b_weight[:, None] * b_g
        b_ds = b_p * (tl.sum(b_g * b_v, 1) - b_delta)
        b_dk += b_ds[:, None] * b_q
    b_own = turned(b_dk * LN2, b_k, b_length)
    p_dk += i_b * s_dk[0] + i_h * s_dk[1]
    p_dv += i_b * s_dv[0] + i_h * s_dv[1]
    store_rows(p_dk, o_m, m_m, s_dk[2], b_own, PLAN.D, PLAN.BLOCK_D)
    store_rows(p_dv, o_m, m_m, s_dv[2], b_dv, PLAN.E, PLAN.BLOCK_E)


@triton.jit
def to_pooled(p, s_q, s_k, s_v, r, s_g, p_dk, p_dv, z, part, PLAN: tl.constexpr):
    """What `part` queries add to the gradients of pooled keys, at length 1, and values."""
    BLOCK_N: tl.constexpr = PLAN.BLOCK_N
    BLOCK_D: tl.constexpr = PLAN.BLOCK_D
    BLOCK_E: tl.constexpr = PLAN.BLOCK_E
    i_row, tiles = tl.program_id(1), tl.cdiv(z.pooled, PLAN.BLOCK_N)
    i_b, i_h = (i_row // z.heads).to(tl.int64), (i_row % z.heads).to(tl.int64)
    o_n = tl.program_id(0) % tiles * PLAN.BLOCK_N + tl.arange(0, PLAN.BLOCK_N)
    m_n = o_n < z.pooled
    first = tl.program_id(0) // tiles * part
    p_v, p_g = p.v + i_b * s_v[0] + i_h * s_v[1], r.g + i_b * s_g[0] + i_h * s_g[1]
    b_k = pool_keys(p, s_k, i_b, i_h, o_n, m_n, z, PLAN)
    b_v = load_rows(p_v, z.tokens + o_n, m_n, s_v[2], PLAN.E, PLAN.BLOCK_E, PLAN.DTYPE)
    b_dk = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    b_dv = tl.zeros((BLOCK_N, BLOCK_E), tl.float32)
    for start in range(0, part, PLAN.BLOCK_M):
        o_m = first + start + tl.arange(0, PLAN.BLOCK_M)
        m_m = o_m < z.tokens
        b_q = scaled_queries(p, s_q, i_b, i_h, o_m, m_m, z, PLAN)
        b_s = tl.dot(b_k, tl.trans(b_q.to(PLAN.DTYPE)), input_precision=PLAN.PRECISION)
        if p.pool_bias is not None:
            o_bias = (i_h * z.tokens + o_m).to(tl.int64) * z.pooled
            mask = m_n[:, None] & m_m[None, :]
            b_bias = tl.load(p.pool_bias + o_bias[None, :] + o_n[:, None], mask=mask, other=0.0)
            b_s += b_bias.to(tl.float32) * LOG2E
        o_row = i_row.to(tl.int64) * z.tokens + o_m
        b_lse = tl.load(r.lse + o_row, mask=m_m, other=float("inf"))
        b_delta = tl.load(r.delta + o_row, mask=m_m, other=0.0)
        b_g = load_rows(p_g, o_m, m_m, s_g[2], PLAN.E, PLAN.BLOCK_E, PLAN.DTYPE)
        b_p = tl.exp2(b_s - b_lse[None, :])
        b_dv = tl.dot(b_p.to(PLAN.DTYPE), b_g, b_dv, input_precision=PLAN.PRECISION)
        b_d = tl.dot(b_v, tl.trans(b_g), input_precision=PLAN.PRECISION)
        b_ds = (b_p * (b_d - b_delta[None, :])).to(PLAN.DTYPE)
        b_dk = tl.dot(b_ds, b_q.to(PLAN.DTYPE), b_dk, input_precision=PLAN.PRECISION)
    i_sum = tl.program_id(0) // tiles * tl.num_programs(1) + i_row
    o_part = i_sum.to(tl.int64) * z.pooled
    store_rows(p_dk + o_part * PLAN.D, o_n, m_n, PLAN.D, b_dk * LN2, PLAN.D, PLAN.BLOCK_D)
    store_rows(p_dv + o_part * PLAN.E, o_n, m_n, PLAN.E, b_dv, PLAN.E, PLAN.BLOCK_E)


@triton.jit
def to_pool_bias(p, s_q, s_k, s_v, r, s_g, p_dbias, pictures, z, PLAN: tl.constexpr):
    """The gradient of the bias of some queries and pooled keys, `h n p`: a sum over pictures."""
    BLOCK_M: tl.constexpr = PLAN.BLOCK_M
    BLOCK_N: tl.constexpr = PLAN.BLOCK_N
    tiles = tl.cdiv(z.pooled, PLAN.BLOCK_N)
    i_h = tl.program_id(1).to(tl.int64)
    o_m = tl.program_id(0) // tiles * PLAN.BLOCK_M + tl.arange(0, PLAN.BLOCK_M)
    o_n = tl.program_id(0) % tiles * PLAN.BLOCK_N + tl.arange(0, PLAN.BLOCK_N)
    m_m, m_n = o_m < z.tokens, o_n < z.pooled
    b_dbias = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for picture in range(pictures):
        i_b = i_h * 0 + picture  # in 64 bits
        b_q = scaled_queries(p, s_q, i_b, i_h, o_m, m_m, z, PLAN)
        b_k = pool_keys(p, s_k, i_b, i_h, o_n, m_n, z, PLAN)
        b_s = pool_scores(b_q, b_k, p, i_h, o_m, m_m, o_n, m_n, z, PLAN)
        p_v, p_g = p.v + i_b * s_v[0] + i_h * s_v[1], r.g + i_b * s_g[0] + i_h * s_g[1]
        b_g = load_rows(p_g, o_m, m_m, s_g[2], PLAN.E, PLAN.BLOCK_E, PLAN.DTYPE)
        o_row = (i_b * z.heads + i_h) * z.tokens + o_m
        b_lse = tl.load(r.lse + o_row, mask=m_m, other=float("inf"))
        b_delta = tl.load(r.delta + o_row, mask=m_m, other=0.0)
        b_d = pool_slopes(b_g, p_v, s_v, o_n, m_n, z, PLAN)
        b_dbias += tl.exp2(b_s - b_lse[:, None]) * (b_d - b_delta[:, None])
    p_row = p_dbias + (i_h * z.tokens + o_m)[:, None] * z.pooled + o_n[None, :]
    tl.store(p_row, b_dbias.to(p_dbias.dtype.element_ty), mask=m_m[:, None] & m_n[None, :])
