"""EfficientNet without its head (arXiv 1905.11946): five maps, from stride 2 to stride 32."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from torch import Tensor, nn

from ....probe.errors import OptionError, near
from ...layers import SameConv2d, divisible

# blocks, kernel, stride, expansion, channels of each stage of b0
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM = 32
# width and depth of each size
FACTORS = {
    "efficientnet-b0": (1.0, 1.0),
    "efficientnet-b1": (1.0, 1.1),
    "efficientnet-b2": (1.1, 1.2),
    "efficientnet-b3": (1.2, 1.4),
    "efficientnet-b4": (1.4, 1.8),
    "efficientnet-b5": (1.6, 2.2),
    "efficientnet-b6": (1.8, 2.6),
    "efficientnet-b7": (2.0, 3.1),
}


@dataclass(frozen=True)
class Shape:
    """What one block is made of."""

    width: int
    out: int
    kernel: int
    stride: int
    expand: int


class MBConv(nn.Module):
    """1 x 1 expand, depthwise, squeeze, 1 x 1 project; a shortcut where shapes agree."""

    def __init__(self, shape: Shape, eps: float) -> None:
        super().__init__()
        inner = shape.width * shape.expand
        self.expands = shape.expand != 1
        self.shortcut = shape.stride == 1 and shape.width == shape.out
        if self.expands:
            self._expand_conv = SameConv2d(shape.width, inner, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(inner, eps, 0.01)
            self._act0 = nn.SiLU()
        self._depthwise_conv = SameConv2d(
            inner, inner, shape.kernel, shape.stride, groups=inner, bias=False
        )
        self._bn1 = nn.BatchNorm2d(inner, eps, 0.01)
        self._act1 = nn.SiLU()
        squeezed = max(1, int(shape.width * 0.25))
        self._se_reduce = nn.Conv2d(inner, squeezed, 1)
        self._se_act = nn.SiLU()
        self._se_expand = nn.Conv2d(squeezed, inner, 1)
        self._project_conv = SameConv2d(inner, shape.out, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(shape.out, eps, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        y = self._act0(self._bn0(self._expand_conv(x))) if self.expands else x
        y = self._act1(self._bn1(self._depthwise_conv(y)))
        gate = self._se_expand(self._se_act(self._se_reduce(y.mean((2, 3), keepdim=True))))
        y = self._bn2(self._project_conv(y * gate.sigmoid()))
        return x + y if self.shortcut else y


class EfficientNetPyramid(nn.Module):
    """What enters each block of stride 2, and the last block's output.

    channels  of the five maps
    """

    def __init__(self, width: float, depth: float, in_channels: int, eps: float) -> None:
        super().__init__()
        stem = divisible(STEM * width)
        self._conv_stem = SameConv2d(in_channels, stem, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(stem, eps, 0.01)
        self._act0 = nn.SiLU()
        shapes = _shapes(stem, width, depth)
        self._blocks = nn.ModuleList(MBConv(shape, eps) for shape in shapes)
        self.turns = tuple(n for n, shape in enumerate(shapes) if shape.stride == 2)
        self.channels = (*(shapes[n].width for n in self.turns), shapes[-1].out)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self._act0(self._bn0(self._conv_stem(x)))
        maps = []
        for n, block in enumerate(self._blocks):
            if n in self.turns:
                maps.append(x)
            x = block(x)
        return [*maps, x]


def _shapes(stem: int, width: float, depth: float) -> list[Shape]:
    shapes, channels = [], stem
    for repeats, kernel, stride, expand, out in STAGES:
        wide = divisible(out * width)
        for n in range(ceil(repeats * depth)):
            shapes.append(Shape(channels, wide, kernel, 1 if n else stride, expand))
            channels = wide
    return shapes


def pyramid(name: str, in_channels: int, eps: float) -> EfficientNetPyramid:
    """The backbone of a name such as `efficientnet-b3`. Raises OptionError for another one."""
    if name not in FACTORS:
        hint = near(name, FACTORS) or f": there are {', '.join(FACTORS)}"
        raise OptionError(f"backbone {name!r} is no EfficientNet{hint}")
    return EfficientNetPyramid(*FACTORS[name], in_channels, eps)
