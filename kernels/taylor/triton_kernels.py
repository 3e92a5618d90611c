"""Kernels of Taylor attention by segments: scores inside a segment, sums for all tokens before it.

The sums of a segment are `T_i = sum_s x_si x_s y_s'` for each channel i, `sum x y'` and `sum y`;
a query x brings `y + x (sum x y') + sum_i x_i x T_i / 2` to its result, channel by channel, so that
no feature is ever laid out. The backward is the same with queries and keys in each other's place
and segments behind in the place of segments before.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# Triton types kernels when it compiles them.
from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl

from ..shared.triton_rows import load_rows, store_rows


class Sizes(NamedTuple):
    """Heads, tokens, and what is added to a sum of weights."""

    heads: int
    n: int
    eps: float


class Plan(NamedTuple):
    """What is fixed when a kernel is compiled.

    SEGMENT   tokens of a segment, a whole number of blocks of BLOCK tokens
    BACK      a token sees those behind it, as in gradients of keys and values; sums then lie from
              the last segment to the second
    SUMS      numbers of one segment's sums: over x y' for each channel, over x y', over y, then
              over x x' weight, x weight, weight; and some that make each begin on 64 bytes
    STATE_    types of dots with sums over a segment, and of weights
    """

    SEGMENT: int
    BLOCK: int
    D: int
    E: int
    BLOCK_D: int
    BLOCK_E: int
    SUMS: int
    BACK: bool
    DTYPE: Any
    PRECISION: str
    STATE_DTYPE: Any
    STATE_PRECISION: str


class Tokens(NamedTuple):
    """Queries or keys x, and beside them values or gradients y.

    share, weight   `b*h n` in float32, or None: x y' counts times share, x x' times weight
    scale           of x
    """

    x: Any
    y: Any
    share: Any
    weight: Any
    scale: Any


@triton.jit
def _head(p, s, i_row, heads):
    """Where a head begins: i_row counts the heads of all pictures."""
    return p + (i_row // heads).to(tl.int64) * s[0] + (i_row % heads).to(tl.int64) * s[1]


@triton.jit
def _scaled(p, o_t, m_t, stride, scale, PLAN: tl.constexpr):
    """Queries or keys in float32, times their scale."""
    return load_rows(p, o_t, m_t, stride, PLAN.D, PLAN.BLOCK_D, tl.float32) * scale


@triton.jit
def _channel(p, o_t, m_t, stride, scale, i_d):
    """One channel of them."""
    return tl.load(p + o_t * stride + i_d, mask=m_t, other=0.0).to(tl.float32) * scale


@triton.jit
def _values(p, o_t, m_t, stride, o_e, PLAN: tl.constexpr):
    """A block of channels of values, in float32."""
    mask = m_t[:, None] & (o_e < PLAN.E)[None, :]
    return tl.load(p + o_t[:, None] * stride + o_e[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _row_number(p, i_row, o_t, m_t, n):
    """A number of each token, `b*h n`; 1 where there is none to read."""
    if p is None:
        b_number = tl.where(m_t, 1.0, 0.0)
    else:
        b_number = tl.load(p + i_row.to(tl.int64) * n + o_t, mask=m_t, other=0.0)
    return b_number


@triton.jit
def segment_sums(p, s_x, s_y, p_sums, z, segments, PLAN: tl.constexpr):
    """The sums of one segment, for one channel i (or, last, the sums that need none)."""
    D: tl.constexpr = PLAN.D
    BLOCK_D: tl.constexpr = PLAN.BLOCK_D
    BLOCK_E: tl.constexpr = PLAN.BLOCK_E
    i_row, i_segment = tl.program_id(0) // segments, tl.program_id(0) % segments
    i_d, o_e = tl.program_id(1), tl.program_id(2) * PLAN.BLOCK_E + tl.arange(0, PLAN.BLOCK_E)
    o_d = tl.arange(0, PLAN.BLOCK_D)
    p_x, p_y = _head(p.x, s_x, i_row, z.heads), _head(p.y, s_y, i_row, z.heads)
    start = (segments - i_segment if PLAN.BACK else i_segment) * PLAN.SEGMENT
    b_sum = tl.zeros((BLOCK_D, BLOCK_E), tl.float32)
    b_plain = tl.zeros((BLOCK_E,), tl.float32)
    b_line = tl.zeros((BLOCK_D,), tl.float32)
    b_count = tl.zeros((), tl.float32)
    for step in range(PLAN.SEGMENT // PLAN.BLOCK):
        o_t = start + step * PLAN.BLOCK + tl.arange(0, PLAN.BLOCK)
        m_t = o_t < z.n
        b_x = _scaled(p_x, o_t, m_t, s_x[2], p.scale, PLAN)
        b_y = _values(p_y, o_t, m_t, s_y[2], o_e, PLAN)
        b_y *= _row_number(p.share, i_row, o_t, m_t, z.n)[:, None]
        b_weight = _row_number(p.weight, i_row, o_t, m_t, z.n)
        b_i = tl.where(m_t, 1.0, 0.0)
        if i_d < D:
            b_i = _channel(p_x, o_t, m_t, s_x[2], p.scale, i_d)
        b_xi = b_x * b_i[:, None]
        b_sum += tl.dot(
            tl.trans(b_xi).to(PLAN.STATE_DTYPE), b_y.to(PLAN.STATE_DTYPE),
            input_precision=PLAN.STATE_PRECISION,
        )  # fmt: skip
        b_plain += tl.sum(b_y, 0)
        b_line += tl.sum(b_xi * b_weight[:, None], 0)
        b_count += tl.sum(b_weight, 0)
    p_sums += tl.program_id(0).to(tl.int64) * PLAN.SUMS
    m_d, m_e = o_d < D, o_e < PLAN.E
    mask = m_d[:, None] & m_e[None, :]
    p_tile = p_sums + i_d * D * PLAN.E + o_d[:, None] * PLAN.E + o_e[None, :]
    tl.store(p_tile, b_sum, mask=mask)  # those that need no channel follow the last channel's
    p_line = p_sums + (D + 1) * D * PLAN.E + PLAN.E + i_d * D + o_d
    if tl.program_id(2) == 0:
        tl.store(p_line, b_line, mask=m_d)
    if i_d == D:
        tl.store(p_sums + (D + 1) * D * PLAN.E + o_e, b_plain, mask=m_e)
        if tl.program_id(2) == 0:
            tl.store(p_sums + (D + 1) * (D * PLAN.E + D) + PLAN.E, b_count)


@triton.jit
def add_up(p_sums, segments, SUMS: tl.constexpr, BLOCK: tl.constexpr):
    """In the place of each segment's sums, those of it and all that lie before."""
    o = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    p_sums += tl.program_id(0).to(tl.int64) * segments * SUMS + o
    b_sum = tl.zeros((BLOCK,), tl.float32)
    for _ in range(segments):
        b_sum += tl.load(p_sums, mask=o < SUMS, other=0.0)
        tl.store(p_sums, b_sum, mask=o < SUMS)
        p_sums += SUMS


