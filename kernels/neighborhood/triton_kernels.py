"""The kernels of neighbourhood attention: tiles of queries meet the keys of their box, and back.

A program holds a tile of queries and walks over the keys from the first window's start to the last
window's end on each axis, with the exact test inside. Backwards a tile of keys walks over the box
of queries whose windows hold them, so nothing is added up by atomics.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# Triton types kernels when it compiles them.
from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ..shared.triton_rows import load_rows, softmax_step, store_rows
from .tiles import Triple, Windows
from .triton_boxes import box, intervals, places, seen_by, steps_through, visited


class Pointers(NamedTuple):
    """The tensors that every pass reads; extra keys and values are None where there are none."""

    q: Tensor
    k: Tensor
    v: Tensor
    extra_k: Tensor | None
    extra_v: Tensor | None


class Strides(NamedTuple):
    """Of batch, head and token; channels lie next to each other."""

    q: Triple
    k: Triple
    v: Triple
    extra_k: Triple | None
    extra_v: Triple | None


class Plan(NamedTuple):
    """What is fixed when a kernel is compiled. M is what a program holds, N what it walks over.

    TESTS   the axes on which a pair must be tested; WHOLE: every pair of a program is seen
    """

    WINDOWS: Windows
    TILE_M: Triple
    TILE_N: Triple
    TESTS: tuple[bool, bool, bool]
    WHOLE: bool
    D: int
    BLOCK_D: int
    E: int
    BLOCK_E: int
    DTYPE: Any
    PRECISION: str


@triton.jit
def attend(
    p, s_q, s_k, s_v, s_extra_k, s_extra_v, p_out, s_out, p_lse, heads, shared, n, extra, scale,
    PLAN: tl.constexpr,
):  # fmt: skip
    """A tile of queries: its result and the base-2 log-sum-exp of its scores."""
    PRECISION: tl.constexpr = PLAN.PRECISION
    WINDOWS: tl.constexpr = PLAN.WINDOWS
    TILE_M: tl.constexpr = PLAN.TILE_M
    TILE_N: tl.constexpr = PLAN.TILE_N
    TESTS: tl.constexpr = PLAN.TESTS
    BLOCK_E: tl.constexpr = PLAN.BLOCK_E
    BLOCK_M: tl.constexpr = PLAN.TILE_M[0] * PLAN.TILE_M[1] * PLAN.TILE_M[2]
    BLOCK_N: tl.constexpr = PLAN.TILE_N[0] * PLAN.TILE_N[1] * PLAN.TILE_N[2]
    i_h = tl.program_id(1) % heads
    i_b, i_g = (tl.program_id(1) // heads).to(tl.int64), (i_h // shared).to(tl.int64)
    i_h = i_h.to(tl.int64)
    first, group, size, low, high = box(tl.program_id(0), n, WINDOWS, TILE_M, False)
    c_m, o_m, m_m = places(first, size, group, n, WINDOWS, TILE_M)
    start, end = intervals(c_m, size, WINDOWS, False)
    steps = steps_through(low, high, TILE_N)
    p_q = p.q + i_b * s_q[0] + i_h * s_q[1]
    b_q = load_rows(p_q, o_m, m_m, s_q[2], PLAN.D, PLAN.BLOCK_D, PLAN.DTYPE)
    p_k, p_v = p.k + i_b * s_k[0] + i_g * s_k[1], p.v + i_b * s_v[0] + i_g * s_v[1]
    b_max = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    b_sum = tl.zeros((BLOCK_M,), tl.float32)
    b_out = tl.zeros((BLOCK_M, BLOCK_E), tl.float32)
    for step in range(steps[0] * steps[1] * steps[2]):
        c_n, o_n, m_n = visited(step, steps, low, high, group, n, WINDOWS, TILE_N)
        b_k = load_rows(p_k, o_n, m_n, s_k[2], PLAN.D, PLAN.BLOCK_D, PLAN.DTYPE)
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PLAN.PRECISION) * scale
        if not PLAN.WHOLE:
            b_s = tl.where(seen_by(m_n, c_n, start, end, TESTS), b_s, float("-inf"))
        b_v = load_rows(p_v, o_n, m_n, s_v[2], PLAN.E, PLAN.BLOCK_E, PLAN.DTYPE)
        b_max, b_sum, b_out = _fold(b_s, b_v, b_max, b_sum, b_out, PRECISION)
    if p.extra_k is not None:
        p_k = p.extra_k + i_b * s_extra_k[0] + i_g * s_extra_k[1]
        p_v = p.extra_v + i_b * s_extra_v[0] + i_g * s_extra_v[1]
        for start_n in range(0, extra, BLOCK_N):
            o_n = start_n + tl.arange(0, BLOCK_N)
            m_n = o_n < extra
            b_k = load_rows(p_k, o_n, m_n, s_extra_k[2], PLAN.D, PLAN.BLOCK_D, PLAN.DTYPE)
            b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PLAN.PRECISION) * scale
            b_s = tl.where(m_n[None, :], b_s, float("-inf"))
            b_v = load_rows(p_v, o_n, m_n, s_extra_v[2], PLAN.E, PLAN.BLOCK_E, PLAN.DTYPE)
            b_max, b_sum, b_out = _fold(b_s, b_v, b_max, b_sum, b_out, PRECISION)
    b_sum = tl.where(m_m, b_sum, 1.0)
    p_o = p_out + i_b * s_out[0] + i_h * s_out[1]
    store_rows(p_o, o_m, m_m, s_out[2], b_out / b_sum[:, None], PLAN.E, PLAN.BLOCK_E)
    b_lse = tl.where(m_m, b_max, 0.0) + tl.log2(b_sum)
    tl.store(p_lse + tl.program_id(1).to(tl.int64) * n[0] * n[1] * n[2] + o_m, b_lse, mask=m_m)


@triton.jit
def _fold(b_s, b_v, b_max, b_sum, b_out, PRECISION: tl.constexpr):
    """The sums over more keys, of scores in bits and values."""
    b_p, b_shrink, b_max, b_sum = softmax_step(b_s, b_max, b_sum, False)
    b_out = tl.dot(b_p.to(b_v.dtype), b_v, b_out * b_shrink[:, None], input_precision=PRECISION)
    return b_max, b_sum, b_out


@triton.jit
def to_queries(
    p, s_q, s_k, s_v, s_extra_k, s_extra_v, p_out, s_out, p_g, s_g, p_lse, p_delta, p_dq, s_dq,
    heads, shared, n, extra, scale, factor, PLAN: tl.constexpr,
):  # fmt: skip
    """delta = the sum of out g over channels, and the gradient of a tile of queries."""
    PRECISION: tl.constexpr = PLAN.PRECISION
    WINDOWS: tl.constexpr = PLAN.WINDOWS
    TILE_M: tl.constexpr = PLAN.TILE_M
    TILE_N: tl.constexpr = PLAN.TILE_N
    TESTS: tl.constexpr = PLAN.TESTS
    BLOCK_D: tl.constexpr = PLAN.BLOCK_D
    BLOCK_M: tl.constexpr = PLAN.TILE_M[0] * PLAN.TILE_M[1] * PLAN.TILE_M[2]
    BLOCK_N: tl.constexpr = PLAN.TILE_N[0] * PLAN.TILE_N[1] * PLAN.TILE_N[2]
    i_h = tl.program_id(1) % heads
    i_b, i_g = (tl.program_id(1) // heads).to(tl.int64), (i_h // shared).to(tl.int64)
    i_h = i_h.to(tl.int64)
    first, group, size, low, high = box(tl.program_id(0), n, WINDOWS, TILE_M, False)
    c_m, o_m, m_m = places(first, size, group, n, WINDOWS, TILE_M)
    p_g += i_b * s_g[0] + i_h * s_g[1]
    b_g = load_rows(p_g, o_m, m_m, s_g[2], PLAN.E, PLAN.BLOCK_E, PLAN.DTYPE)
    p_out += i_b * s_out[0] + i_h * s_out[1]
    b_out = load_rows(p_out, o_m, m_m, s_out[2], PLAN.E, PLAN.BLOCK_E, PLAN.DTYPE)
    b_delta = tl.sum(b_g.to(tl.float32) * b_out.to(tl.float32), 1)
    o_row = tl.program_id(1).to(tl.int64) * n[0] * n[1] * n[2] + o_m
    tl.store(p_delta + o_row, b_delta, mask=m_m)
    if p_dq is not None:
        b_lse = tl.load(p_lse + o_row, mask=m_m, other=0.0)
        start, end = intervals(c_m, size, WINDOWS, False)
        steps = steps_through(low, high, TILE_N)
        p_q = p.q + i_b * s_q[0] + i_h * s_q[1]
        b_q = load_rows(p_q, o_m, m_m, s_q[2], PLAN.D, PLAN.BLOCK_D, PLAN.DTYPE)
        p_k, p_v = p.k + i_b * s_k[0] + i_g * s_k[1], p.v + i_b * s_v[0] + i_g * s_v[1]
        b_dq = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
        for step in range(steps[0] * steps[1] * steps[2]):
            c_n, o_n, m_n = visited(step, steps, low, high, group, n, WINDOWS, TILE_N)
            seen = seen_by(m_n, c_n, start, end, TESTS)
            b_k = load_rows(p_k, o_n, m_n, s_k[2], PLAN.D, PLAN.BLOCK_D, PLAN.DTYPE)
            b_v = load_rows(p_v, o_n, m_n, s_v[2], PLAN.E, PLAN.BLOCK_E, PLAN.DTYPE)
            b_dq = _query_step(b_q, b_g, b_k, b_v, b_lse, b_delta, seen, scale, b_dq, PRECISION)
        if p.extra_k is not None:
            p_k = p.extra_k + i_b * s_extra_k[0] + i_g * s_extra_k[1]
            p_v = p.extra_v + i_b * s_extra_v[0] + i_g * s_extra_v[1]
            for start_n in range(0, extra, BLOCK_N):
                o_n = start_n + tl.arange(0, BLOCK_N)
                m_n = o_n < extra
                b_k = load_rows(p_k, o_n, m_n, s_extra_k[2], PLAN.D, PLAN.BLOCK_D, PLAN.DTYPE)
                b_v = load_rows(p_v, o_n, m_n, s_extra_v[2], PLAN.E, PLAN.BLOCK_E, PLAN.DTYPE)
                b_dq = _query_step(
                    b_q, b_g, b_k, b_v, b_lse, b_delta, m_n[None, :], scale, b_dq, PRECISION
                )
        p_dq += i_b * s_dq[0] + i_h * s_dq[1]
        store_rows(p_dq, o_m, m_m, s_dq[2], b_dq * factor, PLAN.D, PLAN.BLOCK_D)


@triton.jit
def _query_step(b_q, b_g, b_k, b_v, b_lse, b_delta, seen, scale, b_dq, PRECISION: tl.constexpr):
    """The gradient of queries, but for the scale: what some keys add to it."""
    b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * scale
    b_p = tl.exp2(tl.where(seen, b_s - b_lse[:, None], float("-inf")))
    b_dp = tl.dot(b_g, tl.trans(b_v), input_precision=PRECISION)
    b_ds = b_p * (b_dp - b_delta[:, None])
    return tl.dot(b_ds.to(b_k.dtype), b_k, b_dq, input_precision=PRECISION)


@triton.jit
def to_keys(
    p, s_q, s_k, s_v, p_g, s_g, p_lse, p_delta, p_dk, s_dk, p_dv, s_dv,
    groups, shared, n, scale, factor, PLAN: tl.constexpr,
):  # fmt: skip
    """The gradients of a tile of keys and values, over all query heads that share them."""
    WINDOWS: tl.constexpr = PLAN.WINDOWS
    TILE_M: tl.constexpr = PLAN.TILE_M
    TILE_N: tl.constexpr = PLAN.TILE_N
    TESTS: tl.constexpr = PLAN.TESTS
    BLOCK_D: tl.constexpr = PLAN.BLOCK_D
    BLOCK_E: tl.constexpr = PLAN.BLOCK_E
    BLOCK_M: tl.constexpr = PLAN.TILE_M[0] * PLAN.TILE_M[1] * PLAN.TILE_M[2]
    i_g = (tl.program_id(1) % groups).to(tl.int64)
    i_b = (tl.program_id(1) // groups).to(tl.int64)
    first, group, size, low, high = box(tl.program_id(0), n, WINDOWS, TILE_M, True)
    c_m, o_m, m_m = places(first, size, group, n, WINDOWS, TILE_M)
    start, end = intervals(c_m, size, WINDOWS, True)
    per_axis = steps_through(low, high, TILE_N)
    steps = per_axis[0] * per_axis[1] * per_axis[2]
    p_k, p_v = p.k + i_b * s_k[0] + i_g * s_k[1], p.v + i_b * s_v[0] + i_g * s_v[1]
    b_k = load_rows(p_k, o_m, m_m, s_k[2], PLAN.D, PLAN.BLOCK_D, PLAN.DTYPE)
    b_v = load_rows(p_v, o_m, m_m, s_v[2], PLAN.E, PLAN.BLOCK_E, PLAN.DTYPE)
    b_dk = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    b_dv = tl.zeros((BLOCK_M, BLOCK_E), tl.float32)
    for i in range(shared * steps):
        i_h = i_g * shared + i // steps
        c_n, o_n, m_n = visited(i % steps, per_axis, low, high, group, n, WINDOWS, TILE_N)
        seen = seen_by(m_n, c_n, start, end, TESTS)
        o_row = (i_b * groups * shared + i_h) * n[0] * n[1] * n[2] + o_n
        b_dk, b_dv = _key_step(
            p, s_q, p_g, s_g, p_lse, p_delta, i_b, i_h, o_n, m_n, o_row,
            b_k, b_v, seen, scale, b_dk, b_dv, PLAN,
        )  # fmt: skip
    p_dk += i_b * s_dk[0] + i_g * s_dk[1]
    p_dv += i_b * s_dv[0] + i_g * s_dv[1]
    store_rows(p_dk, o_m, m_m, s_dk[2], b_dk * factor, PLAN.D, PLAN.BLOCK_D)
    store_rows(p_dv, o_m, m_m, s_dv[2], b_dv, PLAN.E, PLAN.BLOCK_E)


@triton.jit
def _key_step(
    p, s_q, p_g, s_g, p_lse, p_delta, i_b, i_h, o_n, m_n, o_row,
    b_k, b_v, seen, scale, b_dk, b_dv, PLAN: tl.constexpr,
):  # fmt: skip
    """The gradients of keys, but for the scale, and values: what some queries add to them."""
    p_q, p_g = p.q + i_b * s_q[0] + i_h * s_q[1], p_g + i_b * s_g[0] + i_h * s_g[1]
    b_q = load_rows(p_q, o_n, m_n, s_q[2], PLAN.D, PLAN.BLOCK_D, PLAN.DTYPE)
    b_g = load_rows(p_g, o_n, m_n, s_g[2], PLAN.E, PLAN.BLOCK_E, PLAN.DTYPE)
    b_lse = tl.load(p_lse + o_row, mask=m_n, other=0.0)
    b_delta = tl.load(p_delta + o_row, mask=m_n, other=0.0)
    b_s = tl.dot(b_k, tl.trans(b_q), input_precision=PLAN.PRECISION) * scale
    b_p = tl.exp2(tl.where(seen, b_s - b_lse[None, :], float("-inf")))
    b_dv = tl.dot(b_p.to(b_g.dtype), b_g, b_dv, input_precision=PLAN.PRECISION)
    b_dp = tl.dot(b_v, tl.trans(b_g), input_precision=PLAN.PRECISION)
    b_ds = b_p * (b_dp - b_delta[None, :])
    return tl.dot(b_ds.to(b_q.dtype), b_q, b_dk, input_precision=PLAN.PRECISION), b_dv


@triton.jit
def to_extra(
    p, s_q, s_extra_k, s_extra_v, p_g, s_g, p_lse, p_delta, p_dk, p_dv,
    groups, shared, tokens, extra, scale, factor, part,
    PLAN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """What `part` queries, of all heads that share them, add to gradients of extra keys."""
    BLOCK_D: tl.constexpr = PLAN.BLOCK_D
    BLOCK_E: tl.constexpr = PLAN.BLOCK_E
    i_g = (tl.program_id(1) % groups).to(tl.int64)
    i_b = (tl.program_id(1) // groups).to(tl.int64)
    first = tl.program_id(0) // tl.cdiv(extra, BLOCK_M) * part
    o_m = tl.program_id(0) % tl.cdiv(extra, BLOCK_M) * BLOCK_M + tl.arange(0, BLOCK_M)
    m_m = o_m < extra
    p_k = p.extra_k + i_b * s_extra_k[0] + i_g * s_extra_k[1]
    p_v = p.extra_v + i_b * s_extra_v[0] + i_g * s_extra_v[1]
    b_k = load_rows(p_k, o_m, m_m, s_extra_k[2], PLAN.D, PLAN.BLOCK_D, PLAN.DTYPE)
    b_v = load_rows(p_v, o_m, m_m, s_extra_v[2], PLAN.E, PLAN.BLOCK_E, PLAN.DTYPE)
    b_dk = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    b_dv = tl.zeros((BLOCK_M, BLOCK_E), tl.float32)
    steps = part // BLOCK_N
    for i in range(shared * steps):
        i_h = i_g * shared + i // steps
        o_n = first + i % steps * BLOCK_N + tl.arange(0, BLOCK_N)
        m_n = o_n < tokens
        o_row = (i_b * groups * shared + i_h) * tokens + o_n
        b_dk, b_dv = _key_step(
            p, s_q, p_g, s_g, p_lse, p_delta, i_b, i_h, o_n, m_n, o_row,
            b_k, b_v, m_n[None, :], scale, b_dk, b_dv, PLAN,
        )  # fmt: skip
    i_row = tl.program_id(0) // tl.cdiv(extra, BLOCK_M) * tl.num_programs(1) + tl.program_id(1)
    o_part = i_row.to(tl.int64) * extra
    store_rows(p_dk + o_part * PLAN.D, o_m, m_m, PLAN.D, b_dk * factor, PLAN.D, PLAN.BLOCK_D)
    store_rows(p_dv + o_part * PLAN.E, o_m, m_m, PLAN.E, b_dv, PLAN.E, PLAN.BLOCK_E)
