"""Neighbourhood attention in one pass, on Triton: tiles of queries meet the keys of their box.

A program holds a tile of queries and walks over the keys from the first window's start to the last
window's end on each axis, with the exact test inside. Backwards a tile of keys walks over the box
of queries whose windows hold them, so nothing is added up by atomics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..kernel import interpreted
from .axes import Axis, Ints, axes_of
from .reference import check
from .tiles import Tiles, tiles
from .triton_boxes import cell, load, places, reach, seen_by, store, tiles_along, window

LARGEST_HEAD = 256
MOST = 2**31 - 2**20  # numbers of one head are counted in 32 bits
MOST_HEADS = 65535  # of all pictures: the second axis of a launch
SHARED_MEMORY = 160 * 1024  # bytes, what the largest tiles take
CHUNKS = 64  # parts of the queries whose gradients of extra keys are added up at the end
LOG2E = 1.4426950408889634


@triton.jit
def _fold(s, v, top, total, out, precision: tl.constexpr):
    """Online softmax, base 2: the sums over more keys, of scores s and values v."""
    new = tl.maximum(top, tl.max(s, 1))
    base = tl.where(new == float("-inf"), 0.0, new)
    p, keep = tl.exp2(s - base[:, None]), tl.exp2(top - base)
    out = tl.dot(p.to(v.dtype), v, out * keep[:, None], input_precision=precision)
    return new, total * keep + tl.sum(p, 1), out


@triton.jit
def _attend(
    q_ptr, k_ptr, v_ptr, more_k_ptr, more_v_ptr, out_ptr, lse_ptr,
    heads, sharing, n0, n1, n2, extra, scale,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, out_b, out_h, out_n,
    mk_b, mk_h, mk_n, mv_b, mv_h, mv_n,
    k0: tl.constexpr, k1: tl.constexpr, k2: tl.constexpr,
    s0: tl.constexpr, s1: tl.constexpr, s2: tl.constexpr,
    d0: tl.constexpr, d1: tl.constexpr, d2: tl.constexpr,
    causal0: tl.constexpr, causal1: tl.constexpr, causal2: tl.constexpr,
    t0: tl.constexpr, t1: tl.constexpr, t2: tl.constexpr,
    u0: tl.constexpr, u1: tl.constexpr, u2: tl.constexpr,
    test0: tl.constexpr, test1: tl.constexpr, test2: tl.constexpr, whole: tl.constexpr,
    d: tl.constexpr, block_d: tl.constexpr, e: tl.constexpr, block_e: tl.constexpr,
    more: tl.constexpr, widen: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """A tile of queries: its result and the base-2 log-sum-exp of its scores."""
    at, h = tl.program_id(0), tl.program_id(1) % heads
    b, g = (tl.program_id(1) // heads).to(tl.int64), h // sharing
    along1, along2 = tiles_along(n1, d1, t1), tiles_along(n2, d2, t2)
    first0, g0, size0, low0, high0 = cell(
        at // along2 // along1, n0, k0, s0, d0, causal0, t0, False
    )
    first1, g1, size1, low1, high1 = cell(at // along2 % along1, n1, k1, s1, d1, causal1, t1, False)
    first2, g2, size2, low2, high2 = cell(at % along2, n2, k2, s2, d2, causal2, t2, False)
    c0, c1, c2, token, real = places(
        first0, first1, first2, size0, size1, size2, g0, g1, g2, n1, n2, d0, d1, d2, t0, t1, t2
    )
    start0, end0 = window(c0, size0, k0, s0, causal0)
    start1, end1 = window(c1, size1, k1, s1, causal1)
    start2, end2 = window(c2, size2, k2, s2, causal2)
    steps1, steps2 = tl.cdiv(high1 - low1, u1), tl.cdiv(high2 - low2, u2)
    q = load(q_ptr + b * q_b + h * q_h, token, real, q_n, d, block_d, widen)
    k, v = k_ptr + b * k_b + g * k_h, v_ptr + b * v_b + g * v_h
    top = tl.full((t0 * t1 * t2,), float("-inf"), tl.float32)
    total = tl.zeros((t0 * t1 * t2,), tl.float32)
    out = tl.zeros((t0 * t1 * t2, block_e), tl.float32)
    for step in range(tl.cdiv(high0 - low0, u0) * steps1 * steps2):
        key0, key1, key2, near, there = places(
            low0 + step // steps2 // steps1 * u0, low1 + step // steps2 % steps1 * u1,
            low2 + step % steps2 * u2, high0, high1, high2, g0, g1, g2, n1, n2,
            d0, d1, d2, u0, u1, u2,
        )  # fmt: skip
        keys = load(k, near, there, k_n, d, block_d, widen)
        s = tl.dot(q, tl.trans(keys), input_precision=precision) * scale
        if not whole:
            seen = seen_by(
                there, key0, key1, key2, start0, start1, start2, end0, end1, end2,
                test0, test1, test2,
            )  # fmt: skip
            s = tl.where(seen, s, float("-inf"))
        values = load(v, near, there, v_n, e, block_e, widen)
        top, total, out = _fold(s, values, top, total, out, precision)
    if more:
        k, v = more_k_ptr + b * mk_b + g * mk_h, more_v_ptr + b * mv_b + g * mv_h
        for start in range(0, extra, u0 * u1 * u2):
            near = start + tl.arange(0, u0 * u1 * u2)
            keys = load(k, near, near < extra, mk_n, d, block_d, widen)
            s = tl.dot(q, tl.trans(keys), input_precision=precision) * scale
            s = tl.where((near < extra)[None, :], s, float("-inf"))
            values = load(v, near, near < extra, mv_n, e, block_e, widen)
            top, total, out = _fold(s, values, top, total, out, precision)
    total = tl.where(real, total, 1.0)
    store(out_ptr + b * out_b + h * out_h, token, real, out_n, out / total[:, None], e, block_e)
    lse = tl.where(real, top, 0.0) + tl.log2(total)
    tl.store(lse_ptr + tl.program_id(1).to(tl.int64) * n0 * n1 * n2 + token, lse, mask=real)


@triton.jit
def _query_step(q, g, k, v, lse, delta, seen, scale, dq, precision: tl.constexpr):
    """The gradient of queries, but for the scale: what some keys add to it."""
    s = tl.dot(q, tl.trans(k), input_precision=precision) * scale
    p = tl.exp2(tl.where(seen, s - lse[:, None], float("-inf")))
    slope = tl.dot(g, tl.trans(v), input_precision=precision)
    slope = p * (slope - delta[:, None])
    return tl.dot(slope.to(k.dtype), k, dq, input_precision=precision)


@triton.jit
def _key_step(k, v, q, g, lse, delta, seen, scale, dk, dv, precision: tl.constexpr):
    """The gradients of keys, but for the scale, and values: what some queries add to them."""
    s = tl.dot(k, tl.trans(q), input_precision=precision) * scale
    p = tl.exp2(tl.where(seen, s - lse[None, :], float("-inf")))
    dv = tl.dot(p.to(g.dtype), g, dv, input_precision=precision)
    slope = tl.dot(v, tl.trans(g), input_precision=precision)
    slope = p * (slope - delta[None, :])
    return tl.dot(slope.to(q.dtype), q, dk, input_precision=precision), dv


@triton.jit
def _to_queries(
    q_ptr, k_ptr, v_ptr, more_k_ptr, more_v_ptr, out_ptr, g_ptr, lse_ptr, delta_ptr, to_ptr,
    heads, sharing, n0, n1, n2, extra, scale, factor,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, out_b, out_h, out_n,
    mk_b, mk_h, mk_n, mv_b, mv_h, mv_n, g_b, g_h, g_n, to_b, to_h, to_n,
    k0: tl.constexpr, k1: tl.constexpr, k2: tl.constexpr,
    s0: tl.constexpr, s1: tl.constexpr, s2: tl.constexpr,
    d0: tl.constexpr, d1: tl.constexpr, d2: tl.constexpr,
    causal0: tl.constexpr, causal1: tl.constexpr, causal2: tl.constexpr,
    t0: tl.constexpr, t1: tl.constexpr, t2: tl.constexpr,
    u0: tl.constexpr, u1: tl.constexpr, u2: tl.constexpr,
    test0: tl.constexpr, test1: tl.constexpr, test2: tl.constexpr,
    d: tl.constexpr, block_d: tl.constexpr, e: tl.constexpr, block_e: tl.constexpr,
    more: tl.constexpr, slopes: tl.constexpr, widen: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """delta = the sum of out g over channels, and the gradient of a tile of queries."""
    at, h = tl.program_id(0), tl.program_id(1) % heads
    b, group = (tl.program_id(1) // heads).to(tl.int64), h // sharing
    along1, along2 = tiles_along(n1, d1, t1), tiles_along(n2, d2, t2)
    first0, g0, size0, low0, high0 = cell(
        at // along2 // along1, n0, k0, s0, d0, causal0, t0, False
    )
    first1, g1, size1, low1, high1 = cell(at // along2 % along1, n1, k1, s1, d1, causal1, t1, False)
    first2, g2, size2, low2, high2 = cell(at % along2, n2, k2, s2, d2, causal2, t2, False)
    c0, c1, c2, token, real = places(
        first0, first1, first2, size0, size1, size2, g0, g1, g2, n1, n2, d0, d1, d2, t0, t1, t2
    )
    g = load(g_ptr + b * g_b + h * g_h, token, real, g_n, e, block_e, widen)
    out = load(out_ptr + b * out_b + h * out_h, token, real, out_n, e, block_e, widen)
    delta = tl.sum(g.to(tl.float32) * out.to(tl.float32), 1)
    line = tl.program_id(1).to(tl.int64) * n0 * n1 * n2
    tl.store(delta_ptr + line + token, delta, mask=real)
    if slopes:
        lse = tl.load(lse_ptr + line + token, mask=real, other=0.0)
        start0, end0 = window(c0, size0, k0, s0, causal0)
        start1, end1 = window(c1, size1, k1, s1, causal1)
        start2, end2 = window(c2, size2, k2, s2, causal2)
        steps1, steps2 = tl.cdiv(high1 - low1, u1), tl.cdiv(high2 - low2, u2)
        q = load(q_ptr + b * q_b + h * q_h, token, real, q_n, d, block_d, widen)
        k, v = k_ptr + b * k_b + group * k_h, v_ptr + b * v_b + group * v_h
        dq = tl.zeros((t0 * t1 * t2, block_d), tl.float32)
        for step in range(tl.cdiv(high0 - low0, u0) * steps1 * steps2):
            key0, key1, key2, near, there = places(
                low0 + step // steps2 // steps1 * u0, low1 + step // steps2 % steps1 * u1,
                low2 + step % steps2 * u2, high0, high1, high2, g0, g1, g2, n1, n2,
                d0, d1, d2, u0, u1, u2,
            )  # fmt: skip
            seen = seen_by(
                there, key0, key1, key2, start0, start1, start2, end0, end1, end2,
                test0, test1, test2,
            )  # fmt: skip
            keys = load(k, near, there, k_n, d, block_d, widen)
            values = load(v, near, there, v_n, e, block_e, widen)
            dq = _query_step(q, g, keys, values, lse, delta, seen, scale, dq, precision)
        if more:
            k, v = more_k_ptr + b * mk_b + group * mk_h, more_v_ptr + b * mv_b + group * mv_h
            for start in range(0, extra, u0 * u1 * u2):
                near = start + tl.arange(0, u0 * u1 * u2)
                keys = load(k, near, near < extra, mk_n, d, block_d, widen)
                values = load(v, near, near < extra, mv_n, e, block_e, widen)
                seen = (near < extra)[None, :]
                dq = _query_step(q, g, keys, values, lse, delta, seen, scale, dq, precision)
        store(to_ptr + b * to_b + h * to_h, token, real, to_n, dq * factor, d, block_d)


@triton.jit
def _to_keys(
    q_ptr, k_ptr, v_ptr, g_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr,
    groups, sharing, n0, n1, n2, scale, factor,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, g_b, g_h, g_n,
    dk_b, dk_h, dk_n, dv_b, dv_h, dv_n,
    k0: tl.constexpr, k1: tl.constexpr, k2: tl.constexpr,
    s0: tl.constexpr, s1: tl.constexpr, s2: tl.constexpr,
    d0: tl.constexpr, d1: tl.constexpr, d2: tl.constexpr,
    causal0: tl.constexpr, causal1: tl.constexpr, causal2: tl.constexpr,
    t0: tl.constexpr, t1: tl.constexpr, t2: tl.constexpr,
    u0: tl.constexpr, u1: tl.constexpr, u2: tl.constexpr,
    test0: tl.constexpr, test1: tl.constexpr, test2: tl.constexpr,
    d: tl.constexpr, block_d: tl.constexpr, e: tl.constexpr, block_e: tl.constexpr,
    widen: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """The gradients of a tile of keys and values, over all query heads that share them."""
    at, group = tl.program_id(0), tl.program_id(1) % groups
    b = (tl.program_id(1) // groups).to(tl.int64)
    along1, along2 = tiles_along(n1, d1, t1), tiles_along(n2, d2, t2)
    first0, g0, size0, low0, high0 = cell(at // along2 // along1, n0, k0, s0, d0, causal0, t0, True)
    first1, g1, size1, low1, high1 = cell(at // along2 % along1, n1, k1, s1, d1, causal1, t1, True)
    first2, g2, size2, low2, high2 = cell(at % along2, n2, k2, s2, d2, causal2, t2, True)
    c0, c1, c2, token, real = places(
        first0, first1, first2, size0, size1, size2, g0, g1, g2, n1, n2, d0, d1, d2, t0, t1, t2
    )
    start0, end0 = reach(c0, size0, k0, s0, causal0)
    start1, end1 = reach(c1, size1, k1, s1, causal1)
    start2, end2 = reach(c2, size2, k2, s2, causal2)
    steps1, steps2 = tl.cdiv(high1 - low1, u1), tl.cdiv(high2 - low2, u2)
    steps = tl.cdiv(high0 - low0, u0) * steps1 * steps2
    k = load(k_ptr + b * k_b + group * k_h, token, real, k_n, d, block_d, widen)
    v = load(v_ptr + b * v_b + group * v_h, token, real, v_n, e, block_e, widen)
    dk = tl.zeros((t0 * t1 * t2, block_d), tl.float32)
    dv = tl.zeros((t0 * t1 * t2, block_e), tl.float32)
    for turn in range(sharing * steps):
        h, step = group * sharing + turn // steps, turn % steps
        row0, row1, row2, near, there = places(
            low0 + step // steps2 // steps1 * u0, low1 + step // steps2 % steps1 * u1,
            low2 + step % steps2 * u2, high0, high1, high2, g0, g1, g2, n1, n2,
            d0, d1, d2, u0, u1, u2,
        )  # fmt: skip
        seen = seen_by(
            there, row0, row1, row2, start0, start1, start2, end0, end1, end2, test0, test1, test2
        )
        q = load(q_ptr + b * q_b + h * q_h, near, there, q_n, d, block_d, widen)
        g = load(g_ptr + b * g_b + h * g_h, near, there, g_n, e, block_e, widen)
        line = (b * groups * sharing + h) * n0 * n1 * n2 + near
        lse = tl.load(lse_ptr + line, mask=there, other=0.0)
        delta = tl.load(delta_ptr + line, mask=there, other=0.0)
        dk, dv = _key_step(k, v, q, g, lse, delta, seen, scale, dk, dv, precision)
    store(dk_ptr + b * dk_b + group * dk_h, token, real, dk_n, dk * factor, d, block_d)
    store(dv_ptr + b * dv_b + group * dv_h, token, real, dv_n, dv, e, block_e)


@triton.jit
def _to_extra(
    q_ptr, k_ptr, v_ptr, g_ptr, lse_ptr, delta_ptr, dk_ptr, dv_ptr,
    groups, sharing, tokens, extra, scale, factor, part,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, g_b, g_h, g_n,
    block: tl.constexpr, block_q: tl.constexpr,
    d: tl.constexpr, block_d: tl.constexpr, e: tl.constexpr, block_e: tl.constexpr,
    widen: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """What `part` queries, of all heads that share them, add to gradients of extra keys."""
    group, b = tl.program_id(1) % groups, (tl.program_id(1) // groups).to(tl.int64)
    first = tl.program_id(0) // tl.cdiv(extra, block) * part
    token = tl.program_id(0) % tl.cdiv(extra, block) * block + tl.arange(0, block)
    k = load(k_ptr + b * k_b + group * k_h, token, token < extra, k_n, d, block_d, widen)
    v = load(v_ptr + b * v_b + group * v_h, token, token < extra, v_n, e, block_e, widen)
    dk = tl.zeros((block, block_d), tl.float32)
    dv = tl.zeros((block, block_e), tl.float32)
    steps = part // block_q
    for turn in range(sharing * steps):
        h = group * sharing + turn // steps
        near = first + turn % steps * block_q + tl.arange(0, block_q)
        there = near < tokens
        q = load(q_ptr + b * q_b + h * q_h, near, there, q_n, d, block_d, widen)
        g = load(g_ptr + b * g_b + h * g_h, near, there, g_n, e, block_e, widen)
        line = (b * groups * sharing + h) * tokens + near
        lse = tl.load(lse_ptr + line, mask=there, other=0.0)
        delta = tl.load(delta_ptr + line, mask=there, other=0.0)
        seen = there[None, :]
        dk, dv = _key_step(k, v, q, g, lse, delta, seen, scale, dk, dv, precision)
    line = tl.program_id(0) // tl.cdiv(extra, block) * tl.num_programs(1) + tl.program_id(1)
    line = line.to(tl.int64) * extra
    store(dk_ptr + line * d, token, token < extra, d, dk * factor, d, block_d)
    store(dv_ptr + line * e, token, token < extra, e, dv, e, block_e)


def can_run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    extra_k: Tensor | None = None,
    extra_v: Tensor | None = None,
    **_: Any,
) -> str | None:
    """None where the kernels take the call, else the reason against them."""
    given = [x for x in (q, k, v, extra_k, extra_v) if x is not None]
    if len({x.dtype for x in given}) > 1:
        return "tensors have several dtypes"
    if any(x.ndim != 4 for x in given):
        return "tensors are not b h n d"
    if any(x.numel() == 0 for x in given):
        return "there is nothing to compute"
    if max(q.shape[3], v.shape[3]) > LARGEST_HEAD:
        return f"heads are wider than {LARGEST_HEAD}"
    if _scarce(q) and _width(q, v) > 512:
        return "this device has too little shared memory for heads so wide"
    if q.shape[0] * q.shape[1] > MOST_HEADS:
        return f"pictures have more than {MOST_HEADS} heads together"
    if any(x.shape[2] * max(x.stride(2), x.shape[1] * x.shape[3]) > MOST for x in given):
        return f"a head spans more than {MOST} numbers"
    return None


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    grid: Sequence[int],
    kernel_size: Ints,
    stride: Ints = 1,
    dilation: Ints = 1,
    causal: Any = False,
    scale: float | None = None,
    extra_k: Tensor | None = None,
    extra_v: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The result and, for the backward, the base-2 log-sum-exp of each query's scores."""
    axes = axes_of(grid, kernel_size, stride, dilation, causal)
    check(q, k, v, axes, extra_k, extra_v)  # pointers would run past the end
    q, k, v = _rows(q), _rows(k), _rows(v)
    more_k, more_v, more = _extra(k, v, extra_k, extra_v)
    out = _like_tokens(q, v.shape[3])
    lse = q.new_empty(q.shape[:3], dtype=torch.float32)
    plan = _plan(axes, q, v, back=False)
    factor = q.shape[3] ** -0.5 if scale is None else scale
    _attend[(plan.programs, q.shape[0] * q.shape[1])](
        q, k, v, more_k, more_v, out, lse,
        q.shape[1], q.shape[1] // k.shape[1], *plan.grid, more, factor * LOG2E,
        *_strides(q, k, v, out, more_k, more_v),
        *plan.windows, *plan.rows, *plan.columns, *plan.tests, plan.whole,
        *_widths(q, v), more > 0, *_precision(q),
        num_warps=plan.warps, num_stages=plan.stages,
    )  # fmt: skip
    return out, (lse,)


