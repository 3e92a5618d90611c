"""Convolutions: with norm and activation, in residual blocks, with TensorFlow's padding."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .norms import NormAct


class ConvNormAct(nn.Module):
    """Convolution, batch norm, activation."""

    def __init__(
        self,
        inputs: int,
        out: int,
        kernel: int,
        stride: int = 1,
        act: str = "",
        groups: int = 1,
        *,
        eps: float,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = NormAct(out, eps, act)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, width: int, out: int, stride: int, inner: int, groups: int, eps: float):
        super().__init__()
        self.conv1 = nn.Conv2d(width, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out, eps)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out, eps)
        self.downsample = shortcut(width, out, stride, eps)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 beside a shortcut; the output is four times as wide as the stage."""

    expansion = 4

    def __init__(self, width: int, out: int, stride: int, inner: int, groups: int, eps: float):
        super().__init__()
        self.conv1 = nn.Conv2d(width, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner, eps)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner, eps)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(inner, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out, eps)
        self.downsample = shortcut(width, out, stride, eps)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


def shortcut(width: int, out: int, stride: int, eps: float) -> nn.Sequential | None:
    """A projection where the shape changes, else None for the identity."""
    if stride == 1 and width == out:
        return None
    return nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out, eps))


def same_pads(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Places before and after one axis: max((ceil(size / stride) - 1) stride + kernel - size, 0).

    The smaller half comes first.
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class SameConv2d(nn.Conv2d):
    """A convolution to ceil(size / stride) pixels; the odd pad goes right and below."""

    def forward(self, x: Tensor) -> Tensor:
        sides = zip(x.shape[-2:], self.kernel_size, self.stride, strict=True)
        (top, bottom), (left, right) = (same_pads(*side) for side in sides)
        if (top, left) == (bottom, right):
            pad = (top, left)
        else:
            x, pad = F.pad(x, (left, right, top, bottom)), (0, 0)
        return F.conv2d(x, self.weight, self.bias, self.stride, pad, self.dilation, self.groups)


class SameAvgPool2d(nn.Module):
    """The mean of kernel x kernel at ceil(size / stride) places; padding is not counted.

    The stride is above one.
    """

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        top, left = (same_pads(side, self.kernel, self.stride)[0] for side in x.shape[-2:])
        return F.avg_pool2d(
            x, self.kernel, self.stride, (top, left), ceil_mode=True, count_include_pad=False
        )
