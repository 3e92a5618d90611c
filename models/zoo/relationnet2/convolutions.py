"""Convolutions as the detector stacks them: with group norm or a bias, then ReLU."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor, nn

from ....probe.errors import OptionError


@dataclass(frozen=True)
class Norm:
    """Group norm: so many groups, and what is added to the variance."""

    groups: int = 32
    eps: float = 1e-5


def norm_in(words: str | None, channels: int) -> Norm | None:
    """What a norm is called, as `GroupNorm 32 groups, eps 1e-5`; None and "" for none.

    Raises OptionError for other words, and where groups do not divide the channels.
    """
    if not words:
        return None
    found = re.fullmatch(r"GroupNorm (\d+) groups, eps ([\d.e+-]+)", words)
    if found is None:
        raise OptionError(
            f"norm={words!r} is not known: write 'GroupNorm 32 groups, eps 1e-5', or None for none"
        )
    norm = Norm(int(found[1]), float(found[2]))
    if norm.groups < 1 or channels % norm.groups:
        raise OptionError(
            f"norm={words!r} was asked for {channels} channels, which do not divide into "
            f"{norm.groups} groups: give a divisor"
        )
    return norm


class ConvModule(nn.Module):
    """A convolution `conv`, group norm `gn` or a bias, and ReLU where `act` asks for it."""

    def __init__(
        self,
        inputs: int,
        out: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        norm: Norm | None,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, out, kernel, stride, kernel // 2, bias=norm is None)
        self.gn = nn.Identity() if norm is None else nn.GroupNorm(norm.groups, out, norm.eps)
        self.act = nn.ReLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.gn(self.conv(x)))


def tower(channels: int, depth: int, norm: Norm | None, last: int = 0) -> nn.Sequential:
    """So many convolutions that keep the width, and a plain one to `last` channels if asked."""
    parts: list[nn.Module] = [ConvModule(channels, channels, norm=norm) for _ in range(depth)]
    if last:
        parts.append(nn.Conv2d(channels, last, 3, 1, 1))
    return nn.Sequential(*parts)
