"""The convolutions of MaxViT (arXiv 2204.01697)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ...layers import NormAct, SameConv2d, SqueezeExcite
from .layout import MaxVitLayout


def convolution(
    inputs: int, out: int, kernel: int, stride: int, groups: int, bias: bool, same: bool
) -> nn.Conv2d:
    """A convolution that keeps ceil(side / stride), padded as TensorFlow does or evenly."""
    if same:
        return SameConv2d(inputs, out, kernel, stride, groups=groups, bias=bias)
    return nn.Conv2d(inputs, out, kernel, stride, kernel // 2, groups=groups, bias=bias)


class Shortcut(nn.Module):
    """The mean of 2 x 2, and a 1 x 1 where channels change."""

    def __init__(self, inputs: int, out: int, bias: bool) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
        self.expand = nn.Conv2d(inputs, out, 1, bias=bias) if inputs != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.expand(self.pool(x))


class MBConv(nn.Module):
    """Inverted bottleneck with squeeze-excite, norm first."""

    def __init__(self, inputs: int, out: int, stride: int, expand: int, lay: MaxVitLayout) -> None:
        super().__init__()
        middle = expand * (out if lay.from_out else inputs)
        self.shortcut = Shortcut(inputs, out, lay.output_bias) if stride == 2 else nn.Identity()
        self.pre_norm = nn.BatchNorm2d(inputs, lay.bn_eps)
        self.conv1_1x1 = nn.Conv2d(inputs, middle, 1, bias=False)
        self.norm1 = NormAct(middle, lay.bn_eps, lay.act_conv)
        self.conv2_kxk = convolution(middle, middle, 3, stride, middle, False, lay.same)
        self.norm2 = NormAct(middle, lay.bn_eps, lay.act_conv)
        squeezed = int(lay.se * (out if lay.from_out else middle))
        self.se = SqueezeExcite(middle, squeezed, lay.se_act)
        self.conv3_1x1 = nn.Conv2d(middle, out, 1, bias=lay.output_bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(self.conv1_1x1(self.pre_norm(x)))
        y = self.se(self.norm2(self.conv2_kxk(y)))
        return self.conv3_1x1(y) + self.shortcut(x)


class Stem(nn.Module):
    """Two 3 x 3 convolutions to half the size."""

    def __init__(self, in_channels: int, widths: Sequence[int], lay: MaxVitLayout) -> None:
        super().__init__()
        self.conv1 = convolution(in_channels, widths[0], 3, 2, 1, lay.stem_bias, lay.same)
        self.norm1 = NormAct(widths[0], lay.bn_eps, lay.act_conv)
        self.conv2 = convolution(widths[0], widths[1], 3, 1, 1, lay.stem_bias, lay.same)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.norm1(self.conv1(x)))
