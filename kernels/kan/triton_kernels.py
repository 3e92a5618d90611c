"""The kernels of learned maps: Phi(A) and its gradients, scores formed on chip and never written.

Cosines and sines of m x follow from those of x by turning, and are reduced over keys at once.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# Triton types kernels when it compiles them.
from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from ..shared.triton_rows import load_rows, store_rows

SQRT_HALF = tl.constexpr(0.7071067811865476)
INVERSE_SQRT_2PI = tl.constexpr(0.3989422804014327)


class Sizes(NamedTuple):
    """Heads, queries, keys, functions of a key, and what scores are multiplied by."""

    heads: int
    n: int
    m: int
    functions: int
    scale: float


class Plan(NamedTuple):
    """What is fixed when a kernel is compiled.

    GRID  frequencies; a table holds the coefficients of GRID cosines, of as many sines, and of the
          base function, if there is one (BASE: 0 none, 1 identity, 2 SiLU, 3 GELU)
    """

    GRID: int
    BASE: int
    D: int
    BLOCK_D: int
    BLOCK_R: int
    BLOCK_M: int
    BLOCK_N: int
    DTYPE: Any
    PRECISION: str


@triton.jit
def _place(z, count, BLOCK: tl.constexpr):
    """Of a program: picture, head, both in one, its tokens and which of them there are."""
    tiles = tl.cdiv(count, BLOCK)
    i_row = tl.program_id(0) // tiles
    o_token = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    i_b, i_h = (i_row // z.heads).to(tl.int64), i_row % z.heads
    return i_b, i_h, i_row.to(tl.int64), o_token, o_token < count


@triton.jit
def _entry(p_table, i_h, term, o_n, m_n, z, PLAN: tl.constexpr):
    """The coefficients of one term, `key function`; zeros where there is no key."""
    TERMS: tl.constexpr = 2 * PLAN.GRID + (1 if PLAN.BASE else 0)
    p_term = p_table + (i_h * TERMS + term).to(tl.int64) * z.m * z.functions
    o_r = tl.arange(0, PLAN.BLOCK_R)
    mask = m_n[:, None] & (o_r < z.functions)[None, :]
    at = o_n[:, None] * z.functions + o_r[None, :]
    return tl.load(p_term + at, mask=mask, other=0.0).to(PLAN.DTYPE)


@triton.jit
def _received(p_g, i_row, o_m, m_m, z, PLAN: tl.constexpr):
    """The gradient of Phi(A), `query function`."""
    o_r = tl.arange(0, PLAN.BLOCK_R)
    mask = m_m[:, None] & (o_r < z.functions)[None, :]
    p_rows = p_g + i_row * z.n * z.functions
    at = o_m[:, None] * z.functions + o_r[None, :]
    return tl.load(p_rows + at, mask=mask, other=0.0).to(PLAN.DTYPE)


@triton.jit
def _base(x, BASE: tl.constexpr):
    """The base function."""
    if BASE == 2:
        return x * tl.sigmoid(x)
    if BASE == 3:
        return 0.5 * x * (1 + tl.erf(x * SQRT_HALF))
    return x


@triton.jit
def _base_slope(x, BASE: tl.constexpr):
    """The derivative of the base function."""
    if BASE == 2:
        share = tl.sigmoid(x)
        return share * (1 + x * (1 - share))
    if BASE == 3:
        return 0.5 * (1 + tl.erf(x * SQRT_HALF)) + x * INVERSE_SQRT_2PI * tl.exp(-0.5 * x * x)
    return x * 0 + 1


@triton.jit
def reduce_keys(p_q, s_q, p_k, s_k, p_table, p_phi, z, PLAN: tl.constexpr):
    """Phi(A)[i, p] = the sum over keys and terms of coefficient times term of A[i, key]."""
    BLOCK_M: tl.constexpr = PLAN.BLOCK_M
    BLOCK_R: tl.constexpr = PLAN.BLOCK_R
    i_b, i_h, i_row, o_m, m_m = _place(z, z.n, PLAN.BLOCK_M)
    p_q += i_b * s_q[0] + i_h * s_q[1]
    p_k += i_b * s_k[0] + i_h * s_k[1]
    b_q = load_rows(p_q, o_m, m_m, s_q[2], PLAN.D, PLAN.BLOCK_D, PLAN.DTYPE)
    b_phi = tl.zeros((BLOCK_M, BLOCK_R), tl.float32)
    for start in range(0, z.m, PLAN.BLOCK_N):
        o_n = start + tl.arange(0, PLAN.BLOCK_N)
        m_n = o_n < z.m
        b_k = load_rows(p_k, o_n, m_n, s_k[2], PLAN.D, PLAN.BLOCK_D, PLAN.DTYPE)
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PLAN.PRECISION) * z.scale
        b_cos, b_sin = tl.cos(b_s), tl.sin(b_s)
        b_c, b_d = b_cos, b_sin
        for term in range(PLAN.GRID):
            b_a = _entry(p_table, i_h, term, o_n, m_n, z, PLAN)
            b_b = _entry(p_table, i_h, PLAN.GRID + term, o_n, m_n, z, PLAN)
            b_phi = tl.dot(b_c.to(PLAN.DTYPE), b_a, b_phi, input_precision=PLAN.PRECISION)
            b_phi = tl.dot(b_d.to(PLAN.DTYPE), b_b, b_phi, input_precision=PLAN.PRECISION)
            b_next = b_c * b_cos - b_d * b_sin
            b_d = b_d * b_cos + b_c * b_sin
            b_c = b_next
        if PLAN.BASE:
            b_w = _entry(p_table, i_h, 2 * PLAN.GRID, o_n, m_n, z, PLAN)
            b_x = _base(b_s, PLAN.BASE).to(PLAN.DTYPE)
            b_phi = tl.dot(b_x, b_w, b_phi, input_precision=PLAN.PRECISION)
    o_r = tl.arange(0, PLAN.BLOCK_R)
    mask = m_m[:, None] & (o_r < z.functions)[None, :]
    at = o_m[:, None] * z.functions + o_r[None, :]
    tl.store(p_phi + i_row * z.n * z.functions + at, b_phi, mask=mask)


@triton.jit
def _to_scores(b_s, b_g, p_table, i_h, o_n, m_n, z, PLAN: tl.constexpr):
    """The gradient of scores, `query key`, from that of Phi(A)."""
    b_cos, b_sin = tl.cos(b_s), tl.sin(b_s)
    b_c, b_d, b_ds = b_cos, b_sin, b_s * 0
    for term in range(PLAN.GRID):
        b_a = _entry(p_table, i_h, term, o_n, m_n, z, PLAN)
        b_b = _entry(p_table, i_h, PLAN.GRID + term, o_n, m_n, z, PLAN)
        b_even = tl.dot(b_g, tl.trans(b_a), input_precision=PLAN.PRECISION)
        b_odd = tl.dot(b_g, tl.trans(b_b), input_precision=PLAN.PRECISION)
        b_ds += (term + 1) * (b_c * b_odd - b_d * b_even)
        b_next = b_c * b_cos - b_d * b_sin
        b_d = b_d * b_cos + b_c * b_sin
        b_c = b_next
    if PLAN.BASE:
        b_w = _entry(p_table, i_h, 2 * PLAN.GRID, o_n, m_n, z, PLAN)
        b_up = tl.dot(b_g, tl.trans(b_w), input_precision=PLAN.PRECISION)
        b_ds += _base_slope(b_s, PLAN.BASE) * b_up
    return b_ds


@triton.jit
def to_queries(p_q, s_q, p_k, s_k, p_table, p_g, p_dq, s_dq, z, PLAN: tl.constexpr):
    """The gradient of queries: dA k, dA made key by key from the gradient of Phi(A)."""
    BLOCK_M: tl.constexpr = PLAN.BLOCK_M
    BLOCK_D: tl.constexpr = PLAN.BLOCK_D
    i_b, i_h, i_row, o_m, m_m = _place(z, z.n, PLAN.BLOCK_M)
    p_q += i_b * s_q[0] + i_h * s_q[1]
    p_k += i_b * s_k[0] + i_h * s_k[1]
    b_q = load_rows(p_q, o_m, m_m, s_q[2], PLAN.D, PLAN.BLOCK_D, PLAN.DTYPE)
    b_g = _received(p_g, i_row, o_m, m_m, z, PLAN)
    b_dq = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for start in range(0, z.m, PLAN.BLOCK_N):
        o_n = start + tl.arange(0, PLAN.BLOCK_N)
        m_n = o_n < z.m
        b_k = load_rows(p_k, o_n, m_n, s_k[2], PLAN.D, PLAN.BLOCK_D, PLAN.DTYPE)
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PLAN.PRECISION) * z.scale
        b_ds = _to_scores(b_s, b_g, p_table, i_h, o_n, m_n, z, PLAN)
        b_dq = tl.dot(b_ds.to(PLAN.DTYPE), b_k, b_dq, input_precision=PLAN.PRECISION)
    p_dq += i_b * s_dq[0] + i_h * s_dq[1]
    store_rows(p_dq, o_m, m_m, s_dq[2], b_dq * z.scale, PLAN.D, PLAN.BLOCK_D)


@triton.jit
def to_keys(p_q, s_q, p_k, s_k, p_table, p_g, p_dk, s_dk, z, PLAN: tl.constexpr):
    """The gradient of keys: dA' q."""
    BLOCK_N: tl.constexpr = PLAN.BLOCK_N
    BLOCK_D: tl.constexpr = PLAN.BLOCK_D
    i_b, i_h, i_row, o_n, m_n = _place(z, z.m, PLAN.BLOCK_N)
    p_q += i_b * s_q[0] + i_h * s_q[1]
    p_k += i_b * s_k[0] + i_h * s_k[1]
    b_k = load_rows(p_k, o_n, m_n, s_k[2], PLAN.D, PLAN.BLOCK_D, PLAN.DTYPE)
    b_dk = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for start in range(0, z.n, PLAN.BLOCK_M):
        o_m = start + tl.arange(0, PLAN.BLOCK_M)
        m_m = o_m < z.n
        b_q = load_rows(p_q, o_m, m_m, s_q[2], PLAN.D, PLAN.BLOCK_D, PLAN.DTYPE)
        b_g = _received(p_g, i_row, o_m, m_m, z, PLAN)
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PLAN.PRECISION) * z.scale
        b_ds = tl.trans(_to_scores(b_s, b_g, p_table, i_h, o_n, m_n, z, PLAN))
        b_dk = tl.dot(b_ds.to(PLAN.DTYPE), b_q, b_dk, input_precision=PLAN.PRECISION)
    p_dk += i_b * s_dk[0] + i_h * s_dk[1]
    store_rows(p_dk, o_n, m_n, s_dk[2], b_dk * z.scale, PLAN.D, PLAN.BLOCK_D)


