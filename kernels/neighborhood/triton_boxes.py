"""Boxes of tokens on a grid of up to three axes, for Triton: which place meets which.

A tile is a box of places of one dilation group. The keys that its queries see fill a box as well,
since starts and ends of windows grow along an axis; so do the queries that see a tile of keys.
Grids of fewer axes have leading axes of one token. What has a value for each axis is a triple.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# Triton types kernels when it compiles them.
from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def window(c, size, KERNEL: tl.constexpr, STRIDE: tl.constexpr, CAUSAL: tl.constexpr):
    """First key and end of the window of place c in a group of `size`."""
    if CAUSAL:
        leader = tl.minimum(c // STRIDE * STRIDE + STRIDE - 1, size - 1)
        start, end = tl.maximum(leader - KERNEL + 1, 0), c + 1
    else:
        leader = tl.minimum(c // STRIDE * STRIDE + STRIDE // 2, size - 1)
        start = tl.minimum(tl.maximum(leader - KERNEL // 2, 0), size - KERNEL)
        end = start + KERNEL
    return start, end


@triton.jit
def viewers(c, size, KERNEL: tl.constexpr, STRIDE: tl.constexpr, CAUSAL: tl.constexpr):
    """First query and end of those whose windows hold key c: the inverse of `window`."""
    if CAUSAL:
        start = c
        end = ((c + KERNEL - STRIDE) // STRIDE + 1) * STRIDE
    else:
        ahead = tl.maximum(c - (KERNEL - 1) // 2 - STRIDE // 2, 0)
        start = tl.where(c >= KERNEL, (ahead + STRIDE - 1) // STRIDE * STRIDE, 0)
        end = ((c + KERNEL // 2 - STRIDE // 2) // STRIDE + 1) * STRIDE
    return start, tl.where(c + KERNEL >= size, size, tl.minimum(end, size))


@triton.jit
def interval(c, size, WINDOWS: tl.constexpr, AXIS: tl.constexpr, BACK: tl.constexpr):
    """The keys in the window of place c on an axis, or with BACK the queries that see it."""
    if BACK:
        start, end = viewers(
            c, size, WINDOWS.kernel[AXIS], WINDOWS.stride[AXIS], WINDOWS.causal[AXIS]
        )
    else:
        start, end = window(
            c, size, WINDOWS.kernel[AXIS], WINDOWS.stride[AXIS], WINDOWS.causal[AXIS]
        )
    return start, end


@triton.jit
def intervals(c, size, WINDOWS: tl.constexpr, BACK: tl.constexpr):
    """Starts and ends by axis; see `interval`."""
    start0, end0 = interval(c[0], size[0], WINDOWS, 0, BACK)
    start1, end1 = interval(c[1], size[1], WINDOWS, 1, BACK)
    start2, end2 = interval(c[2], size[2], WINDOWS, 2, BACK)
    return (start0, start1, start2), (end0, end1, end2)


@triton.jit
def _cell(
    at, length, WINDOWS: tl.constexpr, TILE: tl.constexpr, AXIS: tl.constexpr, BACK: tl.constexpr
):
    """Of tile `at` along an axis: its first place, its group, that group's size, and the interval
    that its windows cover, or with BACK that of the queries that see it."""
    DILATION: tl.constexpr = WINDOWS.dilation[AXIS]
    first, group = at // DILATION * TILE[AXIS], at % DILATION
    size = (length - group + DILATION - 1) // DILATION
    last = tl.minimum(first + TILE[AXIS], size) - 1
    low, _0 = interval(first, size, WINDOWS, AXIS, BACK)
    _1, high = interval(last, size, WINDOWS, AXIS, BACK)
    return first, group, size, tl.minimum(low, high), high


@triton.jit
def _tiles_along(length, DILATION: tl.constexpr, SIDE: tl.constexpr):
    """How many tiles an axis has, all groups together."""
    return tl.cdiv(tl.cdiv(length, DILATION), SIDE) * DILATION


@triton.jit
def box(i_tile, n, WINDOWS: tl.constexpr, TILE: tl.constexpr, BACK: tl.constexpr):
    """Of a tile by axis: first places, groups, their sizes, and the box that it meets."""
    along1 = _tiles_along(n[1], WINDOWS.dilation[1], TILE[1])
    along2 = _tiles_along(n[2], WINDOWS.dilation[2], TILE[2])
    first0, g0, size0, low0, high0 = _cell(i_tile // along2 // along1, n[0], WINDOWS, TILE, 0, BACK)
    first1, g1, size1, low1, high1 = _cell(i_tile // along2 % along1, n[1], WINDOWS, TILE, 1, BACK)
    first2, g2, size2, low2, high2 = _cell(i_tile % along2, n[2], WINDOWS, TILE, 2, BACK)
    first, group, size = (first0, first1, first2), (g0, g1, g2), (size0, size1, size2)
    return first, group, size, (low0, low1, low2), (high0, high1, high2)


@triton.jit
def places(first, end, group, n, WINDOWS: tl.constexpr, TILE: tl.constexpr):
    """The places of a tile by axis, their tokens, and which lie before the end."""
    at = tl.arange(0, TILE[0] * TILE[1] * TILE[2])
    c0 = first[0] + at // (TILE[1] * TILE[2])
    c1, c2 = first[1] + at // TILE[2] % TILE[1], first[2] + at % TILE[2]
    token = (c0 * WINDOWS.dilation[0] + group[0]) * n[1] + c1 * WINDOWS.dilation[1] + group[1]
    token = token * n[2] + c2 * WINDOWS.dilation[2] + group[2]
    return (c0, c1, c2), token, (c0 < end[0]) & (c1 < end[1]) & (c2 < end[2])


@triton.jit
def steps_through(low, high, TILE: tl.constexpr):
    """How many tiles a walk through a box takes along each axis."""
    steps0, steps1 = tl.cdiv(high[0] - low[0], TILE[0]), tl.cdiv(high[1] - low[1], TILE[1])
    return steps0, steps1, tl.cdiv(high[2] - low[2], TILE[2])


@triton.jit
def visited(step, steps, low, high, group, n, WINDOWS: tl.constexpr, TILE: tl.constexpr):
    """`places` of one tile of a walk through a box."""
    first0 = low[0] + step // steps[2] // steps[1] * TILE[0]
    first1 = low[1] + step // steps[2] % steps[1] * TILE[1]
    first2 = low[2] + step % steps[2] * TILE[2]
    return places((first0, first1, first2), high, group, n, WINDOWS, TILE)


@triton.jit
def seen_by(m_n, c, start, end, TESTS: tl.constexpr):
    """Which places, in columns, lie in the intervals of the rows on the axes to be tested."""
    seen = m_n[None, :]
    if TESTS[0]:
        seen = seen & (c[0][None, :] >= start[0][:, None]) & (c[0][None, :] < end[0][:, None])
    if TESTS[1]:
        seen = seen & (c[1][None, :] >= start[1][:, None]) & (c[1][None, :] < end[1][:, None])
    if TESTS[2]:
        seen = seen & (c[2][None, :] >= start[2][:, None]) & (c[2][None, :] < end[2][:, None])
    return seen
