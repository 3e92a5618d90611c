"""Kernels of gated linear attention by chunks: a scan of states, then all chunks at once.

Decays are sums of gates inside a chunk, each summed afresh from where it starts, so no exponent is
positive and none is a difference of large numbers. Pairs of tokens in one part of a chunk are
weighted one by one; parts meet through the border between them, chunks through the state.
WAYS is 1 for the scan from the first token, 2 for the one from the last, 3 for their mean.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# Triton types kernels when it compiles them.
from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

PART = tl.constexpr(16)


class Gates(NamedTuple):
    """The logarithms of decays of both scans; one scan alone has both alike."""

    ahead: Tensor
    back: Tensor


class Sizes(NamedTuple):
    """Heads, heads of all pictures, tokens, channels of keys and of values, and the scale."""

    heads: int
    rows: int
    n: int
    d: int
    e: int
    factor: float


class Plan(NamedTuple):
    """What is fixed when a kernel is compiled.

    PARTS_D, PARTS_E   blocks of channels and of values
    STATE_             types of dots with a state, a sum over all tokens
    """

    WAYS: int
    CHUNK: int
    BLOCK_D: int
    BLOCK_E: int
    PARTS_D: int
    PARTS_E: int
    DTYPE: Any
    PRECISION: str
    STATE_DTYPE: Any
    STATE_PRECISION: str


@triton.jit
def _tile(p, stride, o_t, o_c, low, high, channels):
    """Tokens of low to high and their channels in float32, zeros elsewhere."""
    mask = (o_t >= low) & (o_t < high) & (o_c < channels)
    return tl.load(p + o_t.to(tl.int64) * stride + o_c, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _head(p, s, i_row, heads):
    """Where a head begins: i_row counts the heads of all pictures."""
    return p + (i_row // heads).to(tl.int64) * s[0] + (i_row % heads).to(tl.int64) * s[1]


@triton.jit
def _until(
    p_gate, stride, o_t, o_c, low, high, channels,
    AXIS: tl.constexpr, BACK: tl.constexpr, AFTER: tl.constexpr,
):  # fmt: skip
    """Sums of gates in low to high: up to a token with its own, or AFTER it until the last one.

    BACK   the scan comes from the last token
    """
    SHIFT: tl.constexpr = 0 if not AFTER else (-1 if BACK else 1)
    b_gate = _tile(p_gate, stride, o_t + SHIFT, o_c, low, high, channels)
    return tl.cumsum(b_gate, AXIS, reverse=BACK != AFTER)


@triton.jit
def _scan(
    p_x, p_y, p_gate, p_out, x_n, y_n, gate_n, o_d, o_e, z,
    BACK: tl.constexpr, SLOPE: tl.constexpr, PLAN: tl.constexpr,
):  # fmt: skip
    """The state that each chunk meets, or with SLOPE the gradient of the state that it leaves."""
    chunks = tl.cdiv(z.n, PLAN.CHUNK)
    size = tl.cast(z.d, tl.int64) * z.e
    o_row, o_column = o_d[:, None], o_e[None, :]
    mask = (o_row < z.d) & (o_column < z.e)
    b_state = tl.zeros((o_d.shape[0], o_e.shape[0]), tl.float32)
    for step in range(chunks):
        i_chunk = chunks - 1 - step if BACK != SLOPE else step
        first = i_chunk * PLAN.CHUNK
        end = tl.minimum(first + PLAN.CHUNK, z.n)
        p_state = p_out + i_chunk * size + o_row * z.e + o_column
        tl.store(p_state, b_state.to(p_out.dtype.element_ty), mask=mask)
        o_t = first + tl.arange(0, PLAN.CHUNK)
        b_decay = _until(p_gate, gate_n, o_t[None, :], o_row, first, end, z.d, 1, BACK, not SLOPE)
        b_x = _tile(p_x, x_n, o_t[None, :], o_row, first, end, z.d) * tl.exp(b_decay)
        b_y = _tile(p_y, y_n, o_t[:, None], o_column, first, end, z.e)
        b_gate = _tile(p_gate, gate_n, o_t[None, :], o_row, first, end, z.d)
        b_fade = tl.exp(tl.sum(b_gate, 1))
        b_new = tl.dot(b_x.to(PLAN.DTYPE), b_y.to(PLAN.DTYPE), input_precision=PLAN.PRECISION)
        b_state = b_state * b_fade[:, None] + b_new


@triton.jit
def states(
    p_x, s_x, p_y, s_y, p_gates, s_gate, s_back, p_out, z, SLOPE: tl.constexpr, PLAN: tl.constexpr
):
    """A scan over chunks for a block of channels and values; out: `ways b*h chunks d e`."""
    i_row, i_way = tl.program_id(0) // tl.cdiv(z.d, PLAN.BLOCK_D), tl.program_id(2)
    i_d = tl.program_id(0) % tl.cdiv(z.d, PLAN.BLOCK_D)
    o_d = i_d * PLAN.BLOCK_D + tl.arange(0, PLAN.BLOCK_D)
    o_e = tl.program_id(1) * PLAN.BLOCK_E + tl.arange(0, PLAN.BLOCK_E)
    p_out += (i_way * z.rows + i_row).to(tl.int64) * tl.cdiv(z.n, PLAN.CHUNK) * z.d * z.e
    p_x, p_y = _head(p_x, s_x, i_row, z.heads), _head(p_y, s_y, i_row, z.heads)
    if PLAN.WAYS == 1 or (PLAN.WAYS == 3 and i_way == 0):
        p_gate = _head(p_gates.ahead, s_gate, i_row, z.heads)
        _scan(
            p_x, p_y, p_gate, p_out, s_x[2], s_y[2], s_gate[2], o_d, o_e, z,
            False, SLOPE, PLAN,
        )  # fmt: skip
    if PLAN.WAYS == 2 or (PLAN.WAYS == 3 and i_way == 1):
        p_gate_back = _head(p_gates.back, s_back, i_row, z.heads)
        _scan(
            p_x, p_y, p_gate_back, p_out, s_x[2], s_y[2], s_back[2], o_d, o_e, z,
            True, SLOPE, PLAN,
        )  # fmt: skip


@triton.jit
def _part(z, PLAN: tl.constexpr):
    """Of a program: head, the part of a chunk and the chunk, each with its first and its end."""
    per_head = tl.cdiv(z.n, PLAN.CHUNK) * (PLAN.CHUNK // PART)
    i_row, start = tl.program_id(0) // per_head, tl.program_id(0) % per_head * PART
    first = start // PLAN.CHUNK * PLAN.CHUNK
    end, limit = tl.minimum(first + PLAN.CHUNK, z.n), tl.minimum(start + PART, z.n)
    return i_row, start, limit, first, end


@triton.jit
def _faded(b_local, BACK: tl.constexpr, STRICT: tl.constexpr):
    """exp of the gates between tokens s and t of one part, `t s c`; zeros where t misses s."""
    o_t, o_s = tl.arange(0, PART)[:, None], tl.arange(0, PART)[None, :]
    seen = o_s >= o_t if BACK else o_s <= o_t
    if STRICT:
        seen = seen & (o_s != o_t)
    b_between = b_local[:, None, :] - b_local[None, :, :]
    return tl.exp(tl.where(seen[:, :, None], b_between, float("-inf")))


@triton.jit
def _pairs(
    p_k, p_gate, k_n, gate_n, b_q, b_k, o_t, o_d, start, first, end, z,
    BACK: tl.constexpr, PLAN: tl.constexpr,
):  # fmt: skip
    """Scores of one part's tokens with the tokens passed in the chunk, and with each other."""
    b_local = _until(p_gate, gate_n, o_t[:, None], o_d[None, :], start, end, z.d, 0, BACK, False)
    if BACK:
        low, high = start + PART, end
    else:
        low, high = first, tl.minimum(start, end)
    o_s = first + tl.arange(0, PLAN.CHUNK)[None, :]
    b_decay = _until(p_gate, gate_n, o_s, o_d[:, None], low, high, z.d, 1, BACK, True)
    b_passed = _tile(p_k, k_n, o_s, o_d[:, None], low, high, z.d) * tl.exp(b_decay)
    b_asked = b_q * tl.exp(b_local)
    b_far = tl.dot(b_asked.to(PLAN.DTYPE), b_passed.to(PLAN.DTYPE), input_precision=PLAN.PRECISION)
    b_near = tl.sum(b_q[:, None, :] * b_k[None, :, :] * _faded(b_local, BACK, False), 2)
    return b_far, b_near


