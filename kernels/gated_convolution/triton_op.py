"""A depthwise convolution and the product with it in one pass over memory, on Triton."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_TAPS = 31 * 31


@triton.jit
def _product(
    first_ptr, context_ptr, weight_ptr, bias_ptr, out_ptr,
    channels, height, width, scale,
    first_b, first_c, first_p, context_b, context_c, context_p, out_b, out_c, out_p,
    rows: tl.constexpr, columns: tl.constexpr, biased: tl.constexpr,
    block_c: tl.constexpr, block_p: tl.constexpr,
):  # fmt: skip
    """out = first scale (sum of taps weight x context + bias) on a block of channels and pixels."""
    b = tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * block_c + tl.arange(0, block_c)
    p = tl.program_id(0) * block_p + tl.arange(0, block_p)
    y, x = p // width, p % width
    real, there = c < channels, p < height * width
    context = context_ptr + b * context_b + c[:, None].to(tl.int64) * context_c
    gate = tl.zeros((block_c, block_p), tl.float32)
    if biased:
        gate += tl.load(bias_ptr + c, mask=real, other=0.0).to(tl.float32)[:, None]
    for tap in range(rows * columns):
        dy, dx = tap // columns - rows // 2, tap % columns - columns // 2
        inside = (y + dy >= 0) & (y + dy < height) & (x + dx >= 0) & (x + dx < width) & there
        place = (p + dy * width + dx)[None, :].to(tl.int64) * context_p
        mask = real[:, None] & inside[None, :]
        value = tl.load(context + place, mask=mask, other=0.0).to(tl.float32)
        w = tl.load(weight_ptr + c * rows * columns + tap, mask=real, other=0.0).to(tl.float32)
        gate += w[:, None] * value
    mask = real[:, None] & there[None, :]
    at = b * first_b + c[:, None].to(tl.int64) * first_c + p[None, :].to(tl.int64) * first_p
    factor = tl.load(first_ptr + at, mask=mask, other=0.0).to(tl.float32)
    to = b * out_b + c[:, None].to(tl.int64) * out_c + p[None, :].to(tl.int64) * out_p
    tl.store(out_ptr + to, (factor * gate * scale).to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _to_context(
    g_ptr, first_ptr, weight_ptr, out_ptr,
    channels, height, width, scale,
    g_b, g_c, g_p, first_b, first_c, first_p, out_b, out_c, out_p,
    rows: tl.constexpr, columns: tl.constexpr, block_c: tl.constexpr, block_p: tl.constexpr,
):  # fmt: skip
    """The gradient of context: g first scale, convolved with the mirrored taps."""
    b = tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * block_c + tl.arange(0, block_c)
    p = tl.program_id(0) * block_p + tl.arange(0, block_p)
    y, x = p // width, p % width
    real, there = c < channels, p < height * width
    g = g_ptr + b * g_b + c[:, None].to(tl.int64) * g_c
    first = first_ptr + b * first_b + c[:, None].to(tl.int64) * first_c
    total = tl.zeros((block_c, block_p), tl.float32)
    for tap in range(rows * columns):
        dy, dx = rows // 2 - tap // columns, columns // 2 - tap % columns
        inside = (y + dy >= 0) & (y + dy < height) & (x + dx >= 0) & (x + dx < width) & there
        place = (p + dy * width + dx)[None, :].to(tl.int64)
        mask = real[:, None] & inside[None, :]
        back = tl.load(g + place * g_p, mask=mask, other=0.0).to(tl.float32)
        back *= tl.load(first + place * first_p, mask=mask, other=0.0).to(tl.float32)
        w = tl.load(weight_ptr + c * rows * columns + tap, mask=real, other=0.0).to(tl.float32)
        total += w[:, None] * back
    to = b * out_b + c[:, None].to(tl.int64) * out_c + p[None, :].to(tl.int64) * out_p
    mask = real[:, None] & there[None, :]
    tl.store(out_ptr + to, (total * scale).to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _to_weight(
    g_ptr, first_ptr, context_ptr, out_ptr,
    channels, height, width, scale,
    g_b, g_c, g_p, first_b, first_c, first_p, context_b, context_c, context_p,
    rows: tl.constexpr, columns: tl.constexpr, block_c: tl.constexpr, block_p: tl.constexpr,
):  # fmt: skip
    """Sums over a block of pixels of g first scale context, shifted by each tap; last the bias.

    out   `b blocks c taps+1`, summed over b and blocks afterwards: no atomics, no chance
    """
    b = tl.program_id(2).to(tl.int64)
    c = tl.program_id(1) * block_c + tl.arange(0, block_c)
    p = tl.program_id(0) * block_p + tl.arange(0, block_p)
    y, x = p // width, p % width
    real, there = c < channels, p < height * width
    mask = real[:, None] & there[None, :]
    wide, pixel = c[:, None].to(tl.int64), p[None, :].to(tl.int64)
    back = tl.load(g_ptr + b * g_b + wide * g_c + pixel * g_p, mask=mask, other=0.0)
    first = tl.load(first_ptr + b * first_b + wide * first_c + pixel * first_p, mask=mask, other=0)
    gate = back.to(tl.float32) * first.to(tl.float32) * scale
    context = context_ptr + b * context_b + wide * context_c
    block = b * tl.num_programs(0) + tl.program_id(0)
    out = out_ptr + (block * channels + c) * (rows * columns + 1)
    for tap in range(rows * columns):
        dy, dx = tap // columns - rows // 2, tap % columns - columns // 2
        inside = (y + dy >= 0) & (y + dy < height) & (x + dx >= 0) & (x + dx < width) & there
        place = (p + dy * width + dx)[None, :].to(tl.int64) * context_p
        value = tl.load(context + place, mask=real[:, None] & inside[None, :], other=0.0)
        tl.store(out + tap, tl.sum(gate * value.to(tl.float32), 1), mask=real)
    tl.store(out + rows * columns, tl.sum(gate, 1), mask=real)


def can_run(first: Tensor, context: Tensor, weight: Tensor, **_: Any) -> str | None:
    """None where the kernels take the call, else the reason against them."""
    if first.shape != context.shape or context.ndim != 4 or weight.ndim != 4:
        return "shapes do not fit each other"
    if weight.shape[:2] != (context.shape[1], 1) or not all(k % 2 for k in weight.shape[2:]):
        return f"no depthwise kernel of {tuple(weight.shape)} with a middle"
    if weight.shape[-2] * weight.shape[-1] > MOST_TAPS:
        return f"more than {MOST_TAPS} taps"
    if len({first.dtype, context.dtype, weight.dtype}) > 1:
        return "arguments of several dtypes"
    if context.numel() == 0:
        return "there is nothing to compute"
    if len(context) > 65535:
        return "a batch of more than 65535"
    return None


def forward(
    first: Tensor,
    context: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    gate: Tensor | None = None,
    *,
    scale: float = 1.0,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The product; nothing is kept, since the backward forms the gates again."""
    if gate is not None:
        return first * gate, ()
    return _multiply(first, context, weight, bias, scale), ()


