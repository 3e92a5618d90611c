"""The kernels of outlook attention: every token gathers from the windows that cover it.

A place of a window is one token, so each row of weights is read, and its softmax formed, once.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# Triton types kernels when it compiles them.
from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl


class Sizes(NamedTuple):
    """Rows of a launch in all and in one head, heads, the grid's height and width, channels, rows
    and columns of windows."""

    rows: int
    per_head: int
    heads: int
    height: int
    width: int
    channels: int
    windows_y: int
    windows_x: int


class Plan(NamedTuple):
    """What is fixed when a kernel is compiled.

    REACH   windows along an axis that cover a place; BLOCK_S holds the KERNEL x KERNEL sources
    """

    KERNEL: int
    STRIDE: int
    PADDING: int
    REACH: int
    BLOCK: int
    BLOCK_E: int
    BLOCK_S: int


@triton.jit
def _row(z, PLAN: tl.constexpr):
    """Of a program's rows: which there are, picture, head, line of both, the number in a head."""
    o_row = tl.program_id(0) * PLAN.BLOCK + tl.arange(0, PLAN.BLOCK)
    i_line = o_row // z.per_head
    i_b, i_h = (i_line // z.heads).to(tl.int64), i_line % z.heads
    return o_row < z.rows, i_b, i_h, i_line, o_row % z.per_head


@triton.jit
def _covering(step, y, x, m_row, z, PLAN: tl.constexpr):
    """One window that covers a place, its row and column counted from the padding: the window's
    row and column, the place in it, and if it is one."""
    o_y, o_x = y // PLAN.STRIDE - step // PLAN.REACH, x // PLAN.STRIDE - step % PLAN.REACH
    in_y, in_x = y - o_y * PLAN.STRIDE, x - o_x * PLAN.STRIDE
    seen = m_row & (o_y >= 0) & (o_y < z.windows_y) & (in_y < PLAN.KERNEL)
    seen = seen & (o_x >= 0) & (o_x < z.windows_x) & (in_x < PLAN.KERNEL)
    return o_y, o_x, in_y * PLAN.KERNEL + in_x, seen


@triton.jit
def _source(first_y, first_x, place, m_row, z, PLAN: tl.constexpr):
    """The token at a place of a window, and whether it lies on the grid."""
    y, x = first_y + place // PLAN.KERNEL, first_x + place % PLAN.KERNEL
    inside = m_row & (y >= 0) & (y < z.height) & (x >= 0) & (x < z.width)
    return y * z.width + x, inside


@triton.jit
def _load(p, o_row, m_row, m_column):
    """`row column` of memory in float32, zeros beyond."""
    return tl.load(p + o_row[:, None], mask=m_row[:, None] & m_column[None, :], other=0.0).to(
        tl.float32
    )


@triton.jit
def _scores(p_row, m_row, PLAN: tl.constexpr):
    """A row of weights, `row BLOCK_S`; -inf where there is none."""
    o_s = tl.arange(0, PLAN.BLOCK_S)
    mask = m_row[:, None] & (o_s < PLAN.KERNEL * PLAN.KERNEL)[None, :]
    return tl.load(p_row[:, None] + o_s[None, :], mask=mask, other=float("-inf")).to(tl.float32)


@triton.jit
def gather(p_v, s_v, p_weight, s_weight, p_out, s_out, p_norm, z, PLAN: tl.constexpr):
    """out[i] = the sum of softmax(weight[l, p]) v[l] over the windows l whose place p is i."""
    BLOCK: tl.constexpr = PLAN.BLOCK
    BLOCK_E: tl.constexpr = PLAN.BLOCK_E
    m_row, i_b, i_h, i_line, o_i = _row(z, PLAN)
    y, x = o_i // z.width + PLAN.PADDING, o_i % z.width + PLAN.PADDING
    o_e = tl.program_id(1) * PLAN.BLOCK_E + tl.arange(0, PLAN.BLOCK_E)
    m_e = o_e < z.channels
    p_head = p_v + (i_b * s_v[0] + i_h * s_v[1])[:, None] + o_e[None, :]
    b_out = tl.zeros((BLOCK, BLOCK_E), tl.float32)
    for step in range(PLAN.REACH * PLAN.REACH):
        o_y, o_x, place, seen = _covering(step, y, x, m_row, z, PLAN)
        o_l = o_y * z.windows_x + o_x
        p_row = p_weight + i_b * s_weight[0] + i_h * s_weight[1] + o_l * s_weight[2]
        p_row += place * PLAN.KERNEL * PLAN.KERNEL
        b_scores = _scores(p_row, seen, PLAN)
        b_max = tl.where(seen, tl.max(b_scores, 1), 0.0)
        b_sum = tl.where(seen, tl.sum(tl.exp(b_scores - b_max[:, None]), 1), 1.0)
        first_y, first_x = o_y * PLAN.STRIDE - PLAN.PADDING, o_x * PLAN.STRIDE - PLAN.PADDING
        for source in tl.range(0, PLAN.KERNEL * PLAN.KERNEL, loop_unroll_factor=3):
            o_s, m_s = _source(first_y, first_x, source, seen, z, PLAN)
            b_score = tl.load(p_row + source, mask=m_s, other=float("-inf")).to(tl.float32)
            b_p = tl.exp(b_score - b_max) / b_sum
            b_out += b_p[:, None] * _load(p_head, o_s * s_v[2], m_s, m_e)
        if tl.program_id(1) == 0:
            o_norm = (i_line * z.windows_y * z.windows_x + o_l) * PLAN.KERNEL * PLAN.KERNEL + place
            tl.store(p_norm + o_norm, b_max + tl.log(b_sum), mask=seen)
    _store(p_out, s_out, i_b, i_h, o_i, o_e, b_out, m_row, m_e)


@triton.jit
def _store(p_out, s_out, i_b, i_h, o_i, o_e, b_out, m_row, m_e):
    o_row = i_b * s_out[0] + i_h * s_out[1] + o_i * s_out[2]
    mask = m_row[:, None] & m_e[None, :]
    tl.store(p_out + o_row[:, None] + o_e[None, :], b_out.to(p_out.dtype.element_ty), mask=mask)


@triton.jit
def to_v(p_g, s_g, p_weight, s_weight, p_norm, p_dv, s_dv, z, PLAN: tl.constexpr):
    """The gradient of v[j]: the sum of softmax(weight)[l, :, s] g[l] where place s of l is j."""
    BLOCK: tl.constexpr = PLAN.BLOCK
    BLOCK_E: tl.constexpr = PLAN.BLOCK_E
    m_row, i_b, i_h, i_line, o_j = _row(z, PLAN)
    y, x = o_j // z.width + PLAN.PADDING, o_j % z.width + PLAN.PADDING
    o_e = tl.program_id(1) * PLAN.BLOCK_E + tl.arange(0, PLAN.BLOCK_E)
    m_e = o_e < z.channels
    p_head = p_g + (i_b * s_g[0] + i_h * s_g[1])[:, None] + o_e[None, :]
    b_dv = tl.zeros((BLOCK, BLOCK_E), tl.float32)
    for step in range(PLAN.REACH * PLAN.REACH):
        o_y, o_x, source, seen = _covering(step, y, x, m_row, z, PLAN)
        o_l = o_y * z.windows_x + o_x
        p_column = p_weight + i_b * s_weight[0] + i_h * s_weight[1] + o_l * s_weight[2] + source
        o_norm = (i_line * z.windows_y * z.windows_x + o_l) * PLAN.KERNEL * PLAN.KERNEL
        first_y, first_x = o_y * PLAN.STRIDE - PLAN.PADDING, o_x * PLAN.STRIDE - PLAN.PADDING
        for place in tl.range(0, PLAN.KERNEL * PLAN.KERNEL, loop_unroll_factor=3):
            o_i, m_i = _source(first_y, first_x, place, seen, z, PLAN)
            p_score = p_column + place * PLAN.KERNEL * PLAN.KERNEL
            b_score = tl.load(p_score, mask=m_i, other=float("-inf")).to(tl.float32)
            b_p = tl.exp(b_score - tl.load(p_norm + o_norm + place, mask=m_i, other=0.0))
            b_dv += b_p[:, None] * _load(p_head, o_i * s_g[2], m_i, m_e)
    _store(p_dv, s_dv, i_b, i_h, o_j, o_e, b_dv, m_row, m_e)


@triton.jit
def to_weight(
    p_g, s_g, p_v, s_v, p_weight, s_weight, p_dweight, s_dweight, z,
    PLAN: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """The gradient of weight[l, p, :]: share (d - sum share d), where d[s] = g[l, p] v[l, s]."""
    BLOCK: tl.constexpr = PLAN.BLOCK
    BLOCK_S: tl.constexpr = PLAN.BLOCK_S
    SOURCES: tl.constexpr = PLAN.KERNEL * PLAN.KERNEL
    m_row, i_b, i_h, _, o_line = _row(z, PLAN)
    o_l, place = o_line // SOURCES, o_line % SOURCES
    first_y = o_l // z.windows_x * PLAN.STRIDE - PLAN.PADDING
    first_x = o_l % z.windows_x * PLAN.STRIDE - PLAN.PADDING
    o_i, seen = _source(first_y, first_x, place, m_row, z, PLAN)
    o_s = tl.arange(0, PLAN.BLOCK_S)
    b_slope = tl.zeros((BLOCK, BLOCK_S), tl.float32)
    for part in range(PARTS):
        o_e = part * PLAN.BLOCK_E + tl.arange(0, PLAN.BLOCK_E)
        m_e = o_e < z.channels
        p_back = p_g + (i_b * s_g[0] + i_h * s_g[1])[:, None] + o_e[None, :]
        b_g = _load(p_back, o_i * s_g[2], seen, m_e)
        p_head = p_v + (i_b * s_v[0] + i_h * s_v[1])[:, None] + o_e[None, :]
        for source in tl.range(0, SOURCES, loop_unroll_factor=3):
            o_n, m_n = _source(first_y, first_x, source, seen, z, PLAN)
            b_product = tl.sum(b_g * _load(p_head, o_n * s_v[2], m_n, m_e), 1)
            b_slope += tl.where((o_s == source)[None, :], b_product[:, None], 0.0)
    o_w = o_l * s_weight[2] + place * SOURCES
    b_scores = _scores(p_weight + (i_b * s_weight[0] + i_h * s_weight[1] + o_w), seen, PLAN)
    b_max = tl.where(seen, tl.max(b_scores, 1), 0.0)
    b_p = tl.exp(b_scores - b_max[:, None])
    b_p /= tl.where(seen, tl.sum(b_p, 1), 1.0)[:, None]
    b_dweight = b_p * (b_slope - tl.sum(b_p * b_slope, 1)[:, None])
    o_out = i_b * s_dweight[0] + i_h * s_dweight[1] + o_l * s_dweight[2] + place * SOURCES
    tl.store(
        p_dweight + o_out[:, None] + o_s[None, :],
        b_dweight.to(p_dweight.dtype.element_ty),
        mask=m_row[:, None] & (o_s < SOURCES)[None, :],
    )