@triton.jit
def scores(p_q, s_q, p_k, s_k, p_gates, s_gate, s_back, p_out, z, PLAN: tl.constexpr):
    """The map inside each chunk, `b*h chunks chunk chunk`; a program makes the rows of a part."""
    CHUNK: tl.constexpr = PLAN.CHUNK
    i_row, start, limit, first, end = _part(z, PLAN)
    o_t = start + tl.arange(0, PART)
    p_q, p_k = _head(p_q, s_q, i_row, z.heads), _head(p_k, s_k, i_row, z.heads)
    p_gate = _head(p_gates.ahead, s_gate, i_row, z.heads)
    p_gate_back = _head(p_gates.back, s_back, i_row, z.heads)
    b_far = tl.zeros((PART, CHUNK), tl.float32)
    b_near = tl.zeros((PART, PART), tl.float32)
    for i in range(PLAN.PARTS_D):
        o_d = i * PLAN.BLOCK_D + tl.arange(0, PLAN.BLOCK_D)
        b_q = _tile(p_q, s_q[2], o_t[:, None], o_d[None, :], start, limit, z.d)
        b_k = _tile(p_k, s_k[2], o_t[:, None], o_d[None, :], start, limit, z.d)
        if PLAN.WAYS != 2:
            far, near = _pairs(
                p_k, p_gate, s_k[2], s_gate[2], b_q, b_k, o_t, o_d, start, first, end, z,
                False, PLAN,
            )  # fmt: skip
            b_far += far
            b_near += near
        if PLAN.WAYS != 1:
            far, near = _pairs(
                p_k, p_gate_back, s_k[2], s_back[2], b_q, b_k, o_t, o_d, start, first, end, z,
                True, PLAN,
            )  # fmt: skip
            b_far += far
            b_near += near
    p_out += tl.program_id(0).to(tl.int64) * PART * PLAN.CHUNK
    p_out += tl.arange(0, PART)[:, None] * PLAN.CHUNK
    o_s = first + tl.arange(0, PLAN.CHUNK)[None, :]
    apart = (o_s < start) | (o_s >= start + PART)
    tl.store(p_out + o_s - first, (b_far * z.factor).to(p_out.dtype.element_ty), mask=apart)
    o_s = start - first + tl.arange(0, PART)[None, :]
    tl.store(p_out + o_s, (b_near * z.factor).to(p_out.dtype.element_ty))