def backward(
    g: Tensor,
    out: Tensor,
    saved: tuple[Tensor, ...],
    needs: set[str],
    first: Tensor,
    context: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    gate: Tensor | None = None,
    *,
    scale: float = 1.0,
) -> dict[str, Tensor]:
    """The gradients of first (g in its place), of context (taps mirrored), of weight and bias."""
    if gate is not None:
        return {"first": g * gate, "gate": g * first}
    found: dict[str, Tensor] = {}
    if "first" in needs:
        found["first"] = _multiply(g, context, weight, bias, scale, like=first)
    if "context" in needs:
        found["context"] = _back(g, first, context, weight, scale)
    if "weight" in needs or "bias" in needs:
        sums = _sums(g, first, context, weight, scale)
        found["weight"] = sums[:, :-1].reshape(weight.shape).to(weight.dtype)
        if bias is not None:
            found["bias"] = sums[:, -1].to(bias.dtype)
    return {name: x for name, x in found.items() if name in needs}


def _multiply(
    first: Tensor,
    context: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: float,
    like: Tensor | None = None,
) -> Tensor:
    first, context = _planes(first), _planes(context)
    out = torch.empty_like(context, dtype=(first if like is None else like).dtype)
    tiles, grid = _tiles(context)
    _product[grid](
        first, context, weight.contiguous(), weight if bias is None else bias.contiguous(), out,
        *context.shape[1:], scale, *_strides(first), *_strides(context), *_strides(out),
        *weight.shape[2:], bias is not None, *tiles,
    )  # fmt: skip
    return out


def _back(g: Tensor, first: Tensor, context: Tensor, weight: Tensor, scale: float) -> Tensor:
    g, first, out = _planes(g), _planes(first), torch.empty_like(_planes(context))
    tiles, grid = _tiles(out)
    _to_context[grid](
        g, first, weight.contiguous(), out, *context.shape[1:], scale,
        *_strides(g), *_strides(first), *_strides(out), *weight.shape[2:], *tiles,
    )  # fmt: skip
    return out


def _sums(g: Tensor, first: Tensor, context: Tensor, weight: Tensor, scale: float) -> Tensor:
    """`c taps+1`: the gradient of each tap, and last that of the bias, in float32."""
    g, first, context = _planes(g), _planes(first), _planes(context)
    tiles, grid = _tiles(context)
    taps = weight.shape[-2] * weight.shape[-1]
    parts = context.new_empty(
        len(context) * grid[0], context.shape[1], taps + 1, dtype=torch.float32
    )
    _to_weight[grid](
        g, first, context, parts, *context.shape[1:], scale,
        *_strides(g), *_strides(first), *_strides(context), *weight.shape[2:], *tiles,
    )  # fmt: skip
    return parts.sum(0)


def _tiles(x: Tensor) -> tuple[tuple[int, int], tuple[int, int, int]]:
    """Channels and pixels a program, as memory runs, and the programs: pixels, channels, batch."""
    pixels, channels = x.shape[-2] * x.shape[-1], x.shape[1]
    first, then = (channels, pixels) if x.stride(1) == 1 else (pixels, channels)
    along = min(64 if x.stride(1) == 1 else 512, triton.next_power_of_2(first))
    across = min(max(1, 1024 // along), triton.next_power_of_2(then))
    c, p = (along, across) if x.stride(1) == 1 else (across, along)
    return (c, p), (triton.cdiv(pixels, p), triton.cdiv(channels, c), len(x))


def _planes(x: Tensor) -> Tensor:
    """The tensor itself where a pixel's place in memory is one stride times its number."""
    even = 1 in x.shape[2:] or x.stride(2) == x.stride(3) * x.shape[3]
    return x if even and _pixel(x) > 0 else x.contiguous()


def _pixel(x: Tensor) -> int:
    return x.stride(3) if x.shape[3] > 1 else x.stride(2)


def _strides(x: Tensor) -> tuple[int, int, int]:
    return x.stride(0), x.stride(1), _pixel(x)
