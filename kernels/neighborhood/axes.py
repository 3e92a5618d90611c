"""Which keys a query sees in neighbourhood attention, axis by axis (arXiv 2504.16922)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import KernelError

Ints = int | Sequence[int]


@dataclass(frozen=True)
class Axis:
    """One axis: `length` tokens, windows of `kernel` keys, shared by `stride` queries.

    Dilation splits the axis in groups of every `dilation`-th token; a query sees its own group.
    Windows keep their size at the borders. Causal ones end at the query.
    """

    length: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    causal: bool = False

    def __post_init__(self) -> None:
        if self.kernel < 2 or self.kernel * self.dilation > self.length:
            raise KernelError(
                f"a window of {self.kernel} keys with dilation {self.dilation} does not fit an "
                f"axis of {self.length} tokens: give 2 to {self.length // max(self.dilation, 1)}"
            )
        if not 1 <= self.stride <= self.kernel or self.dilation < 1:
            raise KernelError(
                f"stride {self.stride} must lie between 1 and the window, {self.kernel}, and "
                f"dilation {self.dilation} be at least 1"
            )

    def windows(self) -> tuple[Tensor, Tensor]:
        """First key and end of each token's window, counted in its own dilation group."""
        token = torch.arange(self.length)
        place, group = token // self.dilation, token % self.dilation
        size = (self.length - group + self.dilation - 1) // self.dilation
        left, right = self.kernel // 2, self.kernel // 2 + self.kernel % 2 - 1
        tile = place // self.stride * self.stride
        if self.causal:
            leader = torch.minimum(tile + self.stride - 1, size - 1)
            return (leader - self.kernel + 1).clamp(min=0), place + 1
        leader = torch.minimum(tile + self.stride // 2, size - 1)
        start = (leader - left).clamp(min=0)
        start = torch.where(leader + right >= size, size - self.kernel, start)
        return start, start + self.kernel

    def keys(self) -> Tensor:
        """The keys of each token, `length kernel`; -1 where it sees fewer."""
        start, end = self.windows()
        place = start[:, None] + torch.arange(self.kernel)
        token = place * self.dilation + (torch.arange(self.length) % self.dilation)[:, None]
        return torch.where(place < end[:, None], token, -1)


def span(kernel: int, stride: int, causal: bool, block: int) -> int:
    """At most so many keys lie between the windows of a tile: `block` places from a multiple on."""
    if stride % block == 0:
        return kernel
    if block % stride == 0:
        return kernel + block - stride
    return kernel + (block - 1 if causal else -(-(block - 1) // stride) * stride)


def axes_of(
    grid: Sequence[int],
    kernel_size: Ints,
    stride: Ints = 1,
    dilation: Ints = 1,
    causal: bool | Sequence[bool] = False,
) -> tuple[Axis, ...]:
    """The axes of a grid; each option once for all axes, or once for each."""
    count = len(grid)
    if not 1 <= count <= 3:
        raise KernelError(f"neighbourhoods have 1 to 3 axes, not {count}: {tuple(grid)}")

    def spread(name: str, value: Ints) -> list[int]:
        if isinstance(value, int):
            return [value] * count
        if len(value) != count:
            raise KernelError(f"{name}={value} needs one entry for each of {count} axes")
        return list(value)

    k, s = spread("kernel_size", kernel_size), spread("stride", stride)
    d, c = spread("dilation", dilation), spread("causal", causal)
    return tuple([Axis(n, k[i], s[i], d[i], bool(c[i])) for i, n in enumerate(grid)])


def neighbors(axes: Sequence[Axis]) -> Tensor:
    """The keys of each query in raster order, `n k`; -1 where it sees fewer."""
    table = axes[0].keys()
    for axis in axes[1:]:
        keys = axis.keys()
        joint = table[:, None, :, None] * axis.length + keys[None, :, None, :]
        joint = torch.where((table[:, None, :, None] < 0) | (keys[None, :, None, :] < 0), -1, joint)
        table = joint.flatten(2).flatten(0, 1)
    return table


def visible(axes: Sequence[Axis]) -> Tensor:
    """Whether a query sees a key, `n n`."""
    seen = torch.ones(1, 1, dtype=torch.bool)
    for axis in axes:
        along = torch.zeros(axis.length, axis.length + 1, dtype=torch.bool)
        along.scatter_(1, axis.keys() % (axis.length + 1), True)
        size = len(seen) * axis.length
        seen = (seen[:, None, :, None] & along[None, :, None, :-1]).reshape(size, size)
    return seen