@triton.jit
def _recall(
    b_x, p_gate, p_state, gate_n, o_t, o_d, o_e, first, end, z,
    BACK: tl.constexpr, SLOPE: tl.constexpr, PLAN: tl.constexpr,
):  # fmt: skip
    """What the state of a chunk brings to its tokens, `t e`."""
    b_decay = _until(p_gate, gate_n, o_t[:, None], o_d[None, :], first, end, z.d, 0, BACK, SLOPE)
    o_row, o_column = o_d[:, None], o_e[None, :]
    mask = (o_row < z.d) & (o_column < z.e)
    b_state = tl.load(p_state + o_row * z.e + o_column, mask=mask, other=0.0).to(tl.float32)
    b_asked = b_x * tl.exp(b_decay)
    return tl.dot(
        b_asked.to(PLAN.STATE_DTYPE), b_state.to(PLAN.STATE_DTYPE),
        input_precision=PLAN.STATE_PRECISION,
    )  # fmt: skip


@triton.jit
def results(
    p_x, s_x, p_y, s_y, p_gates, s_gate, s_back, p_scores, p_states, p_out, s_out, z,
    SLOPE: tl.constexpr, PLAN: tl.constexpr,
):  # fmt: skip
    """A chunk's result from its state and its scores; with SLOPE the gradient of its values."""
    CHUNK: tl.constexpr = PLAN.CHUNK
    BLOCK_E: tl.constexpr = PLAN.BLOCK_E
    chunks = tl.cdiv(z.n, PLAN.CHUNK)
    i_chunk = tl.program_id(0).to(tl.int64)
    i_row, first = tl.program_id(0) // chunks, tl.program_id(0) % chunks * PLAN.CHUNK
    end = tl.minimum(first + PLAN.CHUNK, z.n)
    o_c = tl.arange(0, PLAN.CHUNK)
    o_t = first + o_c
    o_e = tl.program_id(1) * PLAN.BLOCK_E + tl.arange(0, PLAN.BLOCK_E)
    p_x, p_y = _head(p_x, s_x, i_row, z.heads), _head(p_y, s_y, i_row, z.heads)
    p_out = _head(p_out, s_out, i_row, z.heads)
    p_gate = _head(p_gates.ahead, s_gate, i_row, z.heads)
    p_gate_back = _head(p_gates.back, s_back, i_row, z.heads)
    p_states += i_chunk * z.d * z.e
    p_states_back = p_states
    if PLAN.WAYS == 3:
        p_states_back += tl.cast(z.rows, tl.int64) * chunks * z.d * z.e
    b_out = tl.zeros((CHUNK, BLOCK_E), tl.float32)
    for i in range(PLAN.PARTS_D):
        o_d = i * PLAN.BLOCK_D + tl.arange(0, PLAN.BLOCK_D)
        b_x = _tile(p_x, s_x[2], o_t[:, None], o_d[None, :], first, end, z.d)
        if PLAN.WAYS != 2:
            b_out += _recall(
                b_x, p_gate, p_states, s_gate[2], o_t, o_d, o_e, first, end, z,
                False, SLOPE, PLAN,
            )  # fmt: skip
        if PLAN.WAYS != 1:
            b_out += _recall(
                b_x, p_gate_back, p_states_back, s_back[2], o_t, o_d, o_e, first, end, z,
                True, SLOPE, PLAN,
            )  # fmt: skip
    if SLOPE:
        o_score = o_c[None, :] * PLAN.CHUNK + o_c[:, None]
    else:
        o_score = o_c[:, None] * PLAN.CHUNK + o_c[None, :]
    b_score = tl.load(p_scores + i_chunk * PLAN.CHUNK * PLAN.CHUNK + o_score)
    b_score = b_score.to(tl.float32).to(PLAN.DTYPE)
    b_y = _tile(p_y, s_y[2], o_t[:, None], o_e[None, :], first, end, z.e).to(PLAN.DTYPE)
    b_out = b_out * z.factor + tl.dot(b_score, b_y, input_precision=PLAN.PRECISION)
    p_tile = p_out + o_t[:, None].to(tl.int64) * s_out[2] + o_e[None, :]
    mask = (o_t < z.n)[:, None] & (o_e < z.e)[None, :]
    tl.store(p_tile, b_out.to(p_out.dtype.element_ty), mask=mask)


