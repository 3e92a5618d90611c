"""Kernels of WKV by chunks: each chunk's sums alone, a scan over those, then all chunks at once.

A program walks over the tokens of one chunk, a block of channels side by side. Sums are kept over
the largest exponent so far. The backward is the same walk from the last token, with the gradient
over a query's whole weight in the place of keys.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# Triton types kernels when it compiles them.
from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor


class Sizes(NamedTuple):
    """Pictures, channels, tokens, and tokens of a chunk."""

    batch: int
    channels: int
    n: int
    chunk: int


class Terms(NamedTuple):
    """Decay and bonus by channel, in float32."""

    decay: Tensor
    bonus: Tensor


class Queries(NamedTuple):
    """What the backward reads of a query: g, the result, and the logarithm of its whole weight."""

    g: Tensor
    out: Tensor
    lse: Tensor


@triton.jit
def _place(z, BLOCK_C: tl.constexpr):
    """Of a program: picture, chunk, channels, which of them there are."""
    o_c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    return tl.program_id(2), tl.program_id(0), o_c, o_c < z.channels


@triton.jit
def _column(p, s, i_b, o_c):
    """Pointers to the first tokens of channels."""
    return p + i_b.to(tl.int64) * s[0] + o_c.to(tl.int64) * s[1]


@triton.jit
def _read(p, stride, i_t, m_c):
    """The channels of one token in float32."""
    return tl.load(p + tl.cast(i_t, tl.int64) * stride, mask=m_c, other=0.0).to(tl.float32)


@triton.jit
def _sums_at(p_sums, i_b, i_chunk, o_c, z):
    """Where the sums of a chunk lie, `parts b chunks c`, and how far its parts are apart."""
    chunks = tl.cdiv(z.n, z.chunk)
    apart = tl.cast(z.batch, tl.int64) * chunks * z.channels
    return p_sums + (i_b.to(tl.int64) * chunks + i_chunk) * z.channels + o_c, apart


@triton.jit
def _joined(b_most, b_decay, b_new):
    """The new maximum, what sums before shrink by, and the share of the new."""
    b_before = b_most + b_decay
    b_max = tl.maximum(b_before, b_new)
    return b_max, tl.exp(b_before - b_max), tl.exp(b_new - b_max)


@triton.jit
def chunk_sums(p_k, s_k, p_v, s_v, p_terms, p_sums, z, BLOCK_C: tl.constexpr):
    """Of each chunk alone: sum e^x v, sum e^x and the largest x, as at its last token."""
    i_b, i_chunk, o_c, m_c = _place(z, BLOCK_C)
    p_key, p_value = _column(p_k, s_k, i_b, o_c), _column(p_v, s_v, i_b, o_c)
    b_decay = tl.load(p_terms.decay + o_c, mask=m_c, other=0.0)
    b_values = tl.zeros((BLOCK_C,), tl.float32)
    b_weights = tl.zeros((BLOCK_C,), tl.float32)
    b_most = tl.full((BLOCK_C,), float("-inf"), tl.float32)
    first = i_chunk * z.chunk
    for i_t in range(first, tl.minimum(first + z.chunk, z.n)):
        b_k, b_v = _read(p_key, s_k[2], i_t, m_c), _read(p_value, s_v[2], i_t, m_c)
        b_most, b_shrink, b_share = _joined(b_most, b_decay, b_k)
        b_values = b_values * b_shrink + b_share * b_v
        b_weights = b_weights * b_shrink + b_share
    p_here, apart = _sums_at(p_sums, i_b, i_chunk, o_c, z)
    tl.store(p_here, b_values, mask=m_c)
    tl.store(p_here + apart, b_weights, mask=m_c)
    tl.store(p_here + 2 * apart, b_most, mask=m_c)


@triton.jit
def carry_sums(p_terms, p_sums, z, BLOCK_C: tl.constexpr):
    """In the place of each chunk's sums, those of all chunks before it."""
    i_b, _, o_c, m_c = _place(z, BLOCK_C)
    b_fade = tl.load(p_terms.decay + o_c, mask=m_c, other=0.0) * z.chunk
    b_values = tl.zeros((BLOCK_C,), tl.float32)
    b_weights = tl.zeros((BLOCK_C,), tl.float32)
    b_most = tl.full((BLOCK_C,), float("-inf"), tl.float32)
    for i_chunk in range(tl.cdiv(z.n, z.chunk)):
        p_here, apart = _sums_at(p_sums, i_b, i_chunk, o_c, z)
        b_new_values = tl.load(p_here, mask=m_c, other=0.0)
        b_new_weights = tl.load(p_here + apart, mask=m_c, other=0.0)
        b_new = tl.load(p_here + 2 * apart, mask=m_c, other=0.0)
        tl.store(p_here, b_values, mask=m_c)
        tl.store(p_here + apart, b_weights, mask=m_c)
        tl.store(p_here + 2 * apart, b_most, mask=m_c)
        b_most, b_shrink, b_share = _joined(b_most, b_fade, b_new)
        b_values = b_values * b_shrink + b_new_values * b_share
        b_weights = b_weights * b_shrink + b_new_weights * b_share


