"""FFNet's residual networks, which return features at four scales, and its blur before them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....probe.errors import OptionError, near
from ...layers import BasicBlock, Bottleneck

BASIC = {
    "18": (2, 2, 2, 2),
    "34": (3, 4, 6, 3),
    "56": (4, 8, 12, 3),
    "86": (8, 12, 16, 6),
    "134": (8, 18, 28, 12),
    "150": (16, 18, 28, 12),
}
BOTTLENECK = {"50": (3, 4, 6, 3), "101": (3, 4, 23, 3)}
SLIM = {
    "22S": (2, 3, 3, 2),
    "30S": (3, 4, 4, 3),
    "40S": (4, 5, 6, 4),
    "54S": (5, 8, 8, 5),
    "78S": (6, 12, 12, 8),
    "86S": (8, 12, 16, 6),
    "150S": (16, 18, 28, 12),
}
NARROW = {"46": (6, 8, 8), "74": (8, 12, 16), "122": (16, 24, 20)}
NAMES = (*BASIC, *BOTTLENECK, *SLIM, *(f"{n}{kind}" for n in NARROW for kind in ("N", "NS")))


@dataclass(frozen=True)
class Plan:
    """What a backbone is made of.

    stem     convolutions before the stages, (number in their names, channels, kernel, stride)
    pool     whether a 3 x 3 maximum with stride 2 follows them
    block    of the stages
    layers   blocks a stage
    dims     channels of the stages, behind their blocks
    strides  of the stages
    """

    stem: tuple[tuple[int | None, int, int, int], ...]
    pool: bool
    block: type[BasicBlock] | type[Bottleneck]
    layers: tuple[int, ...]
    dims: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def features(self) -> tuple[int, ...]:
        """Channels at the four scales; three stages count the stem as one."""
        return self.dims if len(self.dims) == 4 else (self.stem[-1][1], *self.dims)


def plan(name: str, layers: Sequence[int] | None = None) -> Plan:
    """The backbone called `Resnet86S_D`, say; `_D` halves the picture once more.

    layers  blocks a stage, in place of those of the name
    Raises OptionError for an unknown name and for another number of stages.
    """
    found = re.fullmatch(r"(?:resnet\.)?resnet(\d+(?:NS|N|S)?)(_d)?", name, re.IGNORECASE)
    size, deeper = (found[1].upper(), bool(found[2])) if found else ("", False)
    if size not in NAMES or (deeper and "N" in size):
        known = [f"Resnet{n}{d}" for n in NAMES for d in ("", "_D") if not (d and "N" in n)]
        raise OptionError(
            f"backbone={name!r} is unknown{near(name, known)}; there are {', '.join(known)}"
        )
    made = _plan(size, deeper)
    if layers is None:
        return made
    if len(layers) != len(made.layers) or min(layers) < 1:
        raise OptionError(
            f"layers={tuple(layers)} was asked of {name}, which has {len(made.layers)} stages: "
            "give that many numbers from 1"
        )
    return Plan(made.stem, made.pool, made.block, tuple(layers), made.dims, made.strides)


def _plan(size: str, deeper: bool) -> Plan:
    first = 2 if deeper else 1
    if size in SLIM:
        stem = ((0, 32, 3, 2), (1, 64, 3, 2))
        return Plan(stem, False, BasicBlock, SLIM[size], (64, 128, 192, 320), (first, 2, 2, 2))
    if "N" in size:
        small = size.endswith("S")
        widths = (64, 64, 128, 256) if small else (64, 96, 160, 320)
        stem3 = ((0, 64, 3, 2), (1, 64, 3, 2), (2, widths[0], 3, 1))
        narrow = NARROW[size.rstrip("NS")]
        return Plan(stem3, False, BasicBlock, narrow, widths[1:], (2, 2, 2))
    block = BasicBlock if size in BASIC else Bottleneck
    wide = tuple(dim * block.expansion for dim in (64, 128, 256, 512))
    layers = BASIC[size] if size in BASIC else BOTTLENECK[size]
    return Plan(((1, 64, 7, 2),), True, block, layers, wide, (first, 2, 2, 2))


class Backbone(nn.Module):
    """A residual network; returns its features at four scales, fine ones first."""

    def __init__(self, made: Plan, in_channels: int, eps: float) -> None:
        super().__init__()
        self.stem, self.stages, last = [n for n, *_ in made.stem], len(made.layers), in_channels
        for n, out, kernel, stride in made.stem:
            conv = nn.Conv2d(last, out, kernel, stride, kernel // 2, bias=False)
            self.add_module(f"conv{n}", conv)
            self.add_module(f"bn{n}", nn.BatchNorm2d(out, eps))
            self.add_module(f"relu{n}", nn.ReLU())
            last = out
        self.maxpool = nn.MaxPool2d(3, 2, 1) if made.pool else nn.Identity()
        stages = zip(made.layers, made.dims, made.strides, strict=True)
        for n, (count, out, stride) in enumerate(stages, 1):
            inner = out // made.block.expansion
            blocks = [made.block(last, out, stride, inner, 1, eps)]
            blocks += [made.block(out, out, 1, inner, 1, eps) for _ in range(count - 1)]
            self.add_module(f"layer{n}", nn.Sequential(*blocks))
            last = out

    def forward(self, x: Tensor) -> list[Tensor]:
        for n in self.stem:
            parts = (self.get_submodule(f"{part}{n}") for part in ("conv", "bn", "relu"))
            for part in parts:
                x = part(x)
        x = self.maxpool(x)
        found = [x] if self.stages == 3 else []
        for n in range(1, self.stages + 1):
            found.append(x := self.get_submodule(f"layer{n}")(x))
        return found


class Smoothing(nn.Module):
    """A Gaussian of 5 x 5, sigma .7, at every other pixel; rows are reflected, columns are cut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        line = torch.tensor([0.00967746, 0.20539965, 0.56984578, 0.20539965, 0.00967746])
        kernel = torch.outer(line, line).expand(channels, 1, 5, 5)
        self.register_buffer("weight", kernel.clone())

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (0, 0, 1, 1), mode="reflect")
        return F.conv2d(padded, self.get_buffer("weight"), stride=2, groups=x.shape[1])
