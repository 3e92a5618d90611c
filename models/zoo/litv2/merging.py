"""Deformable token merging: 2 x 2 tokens become one, each read where its offset points."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....kernels.shared import wide
from ....probe.mark import mark


class DeformableConv(nn.Module):
    """A 2 x 2 convolution of stride 2 whose taps read beside their places (arXiv 1703.06211).

    The taps of such a convolution do not overlap, so that every place of the map is one tap of one
    result: out = conv(sampled), sampled[y, x] = map[y + dy, x + dx] by bilinear interpolation, 0
    outside.

    Ports: `offset` is `b 2 y x`, dy and dx in places of the map; `sampled` is the map as read.
    """

    kernel = 2

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        taps = self.kernel**2
        self.weight = nn.Parameter(torch.empty(out, dim, self.kernel, self.kernel))
        self.bias = nn.Parameter(torch.empty(out))
        self.conv_offset = nn.Conv2d(dim, 2 * taps, self.kernel, self.kernel)
        limit = (dim * taps) ** -0.5
        nn.init.uniform_(self.weight, -limit, limit)
        for start in (self.bias, self.conv_offset.weight, self.conv_offset.bias):
            if start is not None:
                nn.init.zeros_(start)

    def forward(self, x: Tensor) -> Tensor:
        by_tap = self.conv_offset(x).unflatten(1, (-1, 2))  # b (i j) (dy dx) y x
        offset = F.pixel_shuffle(by_tap.transpose(1, 2).flatten(1, 2), self.kernel)
        sampled = mark("sampled", displaced(x, mark("offset", offset)))
        return F.conv2d(sampled, self.weight, self.bias, self.kernel)


def displaced(x: Tensor, offset: Tensor) -> Tensor:
    """x[y + dy, x + dx] by bilinear interpolation, corners outside counting 0, in float32.

    x: b c y x; offset: b 2 y x, dy then dx, which may cover less than the map.
    """
    height, width = x.shape[2:]
    dy, dx = wide(offset).unbind(1)
    rows = torch.arange(dy.shape[1], dtype=dy.dtype, device=dy.device)[:, None]
    columns = torch.arange(dy.shape[2], dtype=dy.dtype, device=dy.device)
    across = (columns + dx + 0.5) * (2 / width) - 1
    down = (rows + dy + 0.5) * (2 / height) - 1
    grid = torch.stack([across, down], -1)
    return F.grid_sample(
        wide(x), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    ).to(x.dtype)


class DeformableMerging(nn.Module):
    """A map `b y x c` to `b y/2 x/2 2c`: deformable convolution, batch norm, GELU."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.dconv = DeformableConv(dim, 2 * dim)
        self.norm_layer = nn.BatchNorm2d(2 * dim, eps)
        self.act_layer = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm_layer(self.dconv(x.permute(0, 3, 1, 2)))
        return self.act_layer(x).permute(0, 2, 3, 1)