def backward(
    g: Tensor,
    out: Tensor,
    saved: tuple[Tensor, ...],
    needs: set[str],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    grid: Sequence[int],
    kernel_size: Ints,
    stride: Ints = 1,
    dilation: Ints = 1,
    causal: Any = False,
    scale: float | None = None,
    extra_k: Tensor | None = None,
    extra_v: Tensor | None = None,
) -> dict[str, Tensor]:
    """The gradients: of queries tile by tile, then of keys and values by those who see them."""
    axes = axes_of(grid, kernel_size, stride, dilation, causal)
    g, q, k, v = _rows(g), _rows(q), _rows(k), _rows(v)
    factor = q.shape[3] ** -0.5 if scale is None else scale
    more_k, more_v, more = _extra(k, v, extra_k, extra_v)
    delta = torch.empty_like(saved[0])
    found: dict[str, Tensor] = {}
    plan = _plan(axes, q, v, back=False)
    dq = _like_tokens(q, q.shape[3]) if "q" in needs else q
    _to_queries[(plan.programs, q.shape[0] * q.shape[1])](
        q, k, v, more_k, more_v, out, g, saved[0], delta, dq,
        q.shape[1], q.shape[1] // k.shape[1], *plan.grid, more, factor * LOG2E, factor,
        *_strides(q, k, v, out, more_k, more_v, g, dq),
        *plan.windows, *plan.rows, *plan.columns, *plan.tests,
        *_widths(q, v), more > 0, "q" in needs, *_precision(q),
        num_warps=plan.warps, num_stages=plan.stages,
    )  # fmt: skip
    if "q" in needs:
        found["q"] = dq
    own = g, saved[0], delta, factor
    if needs & {"k", "v"}:
        plan = _plan(axes, q, v, back=True)
        found["k"], found["v"] = _key_gradients(q, k, v, *own, plan)
    if needs & {"extra_k", "extra_v"}:
        found["extra_k"], found["extra_v"] = _extra_gradients(q, more_k, more_v, *own)
    return {name: x for name, x in found.items() if name in needs}