@triton.jit
def _place(z, PLAN: tl.constexpr):
    """Of a program: head, tokens, which there are, and the block's first token and segment."""
    blocks = tl.cdiv(z.n, PLAN.BLOCK)
    i_row, first = tl.program_id(0) // blocks, tl.program_id(0) % blocks * PLAN.BLOCK
    o_t = first + tl.arange(0, PLAN.BLOCK)
    return i_row, o_t, o_t < z.n, first, first // PLAN.SEGMENT


@triton.jit
def _sum_number(i_row, i_segment, segments, PLAN: tl.constexpr):
    """Which sums a segment meets, and whether there are any: one segment meets none."""
    i_sum = segments - 1 - i_segment if PLAN.BACK else i_segment - 1
    return i_row.to(tl.int64) * segments + i_sum, i_sum >= 0


@triton.jit
def _span(z, first, i_segment, PLAN: tl.constexpr):
    """First and end of the tokens that a block meets by scores."""
    if PLAN.BACK:
        low, high = first, tl.minimum((i_segment + 1) * PLAN.SEGMENT, z.n)
    else:
        low, high = i_segment * PLAN.SEGMENT, tl.minimum(first + PLAN.BLOCK, z.n)
    return low, high


@triton.jit
def _seen(o_own, o_other, z, PLAN: tl.constexpr):
    """Which of the other tokens each sees."""
    b_after = o_other[None, :] - o_own[:, None]
    return (b_after * (1 if PLAN.BACK else -1) >= 0) & (o_other < z.n)[None, :]


@triton.jit
def _scores(b_own, b_other, PLAN: tl.constexpr):
    """Products of tokens, `own other`."""
    return tl.dot(
        b_own.to(PLAN.DTYPE), tl.trans(b_other.to(PLAN.DTYPE)), input_precision=PLAN.PRECISION
    )


