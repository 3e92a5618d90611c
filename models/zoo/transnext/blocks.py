"""The MLP that sees its neighbours, and patches that overlap."""

from __future__ import annotations

from torch import Tensor, nn

from ....probe.mark import mark
from .positions import Pair


class DepthwiseConvolution(nn.Module):
    """A 3 x 3 of every channel of tokens on a grid, `b n c`."""

    def __init__(self, dim: int, grid: Pair) -> None:
        super().__init__()
        self.grid = grid
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.dwconv(x.mT.unflatten(2, self.grid)).flatten(2).mT


class ConvGlu(nn.Module):
    """fc2(GELU(depthwise(a)) v) with (a, v) = fc1(x): a gate that sees its neighbours.

    Port `gate`: what v is multiplied by, `b n c`.
    """

    def __init__(self, dim: int, hidden: int, grid: Pair, drop: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 2 * hidden)
        self.dwconv = DepthwiseConvolution(hidden, grid)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.fc1(x).chunk(2, -1)
        gate = mark("gate", self.act(self.dwconv(gate)))
        return self.drop(self.fc2(self.drop(gate * value)))


class OverlappingPatches(nn.Module):
    """A strided convolution whose windows overlap, and a norm: `b c y x` -> tokens `b n c`."""

    def __init__(self, in_channels: int, dim: int, kernel: int, stride: int, eps: float) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, kernel, stride, kernel // 2)
        self.norm = nn.LayerNorm(dim, eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).flatten(2).mT)
