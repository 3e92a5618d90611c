"""The kernels of gated convolutions with few taps: product, sum over taps and product in one pass.

Programs hold a block of heads and tokens of one sample and one value; strides are of sample, head,
token and value, of gates 0 for the last.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# Triton types kernels when it compiles them.
from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl


class Sizes(NamedTuple):
    """Heads, tokens, and the values that share a filter."""

    heads: int
    tokens: int
    width: int


class Plan(NamedTuple):
    """What is fixed when a kernel is compiled: taps, whether they go round, heads and tokens."""

    TAPS: int
    CIRCULAR: bool
    BLOCK_H: int
    BLOCK_N: int


@triton.jit
def _place(z, PLAN: tl.constexpr):
    """Of a program: sample, value, heads, tokens, which of both there are."""
    i_line = tl.program_id(2)
    o_h = tl.program_id(1) * PLAN.BLOCK_H + tl.arange(0, PLAN.BLOCK_H)
    o_n = tl.program_id(0) * PLAN.BLOCK_N + tl.arange(0, PLAN.BLOCK_N)
    i_b, i_e = (i_line // z.width).to(tl.int64), (i_line % z.width).to(tl.int64)
    return i_b, i_e, o_h, o_n, o_h < z.heads, o_n < z.tokens


@triton.jit
def _at(p, s, i_b, i_e, o_h, o_n):
    """Pointers to a block, `h n`."""
    p_line = p + i_b * s[0] + i_e * s[3]
    return p_line + o_h[:, None].to(tl.int64) * s[1] + o_n[None, :].to(tl.int64) * s[2]


@triton.jit
def _gated(p_x, s_x, p_gate, s_gate, i_b, i_e, o_h, o_n, mask):
    """x times its gate, where there is one, in float32."""
    b_x = tl.load(_at(p_x, s_x, i_b, i_e, o_h, o_n), mask=mask, other=0.0).to(tl.float32)
    if p_gate is not None:
        p_own = _at(p_gate, s_gate, i_b, i_e, o_h, o_n)
        b_x *= tl.load(p_own, mask=mask, other=0.0).to(tl.float32)
    return b_x


@triton.jit
def _moved(o_n, step, m_n, z, PLAN: tl.constexpr):
    """The tokens `step` further, and which there are."""
    o_s = o_n + step
    if PLAN.CIRCULAR:
        o_s = tl.where(o_s < 0, o_s + z.tokens, o_s)
        o_s = tl.where(o_s >= z.tokens, o_s - z.tokens, o_s)
        return o_s, m_n
    return o_s, m_n & (o_s >= 0) & (o_s < z.tokens)


@triton.jit
def _summed(
    p_x, s_x, p_gate, s_gate, p_filter, s_filter, p_skip, z, PLAN: tl.constexpr, BACK: tl.constexpr
):
    """The sum over taps of filter times gated x, tokens before, or behind with BACK; and skip."""
    BLOCK_H: tl.constexpr = PLAN.BLOCK_H
    BLOCK_N: tl.constexpr = PLAN.BLOCK_N
    i_b, i_e, o_h, o_n, m_h, m_n = _place(z, PLAN)
    b_sum = tl.zeros((BLOCK_H, BLOCK_N), tl.float32)
    if p_skip is not None:
        b_skip = tl.load(p_skip + o_h, mask=m_h, other=0.0).to(tl.float32)
        mask = m_h[:, None] & m_n[None, :]
        b_sum += b_skip[:, None] * _gated(p_x, s_x, p_gate, s_gate, i_b, i_e, o_h, o_n, mask)
    for tap in range(PLAN.TAPS):
        o_s, m_s = _moved(o_n, tap if BACK else -tap, m_n, z, PLAN)
        mask = m_h[:, None] & m_s[None, :]
        b_x = _gated(p_x, s_x, p_gate, s_gate, i_b, i_e, o_h, o_s, mask)
        p_tap = p_filter + i_b * s_filter[0] + o_h * s_filter[1] + tap
        b_sum += tl.load(p_tap, mask=m_h, other=0.0).to(tl.float32)[:, None] * b_x
    return b_sum


@triton.jit
def convolve(
    p_v, s_v, p_in, s_in, p_gate, s_gate, p_filter, s_filter, p_skip, p_out, s_out, z,
    PLAN: tl.constexpr,
):  # fmt: skip
    """out = gate (filter * (gate_in v) + skip gate_in v)."""
    i_b, i_e, o_h, o_n, m_h, m_n = _place(z, PLAN)
    b_out = _summed(p_v, s_v, p_in, s_in, p_filter, s_filter, p_skip, z, PLAN, False)
    mask = m_h[:, None] & m_n[None, :]
    if p_gate is not None:
        p_own = _at(p_gate, s_gate, i_b, i_e, o_h, o_n)
        b_out *= tl.load(p_own, mask=mask, other=0.0).to(tl.float32)
    p_block = _at(p_out, s_out, i_b, i_e, o_h, o_n)
    tl.store(p_block, b_out.to(p_out.dtype.element_ty), mask=mask)


@triton.jit
def to_input(
    p_g, s_g, p_gate, s_gate, p_filter, s_filter, p_skip, p_v, s_v, p_in, s_in,
    p_dv, s_dv, p_din, s_din, z, PLAN: tl.constexpr,
):  # fmt: skip
    """The gradients of v, and of gate_in value by value, from du = the transposed sum of gate g."""
    i_b, i_e, o_h, o_n, m_h, m_n = _place(z, PLAN)
    b_du = _summed(p_g, s_g, p_gate, s_gate, p_filter, s_filter, p_skip, z, PLAN, True)
    mask = m_h[:, None] & m_n[None, :]
    if p_din is not None:
        p_own = _at(p_v, s_v, i_b, i_e, o_h, o_n)
        b_din = b_du * tl.load(p_own, mask=mask, other=0.0).to(tl.float32)
        tl.store(_at(p_din, s_din, i_b, i_e, o_h, o_n), b_din, mask=mask)
    if p_in is not None:
        p_own = _at(p_in, s_in, i_b, i_e, o_h, o_n)
        b_du *= tl.load(p_own, mask=mask, other=0.0).to(tl.float32)
    p_block = _at(p_dv, s_dv, i_b, i_e, o_h, o_n)
    tl.store(p_block, b_du.to(p_dv.dtype.element_ty), mask=mask)


@triton.jit
def to_filter(p_g, s_g, p_gate, s_gate, p_v, s_v, p_in, s_in, p_out, z, PLAN: tl.constexpr):
    """Sums over a block of tokens of gate g times gated v, by lag; last those of skip.

    out   `b e blocks h taps+1`, summed over values and blocks afterwards: no atomics, no chance
    """
    i_b, i_e, o_h, o_n, m_h, m_n = _place(z, PLAN)
    mask = m_h[:, None] & m_n[None, :]
    b_g = _gated(p_g, s_g, p_gate, s_gate, i_b, i_e, o_h, o_n, mask)
    i_block = tl.program_id(2).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    p_out += (i_block * z.heads + o_h) * (PLAN.TAPS + 1)
    for tap in range(PLAN.TAPS):
        o_s, m_s = _moved(o_n, -tap, m_n, z, PLAN)
        mask_s = m_h[:, None] & m_s[None, :]
        b_u = _gated(p_v, s_v, p_in, s_in, i_b, i_e, o_h, o_s, mask_s)
        tl.store(p_out + tap, tl.sum(b_g * b_u, 1), mask=m_h)
    b_u = _gated(p_v, s_v, p_in, s_in, i_b, i_e, o_h, o_n, mask)
    tl.store(p_out + PLAN.TAPS, tl.sum(b_g * b_u, 1), mask=m_h)