@triton.jit
def _tile(p, o_d, o_e, PLAN: tl.constexpr):
    """A block of sums, `d e`."""
    mask = (o_d < PLAN.D)[:, None] & (o_e < PLAN.E)[None, :]
    return tl.load(p + o_d[:, None] * PLAN.E + o_e[None, :], mask=mask, other=0.0)


@triton.jit
def _state_dot(b_x, b_y, PLAN: tl.constexpr):
    return tl.dot(
        b_x.to(PLAN.STATE_DTYPE), b_y.to(PLAN.STATE_DTYPE), input_precision=PLAN.STATE_PRECISION
    )


@triton.jit
def _linear(b_own, p_sums, o_d, half, PLAN: tl.constexpr):
    """half x (sum x x' weight) + sum x weight, for a block of tokens."""
    p_square = p_sums + (PLAN.D + 1) * PLAN.D * PLAN.E + PLAN.E
    m_d = o_d < PLAN.D
    p_tile = p_square + o_d[:, None] * PLAN.D + o_d[None, :]
    b_square = tl.load(p_tile, mask=m_d[:, None] & m_d[None, :], other=0.0)
    b_line = tl.load(p_square + PLAN.D * PLAN.D + o_d, mask=m_d, other=0.0)
    return half * _state_dot(b_own, b_square, PLAN) + b_line[None, :]


@triton.jit
def results(
    p_own, s_own, scale, p, s_x, s_y, p_sums, p_out, s_out, p_weights, z, segments,
    PLAN: tl.constexpr,
):  # fmt: skip
    """sum a y of a block of tokens over all that they see, divided by sum a + eps where
    p_weights is given, which takes that; BACK: the gradient of values.
    """
    BLOCK: tl.constexpr = PLAN.BLOCK
    BLOCK_E: tl.constexpr = PLAN.BLOCK_E
    i_row, o_t, m_t, first, i_segment = _place(z, PLAN)
    o_d, o_e = tl.arange(0, PLAN.BLOCK_D), tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    p_own = _head(p_own, s_own, i_row, z.heads)
    p_x, p_y = _head(p.x, s_x, i_row, z.heads), _head(p.y, s_y, i_row, z.heads)
    b_own = _scaled(p_own, o_t, m_t, s_own[2], scale, PLAN)
    b_out = tl.zeros((BLOCK, BLOCK_E), tl.float32)
    b_weights = tl.zeros((BLOCK,), tl.float32)
    i_sum, there = _sum_number(i_row, i_segment, segments, PLAN)
    if there:
        p_own_sums = p_sums + i_sum * PLAN.SUMS
        for i_d in range(PLAN.D):
            b_half = _channel(p_own, o_t, m_t, s_own[2], scale, i_d) / 2
            b_second = _tile(p_own_sums + i_d * PLAN.D * PLAN.E, o_d, o_e, PLAN)
            b_out += _state_dot(b_own * b_half[:, None], b_second, PLAN)
        b_first = _tile(p_own_sums + PLAN.D * PLAN.D * PLAN.E, o_d, o_e, PLAN)
        b_out += _state_dot(b_own, b_first, PLAN)
        p_plain = p_own_sums + (PLAN.D + 1) * PLAN.D * PLAN.E
        b_out += tl.load(p_plain + o_e, mask=o_e < PLAN.E, other=0.0)[None, :]
        if p_weights is not None:
            b_count = tl.load(p_plain + PLAN.E + (PLAN.D + 1) * PLAN.D)
            b_weights += b_count + tl.sum(b_own * _linear(b_own, p_own_sums, o_d, 0.5, PLAN), 1)
    low, high = _span(z, first, i_segment, PLAN)
    for start in range(low, high, BLOCK):
        o_s = start + tl.arange(0, BLOCK)
        m_s = o_s < z.n
        b_s = _scores(b_own, _scaled(p_x, o_s, m_s, s_x[2], p.scale, PLAN), PLAN)
        b_a = tl.where(_seen(o_t, o_s, z, PLAN), 1 + b_s + b_s * b_s / 2, 0.0)
        b_weights += tl.sum(b_a, 1)
        b_a *= _row_number(p.share, i_row, o_s, m_s, z.n)[None, :]
        b_out += _state_dot(b_a, _values(p_y, o_s, m_s, s_y[2], o_e, PLAN), PLAN)
    if p_weights is not None:
        b_weights += z.eps
        b_out = b_out / b_weights[:, None]
        if tl.program_id(1) == 0:
            tl.store(p_weights + i_row.to(tl.int64) * z.n + o_t, b_weights, mask=m_t)
    p_tile = _head(p_out, s_out, i_row, z.heads) + o_t[:, None] * s_out[2] + o_e[None, :]
    mask = m_t[:, None] & (o_e < PLAN.E)[None, :]
    tl.store(p_tile, b_out.to(p_out.dtype.element_ty), mask=mask)