def _plan(axes: Sequence[Axis], q: Tensor, v: Tensor, *, back: bool) -> Tiles:
    exact = _exact(q) and not interpreted()
    return tiles(axes, widest=_width(q, v), back=back, exact=exact)


def _key_gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    lse: Tensor,
    delta: Tensor,
    factor: float,
    plan: Tiles,
) -> tuple[Tensor, Tensor]:
    dk, dv = _like_tokens(k, k.shape[3]), _like_tokens(v, v.shape[3])
    _to_keys[(plan.programs, k.shape[0] * k.shape[1])](
        q, k, v, g, lse, delta, dk, dv,
        k.shape[1], q.shape[1] // k.shape[1], *plan.grid, factor * LOG2E, factor,
        *_strides(q, k, v, g, dk, dv),
        *plan.windows, *plan.rows, *plan.columns, *plan.tests, *_widths(q, v), *_precision(q),
        num_warps=plan.warps, num_stages=plan.stages,
    )  # fmt: skip
    return dk, dv


def _extra_gradients(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, lse: Tensor, delta: Tensor, factor: float
) -> tuple[Tensor, Tensor]:
    """Every query sees extra keys: sums over some of them at a time, added up in the end."""
    (b, groups, extra, d), e, n = k.shape, v.shape[3], q.shape[2]
    block_q = 16 if _exact(q) else 32 if _width(q, v) > 256 else 64
    block = min(block_q, max(16, triton.next_power_of_2(extra)))
    part = triton.cdiv(triton.cdiv(n, block_q), CHUNKS) * block_q
    parts = triton.cdiv(n, part)
    dk = k.new_empty(parts, b, groups, extra, d, dtype=torch.float32)
    dv = v.new_empty(parts, b, groups, extra, e, dtype=torch.float32)
    _to_extra[(parts * triton.cdiv(extra, block), b * groups)](
        q, k, v, g, lse, delta, dk, dv,
        groups, q.shape[1] // groups, n, extra, factor * LOG2E, factor, part,
        *_strides(q, k, v, g), block, block_q, *_widths(q, v), *_precision(q),
        num_warps=4, num_stages=2,
    )  # fmt: skip
    return dk.sum(0).to(k.dtype), dv.sum(0).to(v.dtype)


