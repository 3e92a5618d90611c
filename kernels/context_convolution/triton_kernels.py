"""The kernels of context convolution: pixels gather their windows, taps are written one by one.

Programs hold a block of pixels, counted over all heads and pictures, and a block of channels.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# Triton types kernels when it compiles them.
from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl


class Sizes(NamedTuple):
    """Pixels of all heads and pictures, of one; heads, the picture's height and width, channels."""

    rows: int
    pixels: int
    heads: int
    height: int
    width: int
    channels: int


class Plan(NamedTuple):
    """What is fixed when a kernel is compiled.

    REACH_Y, REACH_X   at most so many pixels along an axis have one and the same in their window
    """

    KERNEL: int
    REACH_Y: int
    REACH_X: int
    BLOCK: int
    BLOCK_E: int


@triton.jit
def _row(z, PLAN: tl.constexpr):
    """Of a program's pixels: which there are, picture, head, the number in the picture."""
    o_row = tl.program_id(0) * PLAN.BLOCK + tl.arange(0, PLAN.BLOCK)
    i_line = o_row // z.pixels
    return o_row < z.rows, (i_line // z.heads).to(tl.int64), i_line % z.heads, o_row % z.pixels


@triton.jit
def _start(o, length, PLAN: tl.constexpr):
    """The first place of a window along an axis."""
    return tl.minimum(tl.maximum(o - PLAN.KERNEL // 2, 0), length - PLAN.KERNEL)


@triton.jit
def _first_that_sees(o, PLAN: tl.constexpr):
    """The first place along an axis whose window holds o."""
    return tl.where(o < PLAN.KERNEL, 0, o - PLAN.KERNEL + 1 + PLAN.KERNEL // 2)


@triton.jit
def _load(p, o_row, m_row, m_e):
    """`row e` of memory in float32, zeros beyond."""
    mask = m_row[:, None] & m_e[None, :]
    return tl.load(p + o_row[:, None], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def gather(p_v, s_v, p_weight, s_weight, p_out, s_out, z, PLAN: tl.constexpr):
    """out[i] = the sum over taps of weight[i, tap] v at that place of i's window."""
    BLOCK: tl.constexpr = PLAN.BLOCK
    BLOCK_E: tl.constexpr = PLAN.BLOCK_E
    KERNEL: tl.constexpr = PLAN.KERNEL
    m_row, i_b, i_h, o_i = _row(z, PLAN)
    y, x = _start(o_i // z.width, z.height, PLAN), _start(o_i % z.width, z.width, PLAN)
    o_e = tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    m_e = o_e < z.channels
    p_head = p_v + (i_b * s_v[0] + i_h * s_v[1])[:, None] + o_e[None, :]
    p_row = p_weight + i_b * s_weight[0] + i_h * s_weight[1] + o_i * s_weight[2]
    b_out = tl.zeros((BLOCK, BLOCK_E), tl.float32)
    for tap in range(KERNEL * KERNEL):
        o_j = (y + tap // KERNEL) * z.width + x + tap % KERNEL
        b_weight = tl.load(p_row + tap * s_weight[3], mask=m_row, other=0.0).to(tl.float32)
        b_out += b_weight[:, None] * _load(p_head, o_j * s_v[2], m_row, m_e)
    _store(p_out, s_out, i_b, i_h, o_i, o_e, b_out, m_row, m_e)


@triton.jit
def _store(p_out, s_out, i_b, i_h, o_i, o_e, b_out, m_row, m_e):
    o_row = i_b * s_out[0] + i_h * s_out[1] + o_i * s_out[2]
    mask = m_row[:, None] & m_e[None, :]
    tl.store(p_out + o_row[:, None] + o_e[None, :], b_out.to(p_out.dtype.element_ty), mask=mask)


@triton.jit
def to_v(p_g, s_g, p_weight, s_weight, p_dv, s_dv, z, PLAN: tl.constexpr):
    """The gradient of v[j]: the sum of weight[i, tap] g[i] over the pixels i that see j."""
    BLOCK: tl.constexpr = PLAN.BLOCK
    BLOCK_E: tl.constexpr = PLAN.BLOCK_E
    KERNEL: tl.constexpr = PLAN.KERNEL
    m_row, i_b, i_h, o_j = _row(z, PLAN)
    y, x = o_j // z.width, o_j % z.width
    first_y, first_x = _first_that_sees(y, PLAN), _first_that_sees(x, PLAN)
    o_e = tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    m_e = o_e < z.channels
    p_head = p_g + (i_b * s_g[0] + i_h * s_g[1])[:, None] + o_e[None, :]
    p_own = p_weight + i_b * s_weight[0] + i_h * s_weight[1]
    b_dv = tl.zeros((BLOCK, BLOCK_E), tl.float32)
    for step in range(PLAN.REACH_Y * PLAN.REACH_X):
        o_y, o_x = first_y + step // PLAN.REACH_X, first_x + step % PLAN.REACH_X
        in_y, in_x = y - _start(o_y, z.height, PLAN), x - _start(o_x, z.width, PLAN)
        seen = m_row & (o_y < z.height) & (in_y >= 0) & (in_y < KERNEL)
        seen = seen & (o_x < z.width) & (in_x >= 0) & (in_x < KERNEL)
        o_i = o_y * z.width + o_x
        p_tap = p_own + o_i * s_weight[2] + (in_y * KERNEL + in_x) * s_weight[3]
        b_weight = tl.load(p_tap, mask=seen, other=0.0).to(tl.float32)
        b_dv += b_weight[:, None] * _load(p_head, o_i * s_g[2], seen, m_e)
    _store(p_dv, s_dv, i_b, i_h, o_j, o_e, b_dv, m_row, m_e)


@triton.jit
def to_weight(p_g, s_g, p_v, s_v, p_dweight, s_dweight, z, PLAN: tl.constexpr, PARTS: tl.constexpr):
    """The gradient of weight[i, tap]: g[i] times v at that place of i's window.

    PARTS   blocks of channels, all walked by one program
    """
    KERNEL: tl.constexpr = PLAN.KERNEL
    m_row, i_b, i_h, o_i = _row(z, PLAN)
    y, x = _start(o_i // z.width, z.height, PLAN), _start(o_i % z.width, z.width, PLAN)
    o_e = tl.arange(0, PLAN.BLOCK_E)
    p_back = p_g + (i_b * s_g[0] + i_h * s_g[1])[:, None] + o_e[None, :]
    p_head = p_v + (i_b * s_v[0] + i_h * s_v[1])[:, None] + o_e[None, :]
    p_row = p_dweight + i_b * s_dweight[0] + i_h * s_dweight[1] + o_i * s_dweight[2]
    b_g = _load(p_back, o_i * s_g[2], m_row, o_e < z.channels)
    for tap in range(KERNEL * KERNEL):
        o_j = (y + tap // KERNEL) * z.width + x + tap % KERNEL
        b_sum = tl.sum(b_g * _load(p_head, o_j * s_v[2], m_row, o_e < z.channels), 1)
        for part in range(1, PARTS):
            o_part = part * PLAN.BLOCK_E
            m_e = o_part + o_e < z.channels
            b_more = _load(p_back + o_part, o_i * s_g[2], m_row, m_e)
            b_sum += tl.sum(b_more * _load(p_head + o_part, o_j * s_v[2], m_row, m_e), 1)
        p_tap = p_row + tap * s_dweight[3]
        tl.store(p_tap, b_sum.to(p_dweight.dtype.element_ty), mask=m_row)
