"""Convolutions: with their norm and activation, and with the padding that TensorFlow calls same."""

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