@triton.jit
def products(p_g, s_g, p_v, s_v, p_out, z, PLAN: tl.constexpr):
    """The gradient of the map inside each chunk: g v'."""
    CHUNK: tl.constexpr = PLAN.CHUNK
    chunks = tl.cdiv(z.n, PLAN.CHUNK)
    i_row, first = tl.program_id(0) // chunks, tl.program_id(0) % chunks * PLAN.CHUNK
    end = tl.minimum(first + PLAN.CHUNK, z.n)
    o_c = tl.arange(0, PLAN.CHUNK)
    p_g, p_v = _head(p_g, s_g, i_row, z.heads), _head(p_v, s_v, i_row, z.heads)
    b_sum = tl.zeros((CHUNK, CHUNK), tl.float32)
    for i in range(PLAN.PARTS_E):
        o_e = i * PLAN.BLOCK_E + tl.arange(0, PLAN.BLOCK_E)
        b_g = _tile(p_g, s_g[2], first + o_c[:, None], o_e[None, :], first, end, z.e)
        b_v = _tile(p_v, s_v[2], first + o_c[None, :], o_e[:, None], first, end, z.e)
        b_sum += tl.dot(b_g.to(PLAN.DTYPE), b_v.to(PLAN.DTYPE), input_precision=PLAN.PRECISION)
    p_out += tl.program_id(0).to(tl.int64) * PLAN.CHUNK * PLAN.CHUNK
    tl.store(p_out + o_c[:, None] * PLAN.CHUNK + o_c[None, :], b_sum * z.factor)


@triton.jit
def _through_state(p_y, p_state, y_n, o_t, o_d, start, limit, z, PLAN: tl.constexpr):
    """y times the transposed state, `t d`."""
    b_sum = tl.zeros((o_t.shape[0], o_d.shape[0]), tl.float32)
    for i in range(PLAN.PARTS_E):
        o_e = i * PLAN.BLOCK_E + tl.arange(0, PLAN.BLOCK_E)
        b_y = _tile(p_y, y_n, o_t[:, None], o_e[None, :], start, limit, z.e)
        mask = (o_e < z.e)[:, None] & (o_d < z.d)[None, :]
        p_tile = p_state + o_d[None, :] * z.e + o_e[:, None]
        b_state = tl.load(p_tile, mask=mask, other=0.0).to(tl.float32)
        b_sum += tl.dot(
            b_y.to(PLAN.STATE_DTYPE), b_state.to(PLAN.STATE_DTYPE),
            input_precision=PLAN.STATE_PRECISION,
        )  # fmt: skip
    return b_sum


