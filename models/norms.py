"""Norms that several architectures share."""

from __future__ import annotations

from torch import Tensor, nn


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of `b c y x`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
