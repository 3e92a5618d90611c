"""Boxes of tokens on a grid of up to three axes, for Triton: which place meets which.

A tile is a box of places of one dilation group. The keys that its queries see fill a box as well,
since starts and ends of windows grow along an axis; so do the queries that see a tile of keys.
Grids of fewer axes have leading axes of one token.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def window(c, size, kernel: tl.constexpr, stride: tl.constexpr, causal: tl.constexpr):
    """First key and end of the window of place c in a group of `size`."""
    if causal:
        leader = tl.minimum(c // stride * stride + stride - 1, size - 1)
        start, end = tl.maximum(leader - kernel + 1, 0), c + 1
    else:
        leader = tl.minimum(c // stride * stride + stride // 2, size - 1)
        start = tl.minimum(tl.maximum(leader - kernel // 2, 0), size - kernel)
        end = start + kernel
    return start, end


@triton.jit
def reach(c, size, kernel: tl.constexpr, stride: tl.constexpr, causal: tl.constexpr):
    """First query and end of those whose windows hold key c: the inverse of _window."""
    if causal:
        start = c
        end = ((c + kernel - stride) // stride + 1) * stride
    else:
        ahead = tl.maximum(c - (kernel - 1) // 2 - stride // 2, 0)
        start = tl.where(c >= kernel, (ahead + stride - 1) // stride * stride, 0)
        end = ((c + kernel // 2 - stride // 2) // stride + 1) * stride
    return start, tl.where(c + kernel >= size, size, tl.minimum(end, size))


@triton.jit
def cell(
    at, length, kernel: tl.constexpr, stride: tl.constexpr, dilation: tl.constexpr,
    causal: tl.constexpr, block: tl.constexpr, back: tl.constexpr,
):  # fmt: skip
    """Of tile `at` along an axis: its first place, its group, that group's size, and the interval
    that its windows cover, or with `back` that of the queries that it reaches."""
    first, group = at // dilation * block, at % dilation
    size = (length - group + dilation - 1) // dilation
    last = tl.minimum(first + block, size) - 1
    if back:
        low, _0 = reach(first, size, kernel, stride, causal)
        _1, high = reach(last, size, kernel, stride, causal)
    else:
        low, _0 = window(first, size, kernel, stride, causal)
        _1, high = window(last, size, kernel, stride, causal)
    return first, group, size, tl.minimum(low, high), high


@triton.jit
def tiles_along(length, dilation: tl.constexpr, block: tl.constexpr):
    """How many tiles an axis has, all groups together."""
    return tl.cdiv(tl.cdiv(length, dilation), block) * dilation


@triton.jit
def places(
    first0, first1, first2, end0, end1, end2, g0, g1, g2, n1, n2,
    d0: tl.constexpr, d1: tl.constexpr, d2: tl.constexpr,
    t0: tl.constexpr, t1: tl.constexpr, t2: tl.constexpr,
):  # fmt: skip
    """The places of a tile by axis, their tokens, and which lie before the end."""
    at = tl.arange(0, t0 * t1 * t2)
    c0, c1, c2 = first0 + at // (t1 * t2), first1 + at // t2 % t1, first2 + at % t2
    token = ((c0 * d0 + g0) * n1 + c1 * d1 + g1) * n2 + c2 * d2 + g2
    return c0, c1, c2, token, (c0 < end0) & (c1 < end1) & (c2 < end2)


@triton.jit
def seen_by(
    real, c0, c1, c2, start0, start1, start2, end0, end1, end2,
    test0: tl.constexpr, test1: tl.constexpr, test2: tl.constexpr,
):  # fmt: skip
    """Which places, in columns, lie in the intervals of the rows on the axes to be tested."""
    seen = real[None, :]
    if test0:
        seen = seen & (c0[None, :] >= start0[:, None]) & (c0[None, :] < end0[:, None])
    if test1:
        seen = seen & (c1[None, :] >= start1[:, None]) & (c1[None, :] < end1[:, None])
    if test2:
        seen = seen & (c2[None, :] >= start2[:, None]) & (c2[None, :] < end2[:, None])
    return seen


@triton.jit
def load(base, token, real, stride, width: tl.constexpr, block: tl.constexpr, widen: tl.constexpr):
    """Tokens of a head, `tokens block`, zeros beyond; in float32 where the interpreter needs it."""
    e = tl.arange(0, block)
    mask = real[:, None]
    if width < block:
        mask = mask & (e < width)[None, :]
    x = tl.load(base + token[:, None] * stride + e[None, :], mask=mask, other=0.0)
    if widen:
        x = x.to(tl.float32)
    return x


@triton.jit
def store(base, token, real, stride, x, width: tl.constexpr, block: tl.constexpr):
    e = tl.arange(0, block)
    to = base + token[:, None] * stride + e[None, :]
    tl.store(to, x.to(base.dtype.element_ty), mask=real[:, None] & (e < width)[None, :])