@triton.jit
def _met(
    p_x, p_gate, p_slopes, x_n, gate_n, o_score, o_s, o_d, low, high, z,
    BACK: tl.constexpr, AFTER: tl.constexpr, PLAN: tl.constexpr,
):  # fmt: skip
    """Slopes of a part with the tokens low to high of its chunk, times those tokens as they have
    decayed on the way; and the decay over all of them."""
    o_row, o_column = o_s[:, None], o_d[None, :]
    mask = ((o_s >= low) & (o_s < high))[None, :]
    b_slope = tl.load(p_slopes + o_score, mask=mask)
    b_slope = tl.where(mask, b_slope, 0.0)
    b_decay = _until(p_gate, gate_n, o_row, o_column, low, high, z.d, 0, BACK, AFTER)
    b_x = _tile(p_x, x_n, o_row, o_column, low, high, z.d) * tl.exp(b_decay)
    b_sum = tl.dot(b_slope.to(PLAN.DTYPE), b_x.to(PLAN.DTYPE), input_precision=PLAN.PRECISION)
    b_gate = _tile(p_gate, gate_n, o_row, o_column, low, high, z.d)
    return b_sum, tl.exp(tl.sum(b_gate, 0))[None, :]


@triton.jit
def _one_way(
    p, s_q, s_k, s_v, p_g, s_g, p_gate, gate_n, p_slopes, p_states, p_slope_states, b_q, b_k,
    b_near,
    o_t, o_d, start, limit, first, end, z, BACK: tl.constexpr, PLAN: tl.constexpr,
):  # fmt: skip
    """Gradients of a part's q and k through one scan, but for each token's meeting with itself."""
    if BACK:
        old, before, new, after = start + PART, end, first, tl.minimum(start, end)
    else:
        old, before, new, after = first, tl.minimum(start, end), start + PART, end
    o_s = first + tl.arange(0, PLAN.CHUNK)
    o_i, o_j = o_t[:, None] - first, o_s[None, :] - first
    b_local = _until(p_gate, gate_n, o_t[:, None], o_d[None, :], start, limit, z.d, 0, BACK, False)
    b_rest = _until(p_gate, gate_n, o_t[:, None], o_d[None, :], start, limit, z.d, 0, BACK, True)
    b_dq, b_fade = _met(
        p.k, p_gate, p_slopes, s_k[2], gate_n, o_i * PLAN.CHUNK + o_j, o_s, o_d, old, before, z,
        BACK, True, PLAN,
    )  # fmt: skip
    b_dq += (
        b_fade * z.factor * _through_state(p_g, p_states, s_g[2], o_t, o_d, start, limit, z, PLAN)
    )
    b_dq *= tl.exp(b_local)
    b_dk, b_fade = _met(
        p.q, p_gate, p_slopes, s_q[2], gate_n, o_j * PLAN.CHUNK + o_i, o_s, o_d, new, after, z,
        BACK, False, PLAN,
    )  # fmt: skip
    b_dk += (
        b_fade
        * z.factor
        * _through_state(p.v, p_slope_states, s_v[2], o_t, o_d, start, limit, z, PLAN)
    )
    b_dk *= tl.exp(b_rest)
    b_pairs = _faded(b_local, BACK, True) * b_near[:, :, None]
    b_dq += tl.sum(b_pairs * b_k[None, :, :], 1)
    b_dk += tl.sum(b_pairs * b_q[:, None, :], 0)
    return b_dq, b_dk


class Inputs(NamedTuple):
    """Queries, keys and values."""

    q: Any
    k: Any
    v: Any