@triton.jit
def to_table(p_q, s_q, p_k, s_k, p_g, p_dtable, z, PLAN: tl.constexpr, ON_BASE: tl.constexpr):
    """The gradient of a frequency's coefficients, or of the base function's: term(A)' g.

    A program has one head of one picture; pictures are added up outside.
    """
    BLOCK_N: tl.constexpr = PLAN.BLOCK_N
    BLOCK_R: tl.constexpr = PLAN.BLOCK_R
    TERMS: tl.constexpr = 2 * PLAN.GRID + (1 if PLAN.BASE else 0)
    i_b, i_h, i_row, o_n, m_n = _place(z, z.m, PLAN.BLOCK_N)
    term = tl.program_id(1)
    p_q += i_b * s_q[0] + i_h * s_q[1]
    p_k += i_b * s_k[0] + i_h * s_k[1]
    b_k = load_rows(p_k, o_n, m_n, s_k[2], PLAN.D, PLAN.BLOCK_D, PLAN.DTYPE)
    b_even = tl.zeros((BLOCK_N, BLOCK_R), tl.float32)
    b_odd = tl.zeros((BLOCK_N, BLOCK_R), tl.float32)
    for start in range(0, z.n, PLAN.BLOCK_M):
        o_m = start + tl.arange(0, PLAN.BLOCK_M)
        m_m = o_m < z.n
        b_q = load_rows(p_q, o_m, m_m, s_q[2], PLAN.D, PLAN.BLOCK_D, PLAN.DTYPE)
        b_g = _received(p_g, i_row, o_m, m_m, z, PLAN)
        b_s = tl.dot(b_k, tl.trans(b_q), input_precision=PLAN.PRECISION) * z.scale
        if ON_BASE:
            b_x = _base(b_s, PLAN.BASE).to(PLAN.DTYPE)
            b_even = tl.dot(b_x, b_g, b_even, input_precision=PLAN.PRECISION)
        else:
            b_c, b_d = tl.cos(b_s * (term + 1)), tl.sin(b_s * (term + 1))
            b_even = tl.dot(b_c.to(PLAN.DTYPE), b_g, b_even, input_precision=PLAN.PRECISION)
            b_odd = tl.dot(b_d.to(PLAN.DTYPE), b_g, b_odd, input_precision=PLAN.PRECISION)
    o_r = tl.arange(0, PLAN.BLOCK_R)
    mask = m_n[:, None] & (o_r < z.functions)[None, :]
    at = o_n[:, None] * z.functions + o_r[None, :]
    first = 2 * PLAN.GRID if ON_BASE else term
    p_first = p_dtable + (i_row * TERMS + first) * z.m * z.functions
    tl.store(p_first + at, b_even, mask=mask)
    if not ON_BASE:
        tl.store(p_first + PLAN.GRID * z.m * z.functions + at, b_odd, mask=mask)
