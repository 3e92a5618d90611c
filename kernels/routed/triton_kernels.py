"""The kernels of routed attention: keys are read where the index points, never gathered.

A program holds queries of one block and walks over the keys of the blocks that its row of the
index names. Backwards a program holds keys of one block and walks over the queries that named it,
by the index turned round, so nothing is added up by atomics.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# Triton types kernels when it compiles them.
from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ..shared.triton_rows import LOG2E, load_rows, softmax_step, store_rows

# Where the tokens of a block lie: blocks side by side, rows and columns of one, the grid's width.
Lattice = tuple[int, int, int, int]


class Pointers(NamedTuple):
    """The tensors that every pass reads: `chosen` is the index; weight may be None.

    entries   of each row of the index, `b h R`, how many to read; None for all
    """

    q: Tensor
    k: Tensor
    v: Tensor
    chosen: Tensor
    weight: Tensor | None
    entries: Tensor | None


class Strides(NamedTuple):
    """Of `b h n` of tokens, whose channels lie side by side, and of `b h R t`."""

    q: tuple[int, ...]
    k: tuple[int, ...]
    v: tuple[int, ...]
    chosen: tuple[int, ...]
    weight: tuple[int, ...] | None


class Sizes(NamedTuple):
    """Heads, those that share keys, queries and keys in all, blocks, queries and keys in one,
    blocks named, the scale in bits."""

    heads: int
    group: int
    tokens: int
    held: int
    blocks: int
    queries: int
    keys: int
    named: int
    scale: float


class Plan(NamedTuple):
    """What is fixed when a kernel is compiled. M are queries, N are keys."""

    AT_M: Lattice
    AT_N: Lattice
    D: int
    BLOCK_D: int
    E: int
    BLOCK_E: int
    BLOCK_M: int
    BLOCK_N: int
    DTYPE: Any
    PRECISION: str
    CAUSAL: bool


@triton.jit
def _token(i_block, o_place, AT: tl.constexpr):
    """The token at a place of a block."""
    y = i_block // AT[0] * AT[1] + o_place // AT[2]
    x = i_block % AT[0] * AT[2] + o_place % AT[2]
    return y * AT[3] + x


@triton.jit
def _named(p_chosen, s_chosen, o_n, z, AT: tl.constexpr):
    """The tokens of keys, counted through the named blocks, and which of them are seen."""
    block = tl.load(p_chosen + o_n // z.keys * s_chosen[3], mask=o_n < z.named * z.keys, other=-1)
    m_n = (block >= 0) & (block < z.blocks)
    token = _token(tl.where(m_n, block, 0).to(tl.int32), o_n % z.keys, AT)
    return token, m_n & (token < z.held)


@triton.jit
def _entries(p, z, i_row, i_block):
    """How many keys a row of the index names."""
    named = z.named
    if p.entries is not None:
        named = tl.load(p.entries + i_row * z.blocks + i_block)
    return named * z.keys


@triton.jit
def _seen(m_n, o_m, o_n, CAUSAL: tl.constexpr):
    """Which keys of a tile its queries see, `M N`."""
    m = m_n[None, :] & (o_m[:, None] >= 0)
    if CAUSAL:
        m = m & (o_n[None, :] <= o_m[:, None])
    return m


@triton.jit
def _place(z, count, BLOCK: tl.constexpr):
    """Of a program: picture, head, row of both, block, and its places in there."""
    tiles = tl.cdiv(count, BLOCK)
    i_block = tl.program_id(0) // tiles % z.blocks
    i_row = (tl.program_id(0) // tiles // z.blocks).to(tl.int64)
    o_place = tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK)
    return i_row // z.heads, i_row % z.heads, i_row, i_block, o_place


@triton.jit
def attend(p, s_q, s_k, s_v, s_chosen, s_weight, p_out, s_out, p_lse, z, PLAN: tl.constexpr):
    """Queries of one block: their result and the base-2 log-sum-exp of their scores."""
    AT_M: tl.constexpr = PLAN.AT_M
    AT_N: tl.constexpr = PLAN.AT_N
    BLOCK_M: tl.constexpr = PLAN.BLOCK_M
    BLOCK_E: tl.constexpr = PLAN.BLOCK_E
    i_b, i_h, i_row, i_block, o_place = _place(z, z.queries, PLAN.BLOCK_M)
    o_m = _token(i_block, o_place, AT_M)
    m_m = (o_place < z.queries) & (o_m < z.tokens)
    p_q = p.q + i_b * s_q[0] + i_h * s_q[1]
    b_q = load_rows(p_q, o_m, m_m, s_q[2], PLAN.D, PLAN.BLOCK_D, PLAN.DTYPE)
    i_g = i_h // z.group
    p_k, p_v = p.k + i_b * s_k[0] + i_g * s_k[1], p.v + i_b * s_v[0] + i_g * s_v[1]
    p_chosen = p.chosen + i_b * s_chosen[0] + i_h * s_chosen[1] + i_block * s_chosen[2]
    if p.weight is not None:
        p_weight = p.weight + i_b * s_weight[0] + i_h * s_weight[1] + i_block * s_weight[2]
    b_max = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    b_sum = tl.zeros((BLOCK_M,), tl.float32)
    b_out = tl.zeros((BLOCK_M, BLOCK_E), tl.float32)
    for start in range(0, _entries(p, z, i_row, i_block), PLAN.BLOCK_N):
        o_pair = start + tl.arange(0, PLAN.BLOCK_N)
        o_n, m_n = _named(p_chosen, s_chosen, o_pair, z, AT_N)
        b_k = load_rows(p_k, o_n, m_n, s_k[2], PLAN.D, PLAN.BLOCK_D, PLAN.DTYPE)
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PLAN.PRECISION) * z.scale
        if p.weight is not None:
            p_w = p_weight + o_pair // z.keys * s_weight[3]
            b_weight = tl.load(p_w, mask=m_n, other=0.0).to(tl.float32)
            b_s *= b_weight[None, :]
        b_s = tl.where(_seen(m_n, o_m, o_n, PLAN.CAUSAL), b_s, float("-inf"))
        b_p, b_shrink, b_max, b_sum = softmax_step(b_s, b_max, b_sum, False)
        if p.weight is not None:
            b_p *= b_weight[None, :]
        b_v = load_rows(p_v, o_n, m_n, s_v[2], PLAN.E, PLAN.BLOCK_E, PLAN.DTYPE)
        b_out = tl.dot(
            b_p.to(PLAN.DTYPE), b_v, b_out * b_shrink[:, None], input_precision=PLAN.PRECISION
        )
    seen = b_sum > 0
    b_sum = tl.where(seen, b_sum, 1.0)
    p_o = p_out + i_b * s_out[0] + i_h * s_out[1]
    store_rows(p_o, o_m, m_m, s_out[2], b_out / b_sum[:, None], PLAN.E, PLAN.BLOCK_E)
    b_lse = tl.where(seen, b_max + tl.log2(b_sum), float("inf"))  # +inf: a map of zeros
    tl.store(p_lse + i_row * z.tokens + o_m, b_lse, mask=m_m)


@triton.jit
def to_queries(
    p, s_q, s_k, s_v, s_chosen, s_weight, p_out, s_out, p_g, s_g, p_lse, p_delta, p_dq, s_dq,
    p_dweight, z, factor,
    PLAN: tl.constexpr,
):  # fmt: skip
    """delta = the sum of out g over channels; the gradient of queries; of weights, key by key."""
    AT_M: tl.constexpr = PLAN.AT_M
    AT_N: tl.constexpr = PLAN.AT_N
    BLOCK_M: tl.constexpr = PLAN.BLOCK_M
    BLOCK_D: tl.constexpr = PLAN.BLOCK_D
    i_b, i_h, i_row, i_block, o_place = _place(z, z.queries, PLAN.BLOCK_M)
    o_m = _token(i_block, o_place, AT_M)
    m_m = (o_place < z.queries) & (o_m < z.tokens)
    p_g += i_b * s_g[0] + i_h * s_g[1]
    b_g = load_rows(p_g, o_m, m_m, s_g[2], PLAN.E, PLAN.BLOCK_E, PLAN.DTYPE)
    p_out += i_b * s_out[0] + i_h * s_out[1]
    b_out = load_rows(p_out, o_m, m_m, s_out[2], PLAN.E, PLAN.BLOCK_E, PLAN.DTYPE)
    b_delta = tl.sum(b_g.to(tl.float32) * b_out.to(tl.float32), 1)
    tl.store(p_delta + i_row * z.tokens + o_m, b_delta, mask=m_m)
    if p_dq is not None:
        b_lse = tl.load(p_lse + i_row * z.tokens + o_m, mask=m_m, other=float("inf"))
        p_q = p.q + i_b * s_q[0] + i_h * s_q[1]
        b_q = load_rows(p_q, o_m, m_m, s_q[2], PLAN.D, PLAN.BLOCK_D, PLAN.DTYPE)
        i_g = i_h // z.group
        p_k, p_v = p.k + i_b * s_k[0] + i_g * s_k[1], p.v + i_b * s_v[0] + i_g * s_v[1]
        p_chosen = p.chosen + i_b * s_chosen[0] + i_h * s_chosen[1] + i_block * s_chosen[2]
        if p.weight is not None:
            p_weight = p.weight + i_b * s_weight[0] + i_h * s_weight[1] + i_block * s_weight[2]
        if p_dweight is not None:
            p_dweight += tl.program_id(0).to(tl.int64) * z.named * z.keys
        b_dq = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
        for start in range(0, _entries(p, z, i_row, i_block), PLAN.BLOCK_N):
            o_pair = start + tl.arange(0, PLAN.BLOCK_N)
            o_n, m_n = _named(p_chosen, s_chosen, o_pair, z, AT_N)
            b_k = load_rows(p_k, o_n, m_n, s_k[2], PLAN.D, PLAN.BLOCK_D, PLAN.DTYPE)
            b_v = load_rows(p_v, o_n, m_n, s_v[2], PLAN.E, PLAN.BLOCK_E, PLAN.DTYPE)
            b_raw = tl.dot(b_q, tl.trans(b_k), input_precision=PLAN.PRECISION) * z.scale
            b_dp = tl.dot(b_g, tl.trans(b_v), input_precision=PLAN.PRECISION)
            if p.weight is not None:
                p_w = p_weight + o_pair // z.keys * s_weight[3]
                b_weight = tl.load(p_w, mask=m_n, other=0.0).to(tl.float32)
                b_s, b_ds = b_raw * b_weight[None, :], b_dp * b_weight[None, :]
            else:
                b_s, b_ds = b_raw, b_dp
            m_s = _seen(m_n, o_m, o_n, PLAN.CAUSAL)
            b_p = tl.exp2(tl.where(m_s, b_s, float("-inf")) - b_lse[:, None])
            b_ds = b_p * (b_ds - b_delta[:, None])
            if p_dweight is not None:
                LN2: tl.constexpr = 1 / LOG2E
                b_dweight = tl.sum(b_ds * b_raw * LN2 + b_p * b_dp, 0)
                tl.store(p_dweight + o_pair, b_dweight, mask=o_pair < z.named * z.keys)
            if p.weight is not None:
                b_ds *= b_weight[None, :]
            b_dq = tl.dot(b_ds.to(PLAN.DTYPE), b_k, b_dq, input_precision=PLAN.PRECISION)
        p_dq += i_b * s_dq[0] + i_h * s_dq[1]
        store_rows(p_dq, o_m, m_m, s_dq[2], b_dq * factor, PLAN.D, PLAN.BLOCK_D)


@triton.jit
def to_keys(
    p, s_q, s_k, s_v, s_chosen, s_weight, p_order, s_order, p_starts, s_starts, p_g, s_g, p_lse,
    p_delta, p_dk, s_dk, p_dv, s_dv,
    z, factor, PLAN: tl.constexpr,
):  # fmt: skip
    """Gradients of keys and values of one block, over all queries whose blocks named it."""
    AT_N: tl.constexpr = PLAN.AT_N
    AT_M: tl.constexpr = PLAN.AT_M
    BLOCK_N: tl.constexpr = PLAN.BLOCK_N
    BLOCK_D: tl.constexpr = PLAN.BLOCK_D
    BLOCK_E: tl.constexpr = PLAN.BLOCK_E
    i_b, i_h, i_row, i_block, o_place = _place(z, z.keys, PLAN.BLOCK_N)
    o_n = _token(i_block, o_place, AT_N)
    m_n = (o_place < z.keys) & (o_n < z.held)
    i_g = i_h // z.group
    p_k, p_v = p.k + i_b * s_k[0] + i_g * s_k[1], p.v + i_b * s_v[0] + i_g * s_v[1]
    b_k = load_rows(p_k, o_n, m_n, s_k[2], PLAN.D, PLAN.BLOCK_D, PLAN.DTYPE)
    b_v = load_rows(p_v, o_n, m_n, s_v[2], PLAN.E, PLAN.BLOCK_E, PLAN.DTYPE)
    p_q = p.q + i_b * s_q[0] + i_h * s_q[1]
    p_g += i_b * s_g[0] + i_h * s_g[1]
    p_order += i_b * s_order[0] + i_h * s_order[1]
    p_starts += i_b * s_starts[0] + i_h * s_starts[1] + i_block
    if p.weight is not None:
        p_weight = p.weight + i_b * s_weight[0] + i_h * s_weight[1]
    first, last = tl.load(p_starts), tl.load(p_starts + 1)
    b_dk = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    b_dv = tl.zeros((BLOCK_N, BLOCK_E), tl.float32)
    for start in range(first * z.queries, last * z.queries, PLAN.BLOCK_M):
        o_pair = start + tl.arange(0, PLAN.BLOCK_M)
        m_m = o_pair < last * z.queries
        entry = tl.load(p_order + o_pair // z.queries, mask=m_m, other=0)
        o_m = _token(entry // z.named, o_pair % z.queries, AT_M)
        m_m = m_m & (o_m < z.tokens)
        b_q = load_rows(p_q, o_m, m_m, s_q[2], PLAN.D, PLAN.BLOCK_D, PLAN.DTYPE)
        b_g = load_rows(p_g, o_m, m_m, s_g[2], PLAN.E, PLAN.BLOCK_E, PLAN.DTYPE)
        b_lse = tl.load(p_lse + i_row * z.tokens + o_m, mask=m_m, other=float("inf"))
        b_delta = tl.load(p_delta + i_row * z.tokens + o_m, mask=m_m, other=0.0)
        b_s = tl.dot(b_k, tl.trans(b_q), input_precision=PLAN.PRECISION) * z.scale
        b_ds = tl.dot(b_v, tl.trans(b_g), input_precision=PLAN.PRECISION)
        if p.weight is not None:
            p_w = p_weight + entry // z.named * s_weight[2] + entry % z.named * s_weight[3]
            b_weight = tl.load(p_w, mask=m_m, other=0.0).to(tl.float32)
            b_s *= b_weight[None, :]
            b_ds *= b_weight[None, :]
        m_s = tl.trans(_seen(m_n, o_m, o_n, PLAN.CAUSAL))
        b_p = tl.exp2(tl.where(m_s, b_s, float("-inf")) - b_lse[None, :])
        b_ds = b_p * (b_ds - b_delta[None, :])
        if p.weight is not None:
            b_p *= b_weight[None, :]
            b_ds *= b_weight[None, :]
        b_dv = tl.dot(b_p.to(PLAN.DTYPE), b_g, b_dv, input_precision=PLAN.PRECISION)
        b_dk = tl.dot(b_ds.to(PLAN.DTYPE), b_q, b_dk, input_precision=PLAN.PRECISION)
    p_dk += i_b * s_dk[0] + i_h * s_dk[1]
    p_dv += i_b * s_dv[0] + i_h * s_dv[1]
    store_rows(p_dk, o_n, m_n, s_dk[2], b_dk * factor, PLAN.D, PLAN.BLOCK_D)
    store_rows(p_dv, o_n, m_n, s_dv[2], b_dv, PLAN.E, PLAN.BLOCK_E)
