"""Attention of places and of channels, each between two convolutions (DANet, arXiv 1809.02983)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ....kernels.attention import attention


class PositionAttention(nn.Module):
    """Every place attends to all: gamma softmax(q k') v + x, the scores as they are."""

    def __init__(self, dim: int, reduction: int = 8) -> None:
        super().__init__()
        inner = max(1, dim // reduction)
        self.query_conv = nn.Conv2d(dim, inner, 1)
        self.key_conv = nn.Conv2d(dim, inner, 1)
        self.value_conv = nn.Conv2d(dim, dim, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (_tokens(conv(x)) for conv in (self.query_conv, self.key_conv, self.value_conv))
        mixed = attention(q, k, v, scale=1.0)[:, 0].transpose(1, 2).unflatten(2, x.shape[2:])
        return self.gamma * mixed + x


class ChannelAttention(nn.Module):
    """Every channel attends to all: gamma softmax(max(e) - e) x + x with e = x x'.

    The maximum of a row cancels in the softmax, so that channels are tokens whose query is -x.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        channels = x.flatten(2)[:, None]
        mixed = attention(-channels, channels, channels, scale=1.0)[:, 0]
        return self.gamma * mixed.unflatten(2, x.shape[2:]) + x


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)[:, None]


class AttentionLayer(nn.Module):
    """Attention between two 3 x 3 convolutions, twice as many channels in as out."""

    def __init__(self, kind: type[nn.Module], dim: int, eps: float) -> None:
        super().__init__()
        body = PositionAttention(dim) if kind is PositionAttention else ChannelAttention()
        self.attn = nn.Sequential(
            nn.Conv2d(2 * dim, dim, 3, padding=1),
            nn.BatchNorm2d(dim, eps),
            nn.PReLU(),
            body,
            nn.Conv2d(dim, dim, 3, padding=1),
            nn.BatchNorm2d(dim, eps),
            nn.PReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.attn(x)
