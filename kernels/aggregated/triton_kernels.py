"""The forward kernel of aggregated attention, and what its gradients need of it too.

A program holds a tile of queries. It meets the cells of its windows one after the other, row
against row, and pooled keys in tiles, by dots. Queries and keys get length 1 when they are read.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# Triton types kernels when it compiles them.
from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ..shared.triton_rows import LOG2E, load_rows, softmax_step, store_rows

Triple = tuple[int, int, int]
TINY = tl.constexpr(1e-12)  # the least length that a row is divided by


class Pointers(NamedTuple):
    """The tensors that every pass reads; `pool_bias` and `table` are None where there are none.

    embedding `h d`, scale `h n`, local_bias `h w`, pool_bias `h n p` and table `b h n w` are dense.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    embedding: Tensor
    scale: Tensor
    local_bias: Tensor
    pool_bias: Tensor | None
    table: Tensor | None


class Strides(NamedTuple):
    """Of batch, head and token; channels lie next to each other."""

    q: Triple
    k: Triple
    v: Triple


class Sizes(NamedTuple):
    """Heads, the grid's tokens, height and width, pooled keys."""

    heads: int
    tokens: int
    height: int
    width: int
    pooled: int


class Plan(NamedTuple):
    """What is fixed when a kernel is compiled. M is what a program holds, N what it walks over.

    BLOCK_W holds the KERNEL x KERNEL cells of a window
    """

    KERNEL: int
    BLOCK_W: int
    BLOCK_M: int
    BLOCK_N: int
    D: int
    BLOCK_D: int
    E: int
    BLOCK_E: int
    DTYPE: Any
    PRECISION: str


@triton.jit
def cell(o_m, m_m, i_w, z, KERNEL: tl.constexpr):
    """The token in a cell of each query's window, and whether it lies on the grid."""
    y = o_m // z.width + i_w // KERNEL - KERNEL // 2
    x = o_m % z.width + i_w % KERNEL - KERNEL // 2
    return y * z.width + x, m_m & (y >= 0) & (y < z.height) & (x >= 0) & (x < z.width)


@triton.jit
def lengths(b_x):
    """Of rows, none below the least that they are divided by."""
    return tl.maximum(tl.sqrt(tl.sum(b_x * b_x, 1)), TINY)


