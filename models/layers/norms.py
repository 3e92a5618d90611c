"""Norms that several architectures share."""

from __future__ import annotations

from torch import Tensor, nn

from .activations import ACTIVATIONS


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of `b c y x`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class NormAct(nn.BatchNorm2d):
    """Batch norm and an activation, or none, under one name."""

    def __init__(self, dim: int, eps: float, act: str) -> None:
        super().__init__(dim, eps)
        self.act = ACTIVATIONS[act]() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))
