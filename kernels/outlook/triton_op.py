"""Outlook attention in one pass, on Triton: every token gathers from the windows that cover it.

A place of a window is one token, so each row of weights is read, and its softmax formed, once.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .reference import check, windows

LARGEST_KERNEL = 8
LARGEST_HEAD = 512
MOST = 2**31 - 2**20  # places in a picture and rows of weights are counted in 32 bits


@triton.jit
def _gather(
    v_ptr, weight_ptr, out_ptr, norm_ptr,
    rows, heads, width, tokens, window_columns, window_rows, channels, height,
    v_b, v_h, v_n, w_b, w_h, w_l, out_b, out_h, out_n,
    kernel: tl.constexpr, stride: tl.constexpr, padding: tl.constexpr, reach: tl.constexpr,
    block: tl.constexpr, block_e: tl.constexpr, block_s: tl.constexpr,
):  # fmt: skip
    """out[i] = the sum of softmax(weight[l, p]) v[l] over the windows l whose place p is i."""
    row = tl.program_id(0) * block + tl.arange(0, block)
    there = row < rows
    b, h, i = (row // tokens // heads).to(tl.int64), row // tokens % heads, row % tokens
    y, x = i // width + padding, i % width + padding
    e = tl.program_id(1) * block_e + tl.arange(0, block_e)
    s = tl.arange(0, block_s)
    real = e < channels
    v = v_ptr + (b * v_b + h * v_h)[:, None] + e[None, :]
    out = tl.zeros((block, block_e), tl.float32)
    for step in range(reach * reach):
        ly, lx = y // stride - step // reach, x // stride - step % reach
        py, px = y - ly * stride, x - lx * stride
        seen = there & (ly >= 0) & (ly < window_rows) & (py < kernel)
        seen = seen & (lx >= 0) & (lx < window_columns) & (px < kernel)
        window, p = ly * window_columns + lx, py * kernel + px
        weight = weight_ptr + b * w_b + h * w_h + window * w_l + p * kernel * kernel
        scores = tl.load(
            weight[:, None] + s[None, :],
            mask=seen[:, None] & (s < kernel * kernel)[None, :],
            other=float("-inf"),
        ).to(tl.float32)
        top = tl.where(seen, tl.max(scores, 1), 0.0)
        total = tl.where(seen, tl.sum(tl.exp(scores - top[:, None]), 1), 1.0)
        for place in tl.range(0, kernel * kernel, loop_unroll_factor=3):
            ty, tx = ly * stride - padding + place // kernel, lx * stride - padding + place % kernel
            inside = seen & (ty >= 0) & (ty < height) & (tx >= 0) & (tx < width)
            score = tl.load(weight + place, mask=inside, other=float("-inf")).to(tl.float32)
            share = tl.exp(score - top) / total
            value = tl.load(
                v + ((ty * width + tx) * v_n)[:, None],
                mask=inside[:, None] & real[None, :],
                other=0.0,
            ).to(tl.float32)
            out += share[:, None] * value
        if tl.program_id(1) == 0:
            line = row // tokens * window_rows * window_columns + window
            tl.store(norm_ptr + line * kernel * kernel + p, top + tl.log(total), mask=seen)
    to = out_ptr + (b * out_b + h * out_h + i * out_n)[:, None] + e[None, :]
    tl.store(to, out.to(out_ptr.dtype.element_ty), mask=there[:, None] & real[None, :])


@triton.jit
def _to_v(
    g_ptr, weight_ptr, norm_ptr, out_ptr,
    rows, heads, width, tokens, window_columns, window_rows, channels, height,
    g_b, g_h, g_n, w_b, w_h, w_l, out_b, out_h, out_n,
    kernel: tl.constexpr, stride: tl.constexpr, padding: tl.constexpr, reach: tl.constexpr,
    block: tl.constexpr, block_e: tl.constexpr,
):  # fmt: skip
    """The gradient of v[j]: the sum of softmax(weight)[l, :, s] g[l] where place s of l is j."""
    row = tl.program_id(0) * block + tl.arange(0, block)
    there = row < rows
    b, h, j = (row // tokens // heads).to(tl.int64), row // tokens % heads, row % tokens
    y, x = j // width + padding, j % width + padding
    e = tl.program_id(1) * block_e + tl.arange(0, block_e)
    real = e < channels
    g = g_ptr + (b * g_b + h * g_h)[:, None] + e[None, :]
    out = tl.zeros((block, block_e), tl.float32)
    for step in range(reach * reach):
        ly, lx = y // stride - step // reach, x // stride - step % reach
        sy, sx = y - ly * stride, x - lx * stride
        seen = there & (ly >= 0) & (ly < window_rows) & (sy < kernel)
        seen = seen & (lx >= 0) & (lx < window_columns) & (sx < kernel)
        window = ly * window_columns + lx
        weight = weight_ptr + b * w_b + h * w_h + window * w_l + sy * kernel + sx
        norm = norm_ptr + (row // tokens * window_rows * window_columns + window) * kernel * kernel
        for place in tl.range(0, kernel * kernel, loop_unroll_factor=3):
            ty, tx = ly * stride - padding + place // kernel, lx * stride - padding + place % kernel
            inside = seen & (ty >= 0) & (ty < height) & (tx >= 0) & (tx < width)
            score = tl.load(weight + place * kernel * kernel, mask=inside, other=float("-inf")).to(
                tl.float32
            )
            share = tl.exp(score - tl.load(norm + place, mask=inside, other=0.0))
            back = tl.load(
                g + ((ty * width + tx) * g_n)[:, None],
                mask=inside[:, None] & real[None, :],
                other=0.0,
            ).to(tl.float32)
            out += share[:, None] * back
    to = out_ptr + (b * out_b + h * out_h + j * out_n)[:, None] + e[None, :]
    tl.store(to, out.to(out_ptr.dtype.element_ty), mask=there[:, None] & real[None, :])


@triton.jit
def _to_weight(
    g_ptr, v_ptr, weight_ptr, out_ptr,
    lines, heads, width, per_head, window_columns, channels, height,
    g_b, g_h, g_n, v_b, v_h, v_n, w_b, w_h, w_l, out_b, out_h, out_l,
    kernel: tl.constexpr, stride: tl.constexpr, padding: tl.constexpr,
    block: tl.constexpr, block_e: tl.constexpr, parts: tl.constexpr, block_s: tl.constexpr,
):  # fmt: skip
    """The gradient of weight[l, p, :]: share (d - sum share d), where d[s] = g[l, p] v[l, s]."""
    line = tl.program_id(0) * block + tl.arange(0, block)
    there = line < lines
    b, h = (line // per_head // heads).to(tl.int64), line // per_head % heads
    window, p = line % per_head // (kernel * kernel), line % (kernel * kernel)
    first_y = window // window_columns * stride - padding
    first_x = window % window_columns * stride - padding
    y, x = first_y + p // kernel, first_x + p % kernel
    seen = there & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    s = tl.arange(0, block_s)
    slope = tl.zeros((block, block_s), tl.float32)
    for part in range(parts):
        e = part * block_e + tl.arange(0, block_e)
        real = e < channels
        back = tl.load(
            g_ptr + (b * g_b + h * g_h + (y * width + x) * g_n)[:, None] + e[None, :],
            mask=seen[:, None] & real[None, :],
            other=0.0,
        ).to(tl.float32)
        v = v_ptr + (b * v_b + h * v_h)[:, None] + e[None, :]
        for place in tl.range(0, kernel * kernel, loop_unroll_factor=3):
            ty, tx = first_y + place // kernel, first_x + place % kernel
            inside = seen & (ty >= 0) & (ty < height) & (tx >= 0) & (tx < width)
            value = tl.load(
                v + ((ty * width + tx) * v_n)[:, None],
                mask=inside[:, None] & real[None, :],
                other=0.0,
            ).to(tl.float32)
            found = tl.sum(back * value, 1)
            slope += tl.where((s == place)[None, :], found[:, None], 0.0)
    in_row = (s < kernel * kernel)[None, :]
    offset = window * w_l + p * kernel * kernel
    scores = tl.load(
        weight_ptr + (b * w_b + h * w_h + offset)[:, None] + s[None, :],
        mask=seen[:, None] & in_row,
        other=float("-inf"),
    ).to(tl.float32)
    top = tl.where(seen, tl.max(scores, 1), 0.0)
    share = tl.exp(scores - top[:, None])
    share /= tl.where(seen, tl.sum(share, 1), 1.0)[:, None]
    found = share * (slope - tl.sum(share * slope, 1)[:, None])
    to = out_ptr + (b * out_b + h * out_h + window * out_l + p * kernel * kernel)[:, None]
    tl.store(to + s[None, :], found.to(out_ptr.dtype.element_ty), mask=there[:, None] & in_row)


def can_run(v: Tensor, weight: Tensor, kernel_size: int = 3, **_: Any) -> str | None:
    """None where the kernels take the call, else the reason against them."""
    if kernel_size > LARGEST_KERNEL:
        return f"a kernel of {kernel_size} is larger than {LARGEST_KERNEL}"
    if v.shape[3] > LARGEST_HEAD:
        return f"heads are wider than {LARGEST_HEAD}"
    if v.numel() == 0 or weight.numel() == 0:
        return "there is nothing to compute"
    if max(v[0].numel(), weight[0].numel(), weight.numel() // weight.shape[-1]) >= MOST:
        return f"a picture has more than {MOST} numbers"
    return None


def forward(
    v: Tensor,
    weight: Tensor,
    *,
    grid: tuple[int, int],
    kernel_size: int = 3,
    stride: int = 1,
    padding: int = 1,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The result and, for the backward, the log-sum-exp of every row of weights inside the grid."""
    check(v, weight, grid, kernel_size, stride, padding)  # pointers would run past the end
    v, weight = _rows(v), _planes(weight)
    out = _like_tokens(v)
    norm = weight.new_empty(weight.shape[:4], dtype=torch.float32)
    tiles, programs = _tiles(v)
    _gather[programs](
        v, weight, out, norm,
        *_sizes(v, grid, kernel_size, stride, padding),
        *v.stride()[:3], *weight.stride()[:3], *out.stride()[:3],
        kernel_size, stride, padding, triton.cdiv(kernel_size, stride),
        *tiles, _places(kernel_size),
    )  # fmt: skip
    return out, (norm,)


