"""The parts of FFNet: convolutions with their norms, token mixers, channel mixers, blocks."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from ....probe.errors import OptionError
from ....probe.mark import mark
from ...layers import SqueezeExcite, activation, divisible, dropped

LARGE = 7  # kernels of this side have a small branch beside them


class ConvNorm(nn.Sequential):
    """A convolution `c` without bias and its batch norm `bn`."""

    c: nn.Conv2d
    bn: nn.BatchNorm2d

    def __init__(
        self, inputs: int, out: int, kernel: int, stride: int = 1, groups: int = 1, *, eps: float
    ) -> None:
        conv = nn.Conv2d(inputs, out, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(OrderedDict(c=conv, bn=nn.BatchNorm2d(out, eps)))


class NormConv(nn.Sequential):
    """A batch norm `bn` and a 1 x 1 convolution `c` without bias."""

    bn: nn.BatchNorm2d
    c: nn.Conv2d

    def __init__(self, dim: int, eps: float) -> None:
        conv = nn.Conv2d(dim, dim, 1, bias=False)
        super().__init__(OrderedDict(bn=nn.BatchNorm2d(dim, eps), c=conv))


class TwoKernels(nn.Module):
    """The sum of a large depthwise convolution `conv` and one of half its side, `conv1`."""

    def __init__(self, inputs: int, out: int, kernel: int, stride: int = 1, *, eps: float) -> None:
        super().__init__()
        self.conv = ConvNorm(inputs, out, kernel, stride, inputs, eps=eps)
        self.conv1 = ConvNorm(inputs, out, kernel // 2, stride, inputs, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.conv1(x)


class NormedSkip(nn.Module):
    """x + W norm(x) at each place."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.conv = NormConv(dim, eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + x


class PatchMerging(nn.Module):
    """Half as many rows and columns: a depthwise 7 x 7 that widens, then a mixture of channels."""

    def __init__(self, dim: int, out: int, eps: float) -> None:
        super().__init__()
        self.proj = nn.Sequential(TwoKernels(dim, out, LARGE, 2, eps=eps), NormedSkip(out, eps))

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


def depthwise(dim: int, kernel: int, *, normed: bool, eps: float) -> nn.Module:
    """A depthwise convolution: of two kernels where it is large, else normed, or biased."""
    if kernel < 1 or kernel % 2 == 0:
        raise OptionError(f"a kernel of side {kernel} has no middle: give an odd side, 3 or 7")
    if kernel == LARGE:
        return TwoKernels(dim, dim, kernel, eps=eps)
    if normed:
        return ConvNorm(dim, dim, kernel, groups=dim, eps=eps)
    return nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)


class TokenMixer(nn.Module):
    """Attention as a feed-forward network: V * act(K * q), q = norm(W x), * a convolution.

    The keys K and the values V are depthwise kernels. Ports: `query` is q, `coefficient` the
    activated answer of the keys, which weighs the values; `b c y x`.
    """

    def __init__(self, dim: int, keys: int, values: int, act: str, eps: float) -> None:
        super().__init__()
        self.fc = ConvNorm(dim, dim, 1, eps=eps)
        self.conv1 = depthwise(dim, keys, normed=False, eps=eps)
        self.act = activation(act).module()
        self.conv2 = depthwise(dim, values, normed=False, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        query = mark("query", self.fc(x))
        return self.conv2(mark("coefficient", self.act(self.conv1(query))))


class ChannelMixer(nn.Module):
    """A depthwise convolution, then an MLP over the channels of each place."""

    def __init__(self, dim: int, kernel: int, hidden: int, act: str, eps: float) -> None:
        super().__init__()
        self.conv = depthwise(dim, kernel, normed=True, eps=eps)
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.act = activation(act).module()
        self.fc2 = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(self.conv(x))))


class Residual(nn.Module):
    """x + scale main(x), the scale one number a channel or none."""

    def __init__(self, main: nn.Module, dim: int, scale: float | None, drop: float) -> None:
        super().__init__()
        self.main, self.drop = main, drop
        start = None if scale is None else nn.Parameter(torch.full((dim, 1, 1), float(scale)))
        self.layer_scale = start

    def forward(self, x: Tensor) -> Tensor:
        y = self.main(x)
        y = y if self.layer_scale is None else y * self.layer_scale
        return x + dropped(y, self.drop, self.training)


class Block(nn.Module):
    """A token mixer, its channels gated by their means where that is asked, a channel mixer."""

    def __init__(
        self,
        tokens: TokenMixer,
        channels: ChannelMixer,
        dim: int,
        *,
        squeeze: bool,
        scale: float | None,
        drop: float,
    ) -> None:
        super().__init__()
        gate = SqueezeExcite(dim, divisible(dim / 4, least=0.0)) if squeeze else nn.Identity()
        self.token_mixer = nn.Sequential(Residual(tokens, dim, scale, drop), gate)
        self.channel_mixer = Residual(channels, dim, scale, drop)

    def forward(self, x: Tensor) -> Tensor:
        return self.channel_mixer(self.token_mixer(x))
