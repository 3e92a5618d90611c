"""Norms that several architectures share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .activations import activation


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of `b c y x`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class NormAct(nn.BatchNorm2d):
    """Batch norm and an activation, or none, under one name."""

    def __init__(self, dim: int, eps: float, act: str) -> None:
        super().__init__(dim, eps)
        self.act = activation(act).module() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


class RmsNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, in float32."""

    def __init__(self, dim: int, eps: float, affine: bool = True) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps
        self.weight = nn.Parameter(torch.ones(dim)) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        weight = None if self.weight is None else self.weight.to(wide.dtype)
        return F.rms_norm(wide, (self.dim,), weight, self.eps).to(x.dtype)


class LayerScale(nn.Module):
    """A learned scale for each channel."""

    def __init__(self, dim: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), start))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma
