"""Attention of MaxViT (arXiv 2204.01697) in tiles and over a dilated grid, with relative bias."""

from __future__ import annotations

from collections import OrderedDict
from math import isqrt

import torch
from torch import Tensor, nn

from ....kernels.attention import attention
from ....kernels.windows import Window
from ....probe.errors import ModelError
from ...layers import LayerScale, Mlp, offset_bias, resize_offsets
from .layout import MaxVitLayout


class RelativeBias(nn.Module):
    """A learned bias for each offset in a window, key minus query or the reverse; `h q k`."""

    def __init__(self, size: tuple[int, int], num_heads: int, signed: bool) -> None:
        super().__init__()
        self.signed, self.size = signed, size
        self.shape = (num_heads, 2 * size[0] - 1, 2 * size[1] - 1)
        flat = (self.shape[1] * self.shape[2], num_heads)
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros(self.shape if signed else flat)
        )
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self) -> Tensor:
        table = self.relative_position_bias_table
        return offset_bias(
            table if self.signed else table.T.unflatten(1, self.shape[1:]).flip(1, 2)
        )

    def resized(self, table: Tensor) -> Tensor:
        """A table of another window at this one's size; a flat one must come from a square."""
        now = self.relative_position_bias_table
        if table.shape == now.shape or table.ndim != now.ndim:
            return table
        side = isqrt(len(table))
        if not self.signed and side * side != len(table):
            return table
        plane = table if self.signed else table.T.unflatten(1, (side, side))
        if len(plane) != self.shape[0]:
            return table
        grown = resize_offsets(plane, self.size)
        return grown if self.signed else grown.flatten(1).T


class RelativeMlp(nn.Module):
    """A bias for each offset, query minus key, by an MLP on sign(o) ln(1 + |o|); `h q k`."""

    def __init__(self, size: tuple[int, int], num_heads: int, hidden: int = 512) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            OrderedDict(
                fc1=nn.Linear(2, hidden),
                act=nn.ReLU(),
                drop=nn.Dropout(0.125),
                fc2=nn.Linear(hidden, num_heads),
            )
        )
        self.shape = (2 * size[0] - 1, 2 * size[1] - 1)
        places = torch.cartesian_prod(*(torch.arange(1.0 - side, side) for side in size))
        self.register_buffer("places", places.sign() * places.abs().log1p(), persistent=False)

    def forward(self) -> Tensor:
        return offset_bias(self.mlp(self.places).T.unflatten(1, self.shape).flip(1, 2))


class PartitionAttention(nn.Module):
    """Attention within the parts of a partition of `b y x c`, with relative bias."""

    def __init__(
        self, dim: int, dim_head: int, kind: str, size: tuple[int, int], lay: MaxVitLayout
    ) -> None:
        super().__init__()
        self.num_heads, self.kind, self.size = dim // dim_head, kind, size
        self.head_first = lay.head_first
        self.qkv = nn.Linear(dim, 3 * dim)
        self.rel_pos: nn.Module
        if lay.rel_pos == "mlp":
            self.rel_pos = RelativeMlp(size, self.num_heads)
        else:
            self.rel_pos = RelativeBias(size, self.num_heads, lay.rel_pos == "tf")
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        grid = (x.shape[1], x.shape[2])
        if any(side % part for side, part in zip(grid, self.size, strict=True)):
            raise ModelError(
                f"a map of {grid[0]} x {grid[1]} does not divide into windows of "
                f"{self.size[0]} x {self.size[1]}: build the model for this img_size"
            )
        qkv = self.qkv(x.flatten(1, 2))
        if self.head_first:
            q, k, v = qkv.unflatten(2, (self.num_heads, -1)).transpose(1, 2).chunk(3, -1)
        else:
            q, k, v = qkv.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        window = Window(self.kind, self.size, grid)  # type: ignore[arg-type]
        out = attention(q, k, v, bias=self.rel_pos(), window=window)
        return self.proj(out.transpose(1, 2).flatten(2).unflatten(1, grid))


class AttentionBlock(nn.Module):
    """Pre-norm attention and MLP on `b y x c`."""

    def __init__(
        self,
        dim: int,
        dim_head: int,
        kind: str,
        size: tuple[int, int],
        mlp: float,
        lay: MaxVitLayout,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, lay.ln_eps)
        self.attn = PartitionAttention(dim, dim_head, kind, size, lay)
        self.ls1 = LayerScale(dim, lay.layer_scale) if lay.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, lay.ln_eps)
        self.mlp = Mlp(dim, int(dim * mlp), lay.act_tfm)
        self.ls2 = LayerScale(dim, lay.layer_scale) if lay.layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))