@triton.jit
def to_scores(
    own, s_own, s_beside, p, s_x, s_y, p_sums, p_out, s_out, z, segments,
    PARTS_E: tl.constexpr, PLAN: tl.constexpr,
):  # fmt: skip
    """The gradient of a block of queries, before their scale; BACK: of keys.

    A pair of tokens counts (y own' share - weight) (1 + s), where of the two the query has share
    and weight: 1 / sum of a and g . out / sum of a.
    """
    BLOCK: tl.constexpr = PLAN.BLOCK
    BLOCK_D: tl.constexpr = PLAN.BLOCK_D
    i_row, o_t, m_t, first, i_segment = _place(z, PLAN)
    o_d = tl.arange(0, BLOCK_D)
    p_own, p_beside = _head(own.x, s_own, i_row, z.heads), _head(own.y, s_beside, i_row, z.heads)
    p_x, p_y = _head(p.x, s_x, i_row, z.heads), _head(p.y, s_y, i_row, z.heads)
    b_own = _scaled(p_own, o_t, m_t, s_own[2], own.scale, PLAN)
    b_share = _row_number(own.share, i_row, o_t, m_t, z.n)
    b_weight = _row_number(own.weight, i_row, o_t, m_t, z.n)
    b_out = tl.zeros((BLOCK, BLOCK_D), tl.float32)
    i_sum, there = _sum_number(i_row, i_segment, segments, PLAN)
    if there:
        p_own_sums = p_sums + i_sum * PLAN.SUMS
        b_out -= b_weight[:, None] * _linear(b_own, p_own_sums, o_d, 1.0, PLAN)
        for i_e in range(PARTS_E):
            o_e = i_e * PLAN.BLOCK_E + tl.arange(0, PLAN.BLOCK_E)
            b_y = _values(p_beside, o_t, m_t, s_beside[2], o_e, PLAN) * b_share[:, None]
            b_first = _tile(p_own_sums + PLAN.D * PLAN.D * PLAN.E, o_d, o_e, PLAN)
            b_out += _state_dot(b_y, tl.trans(b_first), PLAN)
            for i_d in range(PLAN.D):
                b_i = _channel(p_own, o_t, m_t, s_own[2], own.scale, i_d)
                b_second = _tile(p_own_sums + i_d * PLAN.D * PLAN.E, o_d, o_e, PLAN)
                b_out += _state_dot(b_y * b_i[:, None], tl.trans(b_second), PLAN)
    low, high = _span(z, first, i_segment, PLAN)
    for start in range(low, high, BLOCK):
        o_s = start + tl.arange(0, BLOCK)
        m_s = o_s < z.n
        b_x = _scaled(p_x, o_s, m_s, s_x[2], p.scale, PLAN)
        b_d = tl.zeros((BLOCK, BLOCK), tl.float32)
        for i_e in range(PARTS_E):
            o_e = i_e * PLAN.BLOCK_E + tl.arange(0, PLAN.BLOCK_E)
            b_y = _values(p_beside, o_t, m_t, s_beside[2], o_e, PLAN)
            b_d += _scores(b_y, _values(p_y, o_s, m_s, s_y[2], o_e, PLAN), PLAN)
        b_d *= b_share[:, None] * _row_number(p.share, i_row, o_s, m_s, z.n)[None, :]
        b_d -= b_weight[:, None] * _row_number(p.weight, i_row, o_s, m_s, z.n)[None, :]
        b_d *= 1 + _scores(b_own, b_x, PLAN)
        b_d = tl.where(_seen(o_t, o_s, z, PLAN), b_d, 0.0)
        b_out += _state_dot(b_d, b_x, PLAN)
    p_tile = _head(p_out, s_out, i_row, z.heads)
    store_rows(p_tile, o_t, m_t, s_out[2], b_out * own.scale, PLAN.D, PLAN.BLOCK_D)