def backward(
    g: Tensor,
    out: Tensor,
    saved: tuple[Tensor, ...],
    needs: set[str],
    v: Tensor,
    weight: Tensor,
    *,
    grid: tuple[int, int],
    kernel_size: int = 3,
    stride: int = 1,
    padding: int = 1,
) -> dict[str, Tensor]:
    """The gradients of v, gathered as the result is, and of weight, row by row."""
    g, v, weight = _rows(g), _rows(v), _planes(weight)
    how = grid, kernel_size, stride, padding
    found: dict[str, Tensor] = {}
    if "v" in needs:
        found["v"] = _v_gradient(g, v, weight, saved[0], *how)
    if "weight" in needs:
        found["weight"] = _weight_gradient(g, v, weight, *how)
    return found


def _v_gradient(
    g: Tensor,
    v: Tensor,
    weight: Tensor,
    norm: Tensor,
    grid: tuple[int, int],
    kernel_size: int,
    stride: int,
    padding: int,
) -> Tensor:
    out = _like_tokens(v)
    tiles, programs = _tiles(v)
    _to_v[programs](
        g, weight, norm, out,
        *_sizes(v, grid, kernel_size, stride, padding),
        *g.stride()[:3], *weight.stride()[:3], *out.stride()[:3],
        kernel_size, stride, padding, triton.cdiv(kernel_size, stride),
        *tiles,
    )  # fmt: skip
    return out


