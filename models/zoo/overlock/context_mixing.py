"""ContMix: kernels of every pixel, written by its affinity to regions of the overview."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....kernels.context_convolution import context_convolution, window_starts
from ....probe.errors import OptionError
from ....probe.mark import mark
from ...layers import ChannelNorm
from .blocks import (
    LN_EPS,
    ChannelGate,
    GlobalResponseNorm,
    LayerScale,
    ResidualDepthwise,
    joined,
    layer_scale,
)
from .dilated import BN_EPS, DilatedReparam

REGIONS = 7  # rows and columns of context regions


class DynamicConvBlock(nn.Module):
    """Features and the context prior in, both out: a convolution by dynamic kernels, and an MLP.

    The op's ports are `v` (heads of the small kernel, then those of the large one), `small` and
    `large` (`b g n k2`, the kernel of each pixel after its softmax), `map` and `heads`; further
    ports are `context`, the prior that the block reads, and `affinity`, `b g n 49`, of each pixel
    to the 7 x 7 regions of the context. Maps smaller than the kernel are mixed at a larger size.
    """

    def __init__(
        self,
        dim: int,
        context: int,
        kernel: int,
        small: int,
        num_heads: int,
        mlp_ratio: float,
        *,
        ls_init: float | None,
        res_scale: bool,
        drop: float,
        deploy: bool,
        first: bool = False,
        last: bool = False,
    ) -> None:
        super().__init__()
        _check(dim, num_heads, small)
        self.dims, self.kernel, self.small = [dim, context], kernel, small
        self.res_scale, self.drop, self.first, self.last = res_scale, drop, first, last
        self.heads, out, hidden = 2 * num_heads, dim + context, int(dim * mlp_ratio)
        self.scale = (dim // self.heads) ** -0.5
        self.rpb1 = nn.Parameter(torch.zeros(self.heads, 2 * small - 1, 2 * small - 1))
        self.rpb2 = nn.Parameter(torch.zeros(self.heads, 2 * kernel - 1, 2 * kernel - 1))
        if not first:
            self.x_scale, self.h_scale = LayerScale(context), LayerScale(context)
        self.dwconv1 = ResidualDepthwise(out)
        self.norm1 = ChannelNorm(out, LN_EPS)
        self.fusion = nn.Sequential(
            nn.Conv2d(out, out, 3, padding=1, groups=out),
            nn.BatchNorm2d(out, BN_EPS),
            nn.GELU(),
            nn.Conv2d(out, dim, 1),
            GlobalResponseNorm(dim),
        )
        self.weight_query = nn.Sequential(*_pointwise(dim, dim // 2))
        pool = nn.AdaptiveAvgPool2d(REGIONS)
        self.weight_key = nn.Sequential(pool, *_pointwise(context, dim // 2))
        self.weight_proj = nn.Conv2d(REGIONS**2, kernel**2 + small**2, 1)
        self.dyconv_proj = nn.Sequential(*_pointwise(dim, dim))
        norm = nn.BatchNorm2d(dim, BN_EPS)
        self.lepe = nn.Sequential(DilatedReparam(dim, kernel, deploy), norm)
        self.se_layer = ChannelGate(dim)
        self.gate = nn.Sequential(*_pointwise(dim, dim), nn.SiLU())
        self.proj = nn.Sequential(nn.BatchNorm2d(dim, BN_EPS), nn.Conv2d(dim, out, 1))
        self.dwconv2 = ResidualDepthwise(out)
        self.norm2 = ChannelNorm(out, LN_EPS)
        self.mlp = nn.Sequential(
            nn.Conv2d(out, hidden, 1),
            nn.GELU(),
            ResidualDepthwise(hidden),
            GlobalResponseNorm(hidden),
            nn.Conv2d(hidden, out, 1),
        )
        self.ls1, self.ls2 = layer_scale(out, ls_init), layer_scale(out, ls_init)

    def forward(self, x: Tensor, context: Tensor, prior: Tensor) -> tuple[Tensor, Tensor | None]:
        """x, the context that the block before handed on, and the overview's prior itself.

        Returns both parts, or from the last block both as one and None.
        """
        if not self.first:
            context = self.x_scale(context) + self.h_scale(prior)
        fused = self.dwconv1(torch.cat([x, mark("context", context)], 1))
        mixed = self.proj(self.mix(self.norm1(fused)))
        fused = self.dwconv2(joined(self, fused, mixed, self.ls1))
        fused = joined(self, fused, self.mlp(self.norm2(fused)), self.ls2)
        if self.last:
            return fused, None
        x, context = fused.split(self.dims, 1)
        return x, context

    def mix(self, fused: Tensor) -> Tensor:
        """The convolution by dynamic kernels, its static companion, and both gates."""
        x = self.fusion(fused)
        gate, local = self.gate(x), self.lepe(x)
        size = (x.shape[2], x.shape[3])
        if self.mixed_at(size) != size:
            x, fused = (
                F.interpolate(t, self.mixed_at(size), mode="bilinear", align_corners=False)
                for t in (x, fused)
            )
        out = self.convolve(x, fused)
        if out.shape[2:] != size:
            out = F.adaptive_avg_pool2d(out, size)
        return gate * self.se_layer(self.dyconv_proj(out) + local)

    def mixed_at(self, size: tuple[int, int]) -> tuple[int, int]:
        """The size at which a map is mixed: where its shorter side is below the kernel's, grown."""
        y, x = size
        if min(y, x) >= self.kernel:
            return y, x
        side = self.kernel  # 15 / 11 * 11 is less than 15, by rounding
        longer = max(side, int(side / y * x if y < x else side / x * y))
        return (side, longer) if y < x else (longer, side)

    def convolve(self, x: Tensor, fused: Tensor) -> Tensor:
        """x mixed by the kernels that features and context of `fused` write."""
        grid = (x.shape[2], x.shape[3])
        v = x.flatten(2).unflatten(1, (2 * self.heads, -1)).transpose(2, 3)
        small, large = self.kernels(fused)
        out = context_convolution(v, small, large, grid=grid)
        return out.transpose(2, 3).flatten(1, 2).unflatten(2, grid)

    def kernels(self, fused: Tensor) -> tuple[Tensor, Tensor]:
        """The small and the large kernel of every pixel and head, `b g n k2`."""
        grid = (fused.shape[2], fused.shape[3])
        features, context = fused.split(self.dims, 1)
        query = (self.weight_query(features) * self.scale).flatten(2)
        key = self.weight_key(context).flatten(2)
        query, key = (t.unflatten(1, (self.heads, -1)) for t in (query, key))
        affinity = torch.einsum("bgcn,bgcl->bgnl", query, key)  # `@` would pass for attention
        affinity = mark("affinity", affinity)
        scores = self.weight_proj(affinity.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        small, large = scores.split([self.small**2, self.kernel**2], 3)
        small = small + relative_bias(self.rpb1, grid)
        large = large + relative_bias(self.rpb2, grid)
        return small.softmax(3), large.softmax(3)


def relative_bias(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """A table over offsets in windows, `g 2k-1 2k-1`, as a bias of each pixel's taps, `g n k2`."""
    size = (table.shape[-1] + 1) // 2
    taps = torch.arange(size, device=table.device)
    rows, columns = (
        (window_starts(side, size, table.device) - torch.arange(side, device=table.device))[:, None]
        + taps
        + size
        - 1
        for side in grid
    )
    bias = table[:, rows[:, None, :, None], columns[None, :, None, :]]
    return bias.flatten(3, 4).flatten(1, 2)


def _pointwise(inputs: int, out: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, out, 1, bias=False), nn.BatchNorm2d(out, BN_EPS)]


def _check(dim: int, num_heads: int, small: int) -> None:
    """Raise OptionError for heads or a small kernel that do not fit."""
    if num_heads < 1 or dim % (4 * num_heads):
        raise OptionError(
            f"{dim} channels do not split into 4 x {num_heads} parts, two kernels of twice "
            f"sub_num_heads={num_heads} heads: give a width that is a multiple of {4 * num_heads}"
        )
    if small < 1 or small % 2 == 0:
        raise OptionError(f"smk_size={small} has no middle: give an odd side")
