"""GaRNet's parts: the pyramid of masks, gated attention, residual blocks, lateral connections."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ....probe.errors import OptionError
from ....probe.mark import mark

Over = Literal["sample", "batch"]
EPS = 1e-6  # beside the largest value of a mask


class Gated(NamedTuple):
    """The gate of a block and the two maps it is made of, `b 1 y x`, each from 0 to 1."""

    gate: Tensor
    stroke: Tensor
    surround: Tensor


class GatedAttention(nn.Module):
    """sigmoid(alpha a + beta s), a and s two 7 x 7 convolutions of [mean, maximum, mask].

    Mean and maximum are over channels. Ports `gate`, `stroke` = sigmoid(a), `surround` =
    sigmoid(s), and the `mask` that was read, `b 1 y x`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(0.5))
        self.beta = nn.Parameter(torch.tensor(0.5))
        self.conv = nn.Conv2d(3, 1, 7, padding=3, bias=False)
        self.conv2 = nn.Conv2d(3, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor, box: Tensor) -> Gated:
        pooled = (x.mean(1, keepdim=True), x.amax(1, keepdim=True), mark("mask", box))
        seen = torch.cat(pooled, 1)
        a, s = self.conv(seen), self.conv2(seen)
        gate = mark("gate", (self.alpha * a + self.beta * s).sigmoid())
        return Gated(gate, mark("stroke", a.sigmoid()), mark("surround", s.sigmoid()))


class GatedBlock(nn.Module):
    """relu(gate y + shortcut), y two 3 x 3 convolutions of x; with a stride, half the size.

    The mask has the size of the result, for the gate is applied behind both convolutions. Returns
    the result and its gate.
    """

    def __init__(self, dim: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, out, 3, stride, 1)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1)
        self.relu1, self.relu = nn.ReLU(), nn.ReLU()
        self.att_layer = GatedAttention()
        self.conv3 = None if stride == 1 and dim == out else nn.Conv2d(dim, out, 1, stride)

    def forward(self, x: Tensor, box: Tensor) -> tuple[Tensor, Gated]:
        y = self.conv2(self.relu1(self.conv1(x)))
        gated = self.att_layer(y, box)
        return self.relu(y * gated.gate + (x if self.conv3 is None else self.conv3(x))), gated


class Lateral(nn.Module):
    """1 x 1 to half the channels and two 3 x 3, without activations: a linear map."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        half = dim // 2
        self.model = nn.Sequential(
            nn.Conv2d(dim, half, 1),
            nn.Conv2d(half, half, 3, 1, 1),
            nn.Conv2d(half, half, 3, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def lateral(dim: int) -> nn.Sequential:
    """A lateral connection, back at `dim` channels."""
    return nn.Sequential(Lateral(dim), nn.Conv2d(dim // 2, dim, 1))


def mean_conv(kernel: int, stride: int, padding: int) -> nn.Conv2d:
    """The mean of kernel x kernel places of a mask, as a convolution that starts out frozen."""
    conv = nn.Conv2d(1, 1, kernel, stride, padding, bias=False)
    constant = torch.full((1, 1, kernel, kernel), 1 / kernel**2)
    conv.weight = nn.Parameter(constant, requires_grad=False)
    return conv


def two_means(stride: int = 1) -> nn.Sequential:
    """Two means over 3 x 3, the first with a stride."""
    return nn.Sequential(mean_conv(3, stride, 1), mean_conv(3, 1, 1))


class MaskBranch(nn.Module):
    """Eight masks `b 1 y x`, ever smoother and smaller, one for each block.

    Each step is divided by its largest value, of each `sample` or of the whole `batch`, where the
    others of a batch then change what is made of one.
    """

    def __init__(self, over: Over = "sample") -> None:
        super().__init__()
        if over not in ("sample", "batch"):
            raise OptionError(
                f"masks are to be divided by the largest value over {over!r}: write 'sample' or "
                "'batch'"
            )
        self.over = over
        self.initial = nn.Sequential(mean_conv(4, 2, 1))
        self.pool = nn.MaxPool2d(2)
        self.layer1_out = two_means()
        for n in (2, 3, 4):
            self.add_module(f"layer{n}_in", two_means())
            self.add_module(f"layer{n}_out", two_means(2))
        self.layer5 = two_means()

    def divided(self, x: Tensor) -> Tensor:
        """x / (max x + 1e-6)."""
        most = x.amax() if self.over == "batch" else x.amax((1, 2, 3), keepdim=True)
        return x / (most + EPS)

    def forward(self, box: Tensor) -> list[Tensor]:
        x = self.divided(self.pool(self.divided(self.initial(box))))
        masks = []
        for step in (self.layer1_out, *self.pairs(), self.layer5):
            masks.append(x := self.divided(step(x)))
        return masks

    def pairs(self) -> list[nn.Module]:
        return [self.get_submodule(f"layer{n}_{end}") for n in (2, 3, 4) for end in ("in", "out")]
