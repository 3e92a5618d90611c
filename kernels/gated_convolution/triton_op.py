"""A depthwise convolution and the product with it in one pass over memory, on Triton."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..shared.triton_launch import ceil_div, power_of_2
from .triton_kernels import Plan, Sizes, product, to_context, to_weight

MOST_TAPS = 31 * 31


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
    return _multiply(first, context, weight, bias, scale, first.dtype), ()


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
    grads: dict[str, Tensor] = {}
    if "first" in needs:
        grads["first"] = _multiply(g, context, weight, bias, scale, first.dtype)
    if "context" in needs:
        grads["context"] = _back(g, first, context, weight, scale)
    if "weight" in needs or "bias" in needs:
        sums = _sums(g, first, context, weight, scale)
        grads["weight"] = sums[:, :-1].reshape(weight.shape).to(weight.dtype)
        if bias is not None:
            grads["bias"] = sums[:, -1].to(bias.dtype)
    return {name: x for name, x in grads.items() if name in needs}


def _multiply(
    first: Tensor,
    context: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: float,
    dtype: torch.dtype,
) -> Tensor:
    first, context = _planes(first), _planes(context)
    out = torch.empty_like(context, dtype=dtype)
    plan, grid = _plan(context, weight)
    product[grid](
        first, _strides(first), context, _strides(context), weight.contiguous(),
        None if bias is None else bias.contiguous(), out, _strides(out),
        _sizes(context, scale), plan, enable_fp_fusion=True,
    )  # fmt: skip
    return out


def _back(g: Tensor, first: Tensor, context: Tensor, weight: Tensor, scale: float) -> Tensor:
    g, first, out = _planes(g), _planes(first), torch.empty_like(_planes(context))
    plan, grid = _plan(out, weight)
    to_context[grid](
        g, _strides(g), first, _strides(first), weight.contiguous(), out, _strides(out),
        _sizes(context, scale), plan, enable_fp_fusion=True,
    )  # fmt: skip
    return out


def _sums(g: Tensor, first: Tensor, context: Tensor, weight: Tensor, scale: float) -> Tensor:
    """`c taps+1`: the gradient of each tap, and last that of the bias, in float32."""
    g, first, context = _planes(g), _planes(first), _planes(context)
    plan, grid = _plan(context, weight)
    taps = weight.shape[-2] * weight.shape[-1]
    parts = context.new_empty(
        len(context) * grid[0], context.shape[1], taps + 1, dtype=torch.float32
    )
    to_weight[grid](
        g, _strides(g), first, _strides(first), context, _strides(context), parts,
        _sizes(context, scale), plan, enable_fp_fusion=True,
    )  # fmt: skip
    return parts.sum(0)


def _sizes(x: Tensor, scale: float) -> Sizes:
    return Sizes(x.shape[1], x.shape[2], x.shape[3], scale)


def _plan(x: Tensor, weight: Tensor) -> tuple[Plan, tuple[int, int, int]]:
    """Channels and pixels a program, as memory runs, and the programs: pixels, channels, batch."""
    pixels, channels = x.shape[-2] * x.shape[-1], x.shape[1]
    channels_last = x.stride(1) == 1
    inner, outer = (channels, pixels) if channels_last else (pixels, channels)
    along = min(64 if channels_last else 512, power_of_2(inner))
    across = min(max(1, 1024 // along), power_of_2(outer))
    c, p = (along, across) if channels_last else (across, along)
    grid = ceil_div(pixels, p), ceil_div(channels, c), len(x)
    return Plan(weight.shape[2], weight.shape[3], c, p), grid


def _planes(x: Tensor) -> Tensor:
    """The tensor itself where a pixel's place in memory is one stride times its number."""
    even = 1 in x.shape[2:] or x.stride(2) == x.stride(3) * x.shape[3]
    return x if even and _pixel(x) > 0 else x.contiguous()


def _pixel(x: Tensor) -> int:
    return x.stride(3) if x.shape[3] > 1 else x.stride(2)


def _strides(x: Tensor) -> tuple[int, int, int]:
    """Of picture, channel and pixel."""
    return x.stride(0), x.stride(1), _pixel(x)