@triton.jit
def results(
    p_k, s_k, p_v, s_v, p_terms, p_sums, p_out, s_out, p_lse, s_lse, z, BLOCK_C: tl.constexpr
):
    """The result of a chunk's tokens, and the logarithm of all that each weighs."""
    i_b, i_chunk, o_c, m_c = _place(z, BLOCK_C)
    p_key, p_value = _column(p_k, s_k, i_b, o_c), _column(p_v, s_v, i_b, o_c)
    p_result, p_log = _column(p_out, s_out, i_b, o_c), _column(p_lse, s_lse, i_b, o_c)
    b_decay = tl.load(p_terms.decay + o_c, mask=m_c, other=0.0)
    b_bonus = tl.load(p_terms.bonus + o_c, mask=m_c, other=0.0)
    p_here, apart = _sums_at(p_sums, i_b, i_chunk, o_c, z)
    b_values = tl.load(p_here, mask=m_c, other=0.0)
    b_weights = tl.load(p_here + apart, mask=m_c, other=0.0)
    b_most = tl.load(p_here + 2 * apart, mask=m_c, other=0.0)
    first = i_chunk * z.chunk
    for i_t in range(first, tl.minimum(first + z.chunk, z.n)):
        b_k, b_v = _read(p_key, s_k[2], i_t, m_c), _read(p_value, s_v[2], i_t, m_c)
        b_max, b_past, b_own = _joined(b_most, 0.0, b_k + b_bonus)
        b_weight = b_past * b_weights + b_own
        b_out = (b_past * b_values + b_own * b_v) / b_weight
        o_t = tl.cast(i_t, tl.int64)
        tl.store(p_result + o_t * s_out[2], b_out.to(p_out.dtype.element_ty), mask=m_c)
        tl.store(p_log + o_t * s_lse[2], b_max + tl.log(b_weight), mask=m_c)
        b_most, b_shrink, b_share = _joined(b_most, b_decay, b_k)
        b_values = b_values * b_shrink + b_share * b_v
        b_weights = b_weights * b_shrink + b_share


@triton.jit
def _query(p, s_g, s_out, s_lse, i_b, o_c, i_t, m_c):
    """g, the result and minus the log-weight of one token."""
    b_g = _read(_column(p.g, s_g, i_b, o_c), s_g[2], i_t, m_c)
    b_out = _read(_column(p.out, s_out, i_b, o_c), s_out[2], i_t, m_c)
    return b_g, b_out, -_read(_column(p.lse, s_lse, i_b, o_c), s_lse[2], i_t, m_c)


@triton.jit
def chunk_slopes(p, s_g, s_out, s_lse, p_terms, p_sums, z, BLOCK_C: tl.constexpr):
    """Of each chunk alone, as at its first token: sums of g and of g out over weights of queries,
    the same times the steps since, and the largest exponent.
    """
    i_b, i_chunk, o_c, m_c = _place(z, BLOCK_C)
    b_decay = tl.load(p_terms.decay + o_c, mask=m_c, other=0.0)
    b_g_sum = tl.zeros((BLOCK_C,), tl.float32)
    b_out_sum = tl.zeros((BLOCK_C,), tl.float32)
    b_g_steps = tl.zeros((BLOCK_C,), tl.float32)
    b_out_steps = tl.zeros((BLOCK_C,), tl.float32)
    b_most = tl.full((BLOCK_C,), float("-inf"), tl.float32)
    first = i_chunk * z.chunk
    end = tl.minimum(first + z.chunk, z.n)
    for step in range(end - first):
        b_g, b_out, b_new = _query(p, s_g, s_out, s_lse, i_b, o_c, end - 1 - step, m_c)
        b_most, b_shrink, b_share = _joined(b_most, b_decay, b_new)
        b_g_steps = (b_g_steps + b_g_sum) * b_shrink
        b_out_steps = (b_out_steps + b_out_sum) * b_shrink
        b_g_sum = b_g_sum * b_shrink + b_share * b_g
        b_out_sum = b_out_sum * b_shrink + b_share * b_g * b_out
    p_here, apart = _sums_at(p_sums, i_b, i_chunk, o_c, z)
    tl.store(p_here, b_g_sum, mask=m_c)
    tl.store(p_here + apart, b_out_sum, mask=m_c)
    tl.store(p_here + 2 * apart, b_g_steps, mask=m_c)
    tl.store(p_here + 3 * apart, b_out_steps, mask=m_c)
    tl.store(p_here + 4 * apart, b_most, mask=m_c)