@triton.jit
def to_q_and_k(
    p, s_q, s_k, s_v, p_g, s_g, p_gates, s_gate, s_back, p_slopes, p_states, p_slope_states,
    p_dq, s_dq, p_dk, s_dk, p_turns, z, PLAN: tl.constexpr,
):  # fmt: skip
    """Gradients of one part's q and k, and in turns what q and k would give to their decays."""
    i_row, start, limit, first, end = _part(z, PLAN)
    o_i = tl.arange(0, PART)
    o_t, o_d = start + o_i, tl.program_id(1) * PLAN.BLOCK_D + tl.arange(0, PLAN.BLOCK_D)
    mask = (o_t < z.n)[:, None] & (o_d < z.d)[None, :]
    i_chunk = i_row.to(tl.int64) * tl.cdiv(z.n, PLAN.CHUNK) + first // PLAN.CHUNK
    p_slopes += i_chunk * PLAN.CHUNK * PLAN.CHUNK
    p_states += i_chunk * z.d * z.e
    p_slope_states += i_chunk * z.d * z.e
    p_turns += (i_row.to(tl.int64) * z.n + o_t[:, None]) * z.d + o_d[None, :]
    p_q, p_k = _head(p.q, s_q, i_row, z.heads), _head(p.k, s_k, i_row, z.heads)
    p_v, p_g = _head(p.v, s_v, i_row, z.heads), _head(p_g, s_g, i_row, z.heads)
    p_gate = _head(p_gates.ahead, s_gate, i_row, z.heads)
    p_gate_back = _head(p_gates.back, s_back, i_row, z.heads)
    b_q = _tile(p_q, s_q[2], o_t[:, None], o_d[None, :], start, limit, z.d)
    b_k = _tile(p_k, s_k[2], o_t[:, None], o_d[None, :], start, limit, z.d)
    p_inside = p_slopes + (start - first + o_i)[:, None] * PLAN.CHUNK + start - first
    b_near = tl.load(p_inside + o_i[None, :])
    b_itself = tl.sum(tl.where(o_i[:, None] == o_i[None, :], b_near, 0.0), 1)[:, None]
    if PLAN.WAYS == 3:
        b_itself *= 2
    b_dq, b_dk = b_itself * b_k, b_itself * b_q
    heads = Inputs(p_q, p_k, p_v)
    if PLAN.WAYS != 2:
        by_q, by_k = _one_way(
            heads, s_q, s_k, s_v, p_g, s_g, p_gate, s_gate[2], p_slopes, p_states, p_slope_states,
            b_q, b_k, b_near, o_t, o_d, start, limit, first, end, z, False, PLAN,
        )  # fmt: skip
        tl.store(p_turns, b_q * by_q - b_k * by_k, mask=mask)
        b_dq, b_dk = b_dq + by_q, b_dk + by_k
    if PLAN.WAYS == 3:
        p_turns += tl.cast(z.rows, tl.int64) * z.n * z.d
        p_states += tl.cast(z.rows, tl.int64) * tl.cdiv(z.n, PLAN.CHUNK) * z.d * z.e
        p_slope_states += tl.cast(z.rows, tl.int64) * tl.cdiv(z.n, PLAN.CHUNK) * z.d * z.e
    if PLAN.WAYS != 1:
        by_q, by_k = _one_way(
            heads, s_q, s_k, s_v, p_g, s_g, p_gate_back, s_back[2], p_slopes, p_states,
            p_slope_states,
            b_q, b_k, b_near, o_t, o_d, start, limit, first, end, z, True, PLAN,
        )  # fmt: skip
        tl.store(p_turns, b_q * by_q - b_k * by_k, mask=mask)
        b_dq, b_dk = b_dq + by_q, b_dk + by_k
    o_tile = o_t[:, None].to(tl.int64)
    p_dq = _head(p_dq, s_dq, i_row, z.heads) + o_tile * s_dq[2] + o_d[None, :]
    p_dk = _head(p_dk, s_dk, i_row, z.heads) + o_tile * s_dk[2] + o_d[None, :]
    tl.store(p_dq, b_dq.to(p_dq.dtype.element_ty), mask=mask)
    tl.store(p_dk, b_dk.to(p_dk.dtype.element_ty), mask=mask)


@triton.jit
def to_gate(
    p_turns, p_out, s_out, heads, n, d,
    BACK: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The gradient of a gate: the sum of turns from its token to the end of the scan."""
    i_row = tl.program_id(0)
    o_d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    p_turns += i_row.to(tl.int64) * n * d
    p_out = _head(p_out, s_out, i_row, heads)
    b_carried = tl.zeros((1, BLOCK_D), tl.float32)
    blocks = tl.cdiv(n, BLOCK_T)
    for step in range(blocks):
        i_t = step if BACK else blocks - 1 - step
        o_t = (i_t * BLOCK_T + tl.arange(0, BLOCK_T))[:, None]
        b_turns = _tile(p_turns, d, o_t, o_d, 0, n, d)
        b_sum = b_carried + tl.cumsum(b_turns, 0, reverse=not BACK)
        p_tile = p_out + o_t.to(tl.int64) * s_out[2] + o_d
        tl.store(p_tile, b_sum.to(p_out.dtype.element_ty), mask=(o_t < n) & (o_d < d))
        b_carried += tl.sum(b_turns, 0)[None, :]