def _weight_gradient(
    g: Tensor,
    v: Tensor,
    weight: Tensor,
    grid: tuple[int, int],
    kernel_size: int,
    stride: int,
    padding: int,
) -> Tensor:
    out = torch.empty_like(weight)  # dense and with weight's order of axes
    if out.stride()[3:] != weight.stride()[3:]:
        out = torch.empty_like(weight, memory_format=torch.contiguous_format)
    (block, block_e), _ = _tiles(v)
    per_head = weight.shape[2] * kernel_size**2
    lines = weight.shape[0] * weight.shape[1] * per_head
    columns = windows(grid, kernel_size, stride, padding)[1]
    _to_weight[(triton.cdiv(lines, block),)](
        g, v, weight, out,
        lines, v.shape[1], grid[1], per_head, columns, v.shape[3], grid[0],
        *g.stride()[:3], *v.stride()[:3], *weight.stride()[:3], *out.stride()[:3],
        kernel_size, stride, padding, block, block_e, triton.cdiv(v.shape[3], block_e),
        _places(kernel_size),
    )  # fmt: skip
    return out


def _sizes(
    v: Tensor, grid: tuple[int, int], kernel_size: int, stride: int, padding: int
) -> tuple[int, ...]:
    """Rows in all, heads, width, tokens, columns and rows of windows, channels, height."""
    b, h, n, e = v.shape
    y, x = windows(grid, kernel_size, stride, padding)
    return b * h * n, h, grid[1], n, x, y, e, grid[0]


def _tiles(v: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and channels a program, and the programs: rows of all heads and pictures, channels.

    1024 numbers a program keep every value in registers on sm_90: 4096 spill to memory.
    """
    rows, e = v.shape[0] * v.shape[1] * v.shape[2], v.shape[3]
    block_e = min(128, triton.next_power_of_2(e))
    block = max(8, min(1024 // block_e, 128))
    return (block, block_e), (triton.cdiv(rows, block), triton.cdiv(e, block_e))


def _places(kernel_size: int) -> int:
    return triton.next_power_of_2(kernel_size**2)


def _like_tokens(v: Tensor) -> Tensor:
    """Memory for `b h n e` that lies as `b n h e`, as the layers around the op read it."""
    b, h, n, e = v.shape
    return v.new_empty(b, n, h, e).transpose(1, 2)


def _rows(x: Tensor) -> Tensor:
    """The tensor itself where the channels of a token lie next to each other."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _planes(weight: Tensor) -> Tensor:
    """The tensor itself where the k2 x k2 weights of a window lie next to each other."""
    places = weight.shape[-1]
    return weight if weight.stride()[3:] == (places, 1) else weight.contiguous()
