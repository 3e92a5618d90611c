"""OverLoCK's parts, and the block of its base and overview networks; pictures are `b c y x`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ....probe.mark import mark
from ...layers import ChannelNorm, dropped
from .dilated import BN_EPS, DilatedReparam

LN_EPS = 1e-6


class ResidualDepthwise(nn.Conv2d):
    """x + a depthwise 3 x 3 of it."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class LayerScale(nn.Module):
    """A factor and a shift of each channel, stored as a depthwise 1 x 1 convolution."""

    def __init__(self, dim: int, start: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((dim, 1, 1, 1), float(start)))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight[:, 0] + self.bias[:, None, None]


def layer_scale(dim: int, start: float | None) -> nn.Module:
    """A layer scale, or nothing where it has no start."""
    return nn.Identity() if start is None else LayerScale(dim, start)


class ChannelGate(nn.Module):
    """Squeeze-and-excitation with a GELU between its two layers; port `gate`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        squeezed = max(16, dim // 8)
        self.proj = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(dim, squeezed, 1),
            nn.GELU(),
            nn.Conv2d(squeezed, dim, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * mark("gate", self.proj(x))


class GlobalResponseNorm(nn.Module):
    """(gamma N + 1) x + beta with N = G / (mean of G over channels), G the norm over positions.

    Port `gate`: gamma N + 1, `b c 1 1` (ConvNeXt V2, arXiv 2301.00808).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, dim, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, dim, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        size = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)
        share = size / (size.mean(1, keepdim=True) + 1e-6)
        return mark("gate", self.gamma * share + 1) * x + self.beta


class RepConvBlock(nn.Module):
    """A depthwise 3 x 3, then a large kernel, gates and an MLP on one branch.

    res_scale   the layer scale multiplies the shortcut, else the branch
    """

    def __init__(
        self,
        dim: int,
        kernel: int,
        mlp_ratio: float,
        *,
        ls_init: float | None,
        res_scale: bool,
        drop: float,
        deploy: bool,
    ) -> None:
        super().__init__()
        self.res_scale, self.drop = res_scale, drop
        hidden = int(dim * mlp_ratio)
        self.dwconv = ResidualDepthwise(dim)
        self.proj = nn.Sequential(
            ChannelNorm(dim, LN_EPS),
            DilatedReparam(dim, kernel, deploy),
            nn.BatchNorm2d(dim, BN_EPS),
            ChannelGate(dim),
            nn.Conv2d(dim, hidden, 1),
            nn.GELU(),
            ResidualDepthwise(hidden),
            GlobalResponseNorm(hidden),
            nn.Conv2d(hidden, dim, 1),
        )
        self.ls = layer_scale(dim, ls_init)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dwconv(x)
        return joined(self, x, self.proj(x), self.ls)


def joined(block: nn.Module, x: Tensor, branch: Tensor, scale: nn.Module) -> Tensor:
    """Shortcut and branch, one of them scaled, the branch dropped at random in training."""
    if block.res_scale:
        return scale(x) + dropped(branch, block.drop, block.training)  # type: ignore[arg-type]
    return x + dropped(scale(branch), block.drop, block.training)  # type: ignore[arg-type]


def conv_norm(inputs: int, out: int, stride: int = 1) -> list[nn.Module]:
    """A 3 x 3 convolution without bias and its norm."""
    return [nn.Conv2d(inputs, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out, BN_EPS)]


def downsample(inputs: int, out: int) -> nn.Sequential:
    """Half the size."""
    return nn.Sequential(*conv_norm(inputs, out, 2))


def stem(in_channels: int, dim: int) -> nn.Sequential:
    """Four convolutions to a quarter of the size; GELU between them."""
    half = dim // 2
    return nn.Sequential(
        *conv_norm(in_channels, half, 2), nn.GELU(),
        *conv_norm(half, half), nn.GELU(),
        *conv_norm(half, dim, 2), nn.GELU(),
        *conv_norm(dim, dim),
    )  # fmt: skip