def _extra(
    k: Tensor, v: Tensor, extra_k: Tensor | None, extra_v: Tensor | None
) -> tuple[Tensor, Tensor, int]:
    """The extra keys and values and their count; without any the kernels get k and v unread."""
    if extra_k is None or extra_v is None:
        return k, v, 0
    return _rows(extra_k), _rows(extra_v), extra_k.shape[2]


def _width(q: Tensor, v: Tensor) -> int:
    """Bytes of the widest row that a program holds; twice that where memory for it is scarce."""
    own = max(_block(q.shape[3]), _block(v.shape[3])) * q.element_size()
    return 2 * own if _scarce(q) else own


def _scarce(q: Tensor) -> bool:
    """Whether the device has less shared memory than tiles are sized for, those of an H100."""
    if not q.is_cuda:
        return False
    told = torch.cuda.get_device_properties(q.device)
    return getattr(told, "shared_memory_per_block_optin", SHARED_MEMORY) < SHARED_MEMORY


def _widths(q: Tensor, v: Tensor) -> tuple[int, int, int, int]:
    d, e = q.shape[3], v.shape[3]
    return d, _block(d), e, _block(e)


def _block(width: int) -> int:
    return max(16, triton.next_power_of_2(width))


def _precision(q: Tensor) -> tuple[bool, str]:
    """Whether to widen after each load, as the interpreter needs for bfloat16; how dots round."""
    return interpreted() and q.dtype == torch.bfloat16, "ieee" if _exact(q) else "tf32"


def _exact(q: Tensor) -> bool:
    """Whether products keep all of float32; half precision has no such choice."""
    return q.dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32


def _strides(*tensors: Tensor) -> list[int]:
    return [step for x in tensors for step in x.stride()[:3]]


def _like_tokens(x: Tensor, width: int) -> Tensor:
    """Memory for `b h n width` that lies as `b n h width`, as the layers around the op read it."""
    b, h, n, _ = x.shape
    return x.new_empty(b, n, h, width).transpose(1, 2)


def _rows(x: Tensor) -> Tensor:
    """The tensor itself where the channels of a token lie next to each other."""
    return x if x.stride(-1) == 1 else x.contiguous()
