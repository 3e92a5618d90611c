"""The residual blocks of HaloNet (arXiv 2103.12731): around a convolution or halo attention."""

from __future__ import annotations

from collections.abc import Callable
from math import log2

from torch import Tensor, nn

from ....probe.mark import mark
from ...layers import ConvNormAct, NormAct, SqueezeExcite, activation
from .attention import HaloAttention


class AverageShortcut(nn.Module):
    """The mean of 2 x 2 where the size halves, then a 1 x 1 convolution and its norm."""

    def __init__(self, inputs: int, out: int, stride: int, eps: float) -> None:
        super().__init__()
        pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)
        self.pool = pool if stride == 2 else nn.Identity()
        self.conv = ConvNormAct(inputs, out, 1, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.pool(x))


class ChannelAttention(nn.Module):
    """ECA: a gate for each channel from its neighbours' means; port `gate`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        size = int(abs(log2(dim) + 1) / 2)
        size = max(size if size % 2 else size + 1, 3)
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.conv(x.mean((2, 3))[:, None]).sigmoid()
        return x * mark("gate", gate.transpose(1, 2)[..., None])


GATES: dict[str, Callable[[int], nn.Module]] = {
    "": lambda dim: nn.Identity(),
    "se": SqueezeExcite,
    "eca": ChannelAttention,
}


class Block(nn.Module):
    """A bottleneck around a 3 x 3 convolution, or around halo attention."""

    def __init__(
        self,
        inputs: int,
        out: int,
        middle: int,
        stride: int,
        *,
        attn: HaloAttention | None,
        act: str,
        gate: str,
        groups: int,
        average: bool,
        eps: float,
    ) -> None:
        super().__init__()
        self.shortcut: nn.Module = nn.Identity()
        if average and (stride == 2 or inputs != out):
            self.shortcut = AverageShortcut(inputs, out, stride, eps)
        elif stride == 2 or inputs != out:
            self.shortcut = ConvNormAct(inputs, out, 1, stride, eps=eps)
        self.conv1_1x1 = ConvNormAct(inputs, middle, 1, act=act, eps=eps)
        if attn is None:
            self.conv2_kxk = ConvNormAct(middle, middle, 3, stride, act, groups, eps=eps)
            self.attn = GATES[gate](middle)
        else:
            self.self_attn = attn
            self.post_attn = NormAct(middle, eps, act)
        self.conv3_1x1 = ConvNormAct(middle, out, 1, eps=eps)
        self.act = activation(act).module()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1_1x1(x)
        if hasattr(self, "self_attn"):
            y = self.post_attn(self.self_attn(y))
        else:
            y = self.attn(self.conv2_kxk(y))
        return self.act(self.conv3_1x1(y) + self.shortcut(x))
