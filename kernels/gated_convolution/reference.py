"""Products with depthwise-convolved gates, and filters in frequency (HorNet, arXiv 2207.14284)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import KernelError
from ..kernel import kernel
from ..shared import wide


def product_mixing(
    rows: slice,
    first: Tensor,
    context: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    gate: Tensor | None = None,
    *,
    scale: float = 1.0,
) -> Tensor:
    """A[b, c, i, j] = first[b, c, i] scale weight[c, j - i], zero where j - i leaves the kernel.

    Channels take the place of heads: A @ context, both as tokens `b c n 1`, is the product less
    its bias part, first[i] scale bias[c]. Tokens are the pixels in raster order.
    """
    height, width = context.shape[-2:]
    kept = torch.arange(height * width, device=context.device)[rows]
    everywhere = torch.arange(height * width, device=context.device)
    dy = everywhere // width - kept[:, None] // width + weight.shape[-2] // 2
    dx = everywhere % width - kept[:, None] % width + weight.shape[-1] // 2
    inside = (dy >= 0) & (dy < weight.shape[-2]) & (dx >= 0) & (dx < weight.shape[-1])
    taps = wide(weight).flatten(1)
    place = (dy * weight.shape[-1] + dx).clamp(0, taps.shape[1] - 1)
    kernels = torch.where(inside, taps[:, place], 0.0)
    return wide(first).flatten(2)[:, :, rows, None] * scale * kernels


@kernel(
    "gated_convolution",
    share=("first", "context"),
    hold=("weight", "bias", "gate"),
    values="context",
    mixing=product_mixing,
    opaque=False,
    fast="triton_op",
)
def gated_convolution(
    first: Tensor,
    context: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    gate: Tensor | None = None,
    *,
    scale: float = 1.0,
) -> Tensor:
    """first * scale (depthwise(context; weight) + bias): one order of a recursive gated product.

    first, context   `b c y x`; weight `c 1 k l` with odd k and l, zero-padded; bias `c`
    gate             scale (depthwise(context) + bias), where the caller has formed it already
    Linear in first and, without bias, in context; relevance goes half to each factor of the
    product and then by the rule of convolutions.
    Raises KernelError for shapes that do not fit each other.
    """
    _check(first, context, weight, bias, gate)
    if gate is None:
        padding = (weight.shape[-2] // 2, weight.shape[-1] // 2)
        gate = F.conv2d(context, weight, bias, 1, padding, 1, context.shape[1])
        gate = gate if scale == 1 else gate * scale
    return first * gate


def _check(
    first: Tensor, context: Tensor, weight: Tensor, bias: Tensor | None, gate: Tensor | None
) -> None:
    if context.ndim != 4 or first.shape != context.shape:
        raise KernelError(
            f"a gated product of {tuple(first.shape)} with the context {tuple(context.shape)} "
            "needs both as `b c y x` of one shape: project the first to the context's channels"
        )
    channels = context.shape[1]
    if weight.ndim != 4 or weight.shape[:2] != (channels, 1) or min(weight.shape[2:]) < 1:
        raise KernelError(
            f"depthwise weights {tuple(weight.shape)} do not fit {channels} channels: "
            f"give ({channels}, 1, k, l)"
        )
    if not (weight.shape[-2] % 2 and weight.shape[-1] % 2):
        raise KernelError(
            f"a depthwise kernel of {tuple(weight.shape[-2:])} has no middle: give odd sides"
        )
    if bias is not None and bias.shape != (channels,):
        raise KernelError(
            f"a bias of {tuple(bias.shape)} does not fit {channels} channels: give ({channels},)"
        )
    if gate is not None and gate.shape != context.shape:
        raise KernelError(
            f"a gate of {tuple(gate.shape)} does not fit the context {tuple(context.shape)}: "
            "give the gate of this very context, or none"
        )


Mixer = Callable[[Tensor], Tensor]


def recursive_gated_convolution(
    first: Tensor,
    context: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mixers: Iterable[Mixer],
    *,
    widths: tuple[int, ...],
    scale: float = 1.0,
) -> Tensor:
    """p_0 = first * g_0, then p_i = mix_i(p_{i-1}) * g_i, with g the scaled gates of context.

    first    `b c_0 y x`; context `b D y x`, split along its channels into `widths`, which add up
             to D; weight `D 1 k l`, bias `D`
    mixers   one 1 x 1 convolution (any callable) from each width to the next
    Each product is one call of `gated_convolution`, and that call's map is its map.
    Raises KernelError for widths or mixers that do not fit.
    """
    mix = list(mixers)
    if sum(widths) != context.shape[1] or len(mix) != len(widths) - 1:
        raise KernelError(
            f"{len(mix)} mixers between widths {widths} of {context.shape[1]} channels do not "
            "fit: widths add up to the context's channels, with a mixer from each to the next"
        )
    ends = [sum(widths[:n]) for n in range(len(widths) + 1)]
    product = first
    for n, (start, end) in enumerate(pairwise(ends)):
        part = None if bias is None else bias[start:end]
        product = mix[n - 1](product) if n else product
        product = gated_convolution(
            product, context[:, start:end], weight[start:end], part, scale=scale
        )
    return product


def filter_mixing(rows: slice, x: Tensor, weight: Tensor) -> Tensor:
    """A[b, c, i, j] = kernel_c[(i - j) modulo the grid], with kernel = irfft2(weight)."""
    height, width = x.shape[-2:]
    kernels: Tensor = torch.fft.irfft2(_resized(wide(weight), height, width), s=(height, width))
    n = torch.arange(height * width, device=x.device)
    kept = n[rows][:, None]
    dy, dx = (kept // width - n // width) % height, (kept % width - n % width) % width
    return kernels[:, dy, dx].expand(len(x), -1, -1, -1)


@kernel(
    "global_filter",
    share=("x",),
    hold=("weight",),
    values="x",
    mixing=filter_mixing,
)
def global_filter(x: Tensor, weight: Tensor) -> Tensor:
    """irfft2(rfft2(x) W): a circular convolution of each channel with a kernel of the whole grid.

    x        `b c y x`
    weight   `c h w 2`, real and imaginary parts of W on the half spectrum; where (h, w) is not
             (y, x // 2 + 1), each part is resized bilinearly, corners on corners
    In float32, or float64 where x is. Raises KernelError for weights that do not fit x.
    """
    if x.ndim != 4 or weight.ndim != 4 or weight.shape[0] != x.shape[1] or weight.shape[3] != 2:
        raise KernelError(
            f"a filter of {tuple(weight.shape)} does not fit {tuple(x.shape)}: "
            "give x as `b c y x` and the filter as `c h w 2`"
        )
    size = (x.shape[-2], x.shape[-1])
    spectrum = torch.fft.rfft2(wide(x), norm="ortho")
    out: Tensor = torch.fft.irfft2(spectrum * _resized(wide(weight), *size), s=size, norm="ortho")
    return out.to(x.dtype)


def _resized(weight: Tensor, height: int, width: int) -> Tensor:
    """The filter as complex numbers on the half spectrum of a `height` by `width` grid."""
    size = (height, width // 2 + 1)
    if weight.shape[1:3] != size:
        parts = weight.permute(3, 0, 1, 2)
        parts = F.interpolate(parts, size=size, mode="bilinear", align_corners=True)
        weight = parts.permute(1, 2, 3, 0)
    return torch.view_as_complex(weight.contiguous())
