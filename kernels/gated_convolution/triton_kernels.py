"""The kernels of a gated product: a depthwise convolution and the product with it in one pass.

Programs hold a block of channels and pixels of one picture; strides are of picture, channel, pixel.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# Triton types kernels when it compiles them.
from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl


class Sizes(NamedTuple):
    """Channels, the picture's height and width, and the factor of the gate."""

    channels: int
    height: int
    width: int
    scale: float


class Plan(NamedTuple):
    """What is fixed when a kernel is compiled: rows and columns of taps, channels and pixels."""

    ROWS: int
    COLUMNS: int
    BLOCK_C: int
    BLOCK_P: int


@triton.jit
def _place(z, PLAN: tl.constexpr):
    """Of a program: picture, channels, pixels, which of both there are."""
    i_b = tl.program_id(2).to(tl.int64)
    o_c = tl.program_id(1) * PLAN.BLOCK_C + tl.arange(0, PLAN.BLOCK_C)
    o_p = tl.program_id(0) * PLAN.BLOCK_P + tl.arange(0, PLAN.BLOCK_P)
    return i_b, o_c, o_p, o_c < z.channels, o_p < z.height * z.width


@triton.jit
def _at(p, s, i_b, o_c, o_p):
    """Pointers to a block, `c p`."""
    return p + i_b * s[0] + o_c[:, None].to(tl.int64) * s[1] + o_p[None, :].to(tl.int64) * s[2]


@triton.jit
def _shifted(o_p, m_p, dy, dx, z):
    """The pixel at (dy, dx) from each, and whether it lies in the picture."""
    y, x = o_p // z.width + dy, o_p % z.width + dx
    return o_p + dy * z.width + dx, (y >= 0) & (y < z.height) & (x >= 0) & (x < z.width) & m_p


@triton.jit
def product(
    p_first, s_first, p_context, s_context, p_weight, p_bias, p_out, s_out, z, PLAN: tl.constexpr
):
    """out = first scale (sum of taps weight x context + bias) on a block of channels and pixels."""
    BLOCK_C: tl.constexpr = PLAN.BLOCK_C
    BLOCK_P: tl.constexpr = PLAN.BLOCK_P
    i_b, o_c, o_p, m_c, m_p = _place(z, PLAN)
    b_gate = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    if p_bias is not None:
        b_gate += tl.load(p_bias + o_c, mask=m_c, other=0.0).to(tl.float32)[:, None]
    for tap in range(PLAN.ROWS * PLAN.COLUMNS):
        dy, dx = tap // PLAN.COLUMNS - PLAN.ROWS // 2, tap % PLAN.COLUMNS - PLAN.COLUMNS // 2
        o_n, m_n = _shifted(o_p, m_p, dy, dx, z)
        p_n = _at(p_context, s_context, i_b, o_c, o_n)
        b_context = tl.load(p_n, mask=m_c[:, None] & m_n[None, :], other=0.0).to(tl.float32)
        p_tap = p_weight + o_c * PLAN.ROWS * PLAN.COLUMNS + tap
        b_gate += tl.load(p_tap, mask=m_c, other=0.0).to(tl.float32)[:, None] * b_context
    mask = m_c[:, None] & m_p[None, :]
    p_factor = _at(p_first, s_first, i_b, o_c, o_p)
    b_first = tl.load(p_factor, mask=mask, other=0.0).to(tl.float32)
    b_out = (b_first * b_gate * z.scale).to(p_out.dtype.element_ty)
    tl.store(_at(p_out, s_out, i_b, o_c, o_p), b_out, mask=mask)


@triton.jit
def to_context(p_g, s_g, p_first, s_first, p_weight, p_out, s_out, z, PLAN: tl.constexpr):
    """The gradient of context: g first scale, convolved with the mirrored taps."""
    BLOCK_C: tl.constexpr = PLAN.BLOCK_C
    BLOCK_P: tl.constexpr = PLAN.BLOCK_P
    i_b, o_c, o_p, m_c, m_p = _place(z, PLAN)
    b_sum = tl.zeros((BLOCK_C, BLOCK_P), tl.float32)
    for tap in range(PLAN.ROWS * PLAN.COLUMNS):
        dy, dx = PLAN.ROWS // 2 - tap // PLAN.COLUMNS, PLAN.COLUMNS // 2 - tap % PLAN.COLUMNS
        o_n, m_n = _shifted(o_p, m_p, dy, dx, z)
        mask = m_c[:, None] & m_n[None, :]
        b_g = tl.load(_at(p_g, s_g, i_b, o_c, o_n), mask=mask, other=0.0).to(tl.float32)
        p_n = _at(p_first, s_first, i_b, o_c, o_n)
        b_g *= tl.load(p_n, mask=mask, other=0.0).to(tl.float32)
        p_tap = p_weight + o_c * PLAN.ROWS * PLAN.COLUMNS + tap
        b_sum += tl.load(p_tap, mask=m_c, other=0.0).to(tl.float32)[:, None] * b_g
    b_out = (b_sum * z.scale).to(p_out.dtype.element_ty)
    tl.store(_at(p_out, s_out, i_b, o_c, o_p), b_out, mask=m_c[:, None] & m_p[None, :])


@triton.jit
def to_weight(p_g, s_g, p_first, s_first, p_context, s_context, p_out, z, PLAN: tl.constexpr):
    """Sums over a block of pixels of g first scale context, shifted by each tap; last the bias.

    out   `b blocks c taps+1`, summed over b and blocks afterwards: no atomics, no chance
    """
    i_b, o_c, o_p, m_c, m_p = _place(z, PLAN)
    TAPS: tl.constexpr = PLAN.ROWS * PLAN.COLUMNS
    mask = m_c[:, None] & m_p[None, :]
    b_g = tl.load(_at(p_g, s_g, i_b, o_c, o_p), mask=mask, other=0.0)
    b_first = tl.load(_at(p_first, s_first, i_b, o_c, o_p), mask=mask, other=0)
    b_gate = b_g.to(tl.float32) * b_first.to(tl.float32) * z.scale
    i_block = i_b * tl.num_programs(0) + tl.program_id(0)
    p_out += (i_block * z.channels + o_c) * (TAPS + 1)
    for tap in range(TAPS):
        dy, dx = tap // PLAN.COLUMNS - PLAN.ROWS // 2, tap % PLAN.COLUMNS - PLAN.COLUMNS // 2
        o_n, m_n = _shifted(o_p, m_p, dy, dx, z)
        p_n = _at(p_context, s_context, i_b, o_c, o_n)
        b_context = tl.load(p_n, mask=m_c[:, None] & m_n[None, :], other=0.0)
        tl.store(p_out + tap, tl.sum(b_gate * b_context.to(tl.float32), 1), mask=m_c)
    tl.store(p_out + TAPS, tl.sum(b_gate, 1), mask=m_c)