@triton.jit
def carry_slopes(p_terms, p_sums, z, BLOCK_C: tl.constexpr):
    """In the place of each chunk's slopes, those of all chunks behind it."""
    i_b, _, o_c, m_c = _place(z, BLOCK_C)
    b_fade = tl.load(p_terms.decay + o_c, mask=m_c, other=0.0) * z.chunk
    b_g_sum = tl.zeros((BLOCK_C,), tl.float32)
    b_out_sum = tl.zeros((BLOCK_C,), tl.float32)
    b_g_steps = tl.zeros((BLOCK_C,), tl.float32)
    b_out_steps = tl.zeros((BLOCK_C,), tl.float32)
    b_most = tl.full((BLOCK_C,), float("-inf"), tl.float32)
    chunks = tl.cdiv(z.n, z.chunk)
    for step in range(chunks):
        p_here, apart = _sums_at(p_sums, i_b, chunks - 1 - step, o_c, z)
        b_new_g = tl.load(p_here, mask=m_c, other=0.0)
        b_new_out = tl.load(p_here + apart, mask=m_c, other=0.0)
        b_new_g_steps = tl.load(p_here + 2 * apart, mask=m_c, other=0.0)
        b_new_out_steps = tl.load(p_here + 3 * apart, mask=m_c, other=0.0)
        b_new = tl.load(p_here + 4 * apart, mask=m_c, other=0.0)
        tl.store(p_here, b_g_sum, mask=m_c)
        tl.store(p_here + apart, b_out_sum, mask=m_c)
        tl.store(p_here + 2 * apart, b_g_steps, mask=m_c)
        tl.store(p_here + 3 * apart, b_out_steps, mask=m_c)
        tl.store(p_here + 4 * apart, b_most, mask=m_c)
        b_most, b_shrink, b_share = _joined(b_most, b_fade, b_new)
        b_g_steps = (b_g_steps + z.chunk * b_g_sum) * b_shrink + b_new_g_steps * b_share
        b_out_steps = (b_out_steps + z.chunk * b_out_sum) * b_shrink + b_new_out_steps * b_share
        b_g_sum = b_g_sum * b_shrink + b_new_g * b_share
        b_out_sum = b_out_sum * b_shrink + b_new_out * b_share


@triton.jit
def gradients(
    p_k, s_k, p_v, s_v, p, s_g, s_out, s_lse, p_terms, p_sums, p_dk, s_dk, p_dv, s_dv, p_dterms, z,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradients of a chunk's keys and values, and what the chunk gives to decay and bonus.

    dterms   `2 b chunks c`
    """
    i_b, i_chunk, o_c, m_c = _place(z, BLOCK_C)
    p_key, p_value = _column(p_k, s_k, i_b, o_c), _column(p_v, s_v, i_b, o_c)
    p_to_key, p_to_value = _column(p_dk, s_dk, i_b, o_c), _column(p_dv, s_dv, i_b, o_c)
    b_decay = tl.load(p_terms.decay + o_c, mask=m_c, other=0.0)
    b_bonus = tl.load(p_terms.bonus + o_c, mask=m_c, other=0.0)
    p_here, apart = _sums_at(p_sums, i_b, i_chunk, o_c, z)
    b_g_sum = tl.load(p_here, mask=m_c, other=0.0)
    b_out_sum = tl.load(p_here + apart, mask=m_c, other=0.0)
    b_g_steps = tl.load(p_here + 2 * apart, mask=m_c, other=0.0)
    b_out_steps = tl.load(p_here + 3 * apart, mask=m_c, other=0.0)
    b_most = tl.load(p_here + 4 * apart, mask=m_c, other=0.0)
    b_to_decay = tl.zeros((BLOCK_C,), tl.float32)
    b_to_bonus = tl.zeros((BLOCK_C,), tl.float32)
    first = i_chunk * z.chunk
    end = tl.minimum(first + z.chunk, z.n)
    for step in range(end - first):
        o_t = tl.cast(end - 1 - step, tl.int64)
        b_k, b_v = _read(p_key, s_k[2], o_t, m_c), _read(p_value, s_v[2], o_t, m_c)
        b_g, b_out, b_new = _query(p, s_g, s_out, s_lse, i_b, o_c, o_t, m_c)
        b_weight, b_itself = tl.exp(b_k + b_most), tl.exp(b_k + b_bonus + b_new) * b_g
        b_dv = b_weight * b_g_sum + b_itself
        b_own = b_itself * (b_v - b_out)
        b_dk = b_weight * (b_v * b_g_sum - b_out_sum) + b_own
        tl.store(p_to_value + o_t * s_dv[2], b_dv.to(p_dv.dtype.element_ty), mask=m_c)
        tl.store(p_to_key + o_t * s_dk[2], b_dk.to(p_dk.dtype.element_ty), mask=m_c)
        b_to_decay += b_weight * (b_v * b_g_steps - b_out_steps)
        b_to_bonus += b_own
        b_most, b_shrink, b_share = _joined(b_most, b_decay, b_new)
        b_g_steps = (b_g_steps + b_g_sum) * b_shrink
        b_out_steps = (b_out_steps + b_out_sum) * b_shrink
        b_g_sum = b_g_sum * b_shrink + b_share * b_g
        b_out_sum = b_out_sum * b_shrink + b_share * b_g * b_out
    p_terms_here, apart = _sums_at(p_dterms, i_b, i_chunk, o_c, z)
    tl.store(p_terms_here, b_to_decay, mask=m_c)
    tl.store(p_terms_here + apart, b_to_bonus, mask=m_c)
