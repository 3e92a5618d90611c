"""A ResNeXt whose first stage holds its pooling, and that takes pictures of one channel."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ...layers import Bottleneck


class ResNeXt(nn.Module):
    """Four stages of bottlenecks, at strides 4, 8, 16 and 32.

    channels  of the four stages
    """

    def __init__(
        self,
        layers: Sequence[int],
        *,
        width: int,
        groups: int,
        width_per_group: int,
        in_channels: int,
        eps: float,
    ) -> None:
        super().__init__()
        self.layer0 = nn.Sequential(
            nn.Conv2d(in_channels, width, 7, 2, 3, bias=False),
            nn.BatchNorm2d(width, eps),
            nn.ReLU(),
        )
        last = width
        for n, count in enumerate(layers):
            out = 4 * (width << n)
            inner = int((width << n) * (width_per_group / 64)) * groups
            shapes = [(last, 2 if n else 1), *[(out, 1)] * (count - 1)]
            blocks = nn.Sequential(*(Bottleneck(i, out, s, inner, groups, eps) for i, s in shapes))
            stage = blocks if n else nn.Sequential(nn.MaxPool2d(3, 2, 1), blocks)
            self.add_module(f"layer{n + 1}", stage)
            last = out
        self.channels = tuple(4 * (width << n) for n in range(len(layers)))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.children():
            x = stage(x)
            maps.append(x)
        return maps[1:]