@triton.jit
def unit_rows(p, o_row, m_row, stride, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Rows of length 1."""
    b_x = load_rows(p, o_row, m_row, stride, D, BLOCK_D, tl.float32)
    return b_x / lengths(b_x)[:, None]


@triton.jit
def turned(b_d, b_unit, b_length):
    """The gradient of rows from that of the same rows at length 1."""
    b_along = tl.where(b_length > TINY, tl.sum(b_d * b_unit, 1), 0.0)
    return (b_d - b_unit * b_along[:, None]) / b_length[:, None]


@triton.jit
def embedding(p, i_h, PLAN: tl.constexpr):
    """What is added to every query of length 1, `1 BLOCK_D`."""
    o_d = tl.arange(0, PLAN.BLOCK_D)
    b_more = tl.load(p.embedding + i_h * PLAN.D + o_d, mask=o_d < PLAN.D, other=0.0)
    return b_more.to(tl.float32)[None, :]


@triton.jit
def scales(p, i_h, o_m, m_m, z):
    """What the scores of each query are multiplied by."""
    return tl.load(p.scale + i_h * z.tokens + o_m, mask=m_m, other=0.0).to(tl.float32)


@triton.jit
def scaled_queries(p, s_q, i_b, i_h, o_m, m_m, z, PLAN: tl.constexpr):
    """scale (q^ + embedding) in bits."""
    p_q = p.q + i_b * s_q[0] + i_h * s_q[1]
    b_unit = unit_rows(p_q, o_m, m_m, s_q[2], PLAN.D, PLAN.BLOCK_D)
    return (b_unit + embedding(p, i_h, PLAN)) * (scales(p, i_h, o_m, m_m, z) * LOG2E)[:, None]


@triton.jit
def window_scores(b_q, p, s_k, i_b, i_h, o_m, m_m, z, PLAN: tl.constexpr):
    """Scores in bits of each cell of a window, `row BLOCK_W`; -inf where none is seen."""
    BLOCK_M: tl.constexpr = PLAN.BLOCK_M
    BLOCK_W: tl.constexpr = PLAN.BLOCK_W
    o_w = tl.arange(0, PLAN.BLOCK_W)
    b_s = tl.full((BLOCK_M, BLOCK_W), float("-inf"), tl.float32)
    for i_w in range(PLAN.KERNEL * PLAN.KERNEL):
        o_n, m_n = cell(o_m, m_m, i_w, z, PLAN.KERNEL)
        p_k = p.k + i_b * s_k[0] + i_h * s_k[1]
        b_k = unit_rows(p_k, o_n, m_n, s_k[2], PLAN.D, PLAN.BLOCK_D)
        b_score = tl.sum(b_q * b_k, 1) + local_bias(p, i_h, i_w, PLAN)
        b_s = tl.where((o_w == i_w)[None, :] & m_n[:, None], b_score[:, None], b_s)
    return b_s


@triton.jit
def local_bias(p, i_h, i_w, PLAN: tl.constexpr):
    """The bias of a cell, in bits."""
    p_bias = p.local_bias + i_h * PLAN.KERNEL * PLAN.KERNEL + i_w
    return tl.load(p_bias).to(tl.float32) * LOG2E


@triton.jit
def window_table(p, i_row, o_m, m_m, z, PLAN: tl.constexpr):
    """What is added behind the softmax, `row BLOCK_W`; zeros without a table."""
    BLOCK_M: tl.constexpr = PLAN.BLOCK_M
    BLOCK_W: tl.constexpr = PLAN.BLOCK_W
    if p.table is None:
        b_table = tl.zeros((BLOCK_M, BLOCK_W), tl.float32)
    else:
        CELLS: tl.constexpr = PLAN.KERNEL * PLAN.KERNEL
        o_w = tl.arange(0, PLAN.BLOCK_W)
        o_row = (i_row.to(tl.int64) * z.tokens + o_m) * CELLS
        mask = m_m[:, None] & (o_w < CELLS)[None, :]
        b_table = tl.load(p.table + o_row[:, None] + o_w[None, :], mask=mask, other=0.0)
        b_table = b_table.to(tl.float32)
    return b_table


@triton.jit
def pool_keys(p, s_k, i_b, i_h, o_n, m_n, z, PLAN: tl.constexpr):
    """Some pooled keys at length 1, as dots take them."""
    p_k = p.k + i_b * s_k[0] + i_h * s_k[1]
    b_k = unit_rows(p_k, z.tokens + o_n, m_n, s_k[2], PLAN.D, PLAN.BLOCK_D)
    return b_k.to(PLAN.DTYPE)


@triton.jit
def pool_scores(b_q, b_k, p, i_h, o_m, m_m, o_n, m_n, z, PLAN: tl.constexpr):
    """Scores in bits of some pooled keys, -inf beyond."""
    b_s = tl.dot(b_q.to(PLAN.DTYPE), tl.trans(b_k), input_precision=PLAN.PRECISION)
    if p.pool_bias is not None:
        o_bias = (i_h * z.tokens + o_m).to(tl.int64) * z.pooled
        mask = m_m[:, None] & m_n[None, :]
        p_bias = p.pool_bias + o_bias[:, None] + o_n[None, :]
        b_s += tl.load(p_bias, mask=mask, other=0.0).to(tl.float32) * LOG2E
    return tl.where(m_n[None, :], b_s, float("-inf"))


@triton.jit
def column(b_x, i_w, PLAN: tl.constexpr):
    """One column of `row BLOCK_W`."""
    o_w = tl.arange(0, PLAN.BLOCK_W)
    return tl.sum(tl.where((o_w == i_w)[None, :], b_x, 0.0), 1)


@triton.jit
def attend(p, s_q, s_k, s_v, p_out, s_out, p_lse, p_foveal, z, PLAN: tl.constexpr):
    """A tile of queries: its result, the base-2 log-sum-exp of its scores, its foveal share."""
    BLOCK_E: tl.constexpr = PLAN.BLOCK_E
    i_row = tl.program_id(1)
    i_b, i_h = (i_row // z.heads).to(tl.int64), (i_row % z.heads).to(tl.int64)
    o_m = tl.program_id(0) * PLAN.BLOCK_M + tl.arange(0, PLAN.BLOCK_M)
    m_m = o_m < z.tokens
    b_q = scaled_queries(p, s_q, i_b, i_h, o_m, m_m, z, PLAN)
    b_s = window_scores(b_q, p, s_k, i_b, i_h, o_m, m_m, z, PLAN)
    b_max = tl.where(m_m, tl.max(b_s, 1), 0.0)  # a query is in its own window
    b_sum = tl.sum(tl.exp2(b_s - b_max[:, None]), 1)
    b_out = tl.zeros((PLAN.BLOCK_M, BLOCK_E), tl.float32)
    p_v = p.v + i_b * s_v[0] + i_h * s_v[1]
    for start in range(0, z.pooled, PLAN.BLOCK_N):
        o_n = start + tl.arange(0, PLAN.BLOCK_N)
        m_n = o_n < z.pooled
        b_k = pool_keys(p, s_k, i_b, i_h, o_n, m_n, z, PLAN)
        b_far = pool_scores(b_q, b_k, p, i_h, o_m, m_m, o_n, m_n, z, PLAN)
        b_p, b_shrink, b_max, b_sum = softmax_step(b_far, b_max, b_sum, True)
        b_v = load_rows(p_v, z.tokens + o_n, m_n, s_v[2], PLAN.E, PLAN.BLOCK_E, PLAN.DTYPE)
        b_out = tl.dot(
            b_p.to(PLAN.DTYPE), b_v, b_out * b_shrink[:, None], input_precision=PLAN.PRECISION
        )
    b_lse = b_max + tl.log2(b_sum)
    b_out = b_out / b_sum[:, None]
    b_near = tl.exp2(b_s - b_lse[:, None])
    b_weight = b_near + window_table(p, i_row, o_m, m_m, z, PLAN)
    for i_w in range(PLAN.KERNEL * PLAN.KERNEL):
        o_n, m_n = cell(o_m, m_m, i_w, z, PLAN.KERNEL)
        b_v = load_rows(p_v, o_n, m_n, s_v[2], PLAN.E, PLAN.BLOCK_E, tl.float32)
        b_out += column(b_weight, i_w, PLAN)[:, None] * b_v
    store_rows(
        p_out + i_b * s_out[0] + i_h * s_out[1], o_m, m_m, s_out[2], b_out, PLAN.E, PLAN.BLOCK_E
    )
    o_row = i_row.to(tl.int64) * z.tokens + o_m
    tl.store(p_lse + o_row, b_lse, mask=m_m)
    tl.store(p_foveal + o_row, tl.sum(b_near, 1), mask=m_m)
