"""The blocks of MOAT (arXiv 2210.01820): an inverted bottleneck, and one with attention behind."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ....kernels.attention import attention
from ....kernels.windows import Window
from ....probe.errors import ModelError
from ....probe.mark import mark
from ...layers import (
    NormAct,
    SameAvgPool2d,
    SameConv2d,
    SqueezeExcite,
    dropped,
    offset_bias,
    resize_offsets,
)
from .stages import Stage


class Attention(nn.Module):
    """Attention within windows of `b y x c`, or over the whole map, with a relative bias.

    The table of the bias is resized to the window: port `position_bias`, `h 2y-1 2x-1`, the
    middle is the query's own place, below and to the right of it are keys below and to the right.
    """

    def __init__(self, stage: Stage, window: tuple[int, int] | None) -> None:
        super().__init__()
        dim, side = stage.hidden_size, stage.position_embedding_size
        self.num_heads, self.window = dim // stage.head_size, window
        self.relative_position_embedding: nn.Parameter | None = None
        if stage.relative_position_embedding_type is not None and side is not None:
            table = torch.empty(self.num_heads, 2 * side - 1, 2 * side - 1)
            self.relative_position_embedding = nn.Parameter(nn.init.normal_(table, std=0.02))
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        grid = (x.shape[1], x.shape[2])
        size = self.window or grid
        if any(side % part for side, part in zip(grid, size, strict=True)):
            raise ModelError(
                f"a map of {grid[0]} x {grid[1]} does not divide into windows of {size[0]} x "
                f"{size[1]}: give a picture whose map does, or another window_size"
            )
        q, k, v = (
            layer(x).flatten(1, 2).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        window = None if size == grid else Window("block", size, grid)
        out = attention(q, k, v, bias=self.bias(size, x), window=window)
        return self.o(out.transpose(1, 2).flatten(2)).unflatten(1, grid)

    def bias(self, size: tuple[int, int], like: Tensor) -> Tensor | None:
        """What is added to the scores of a window of `size`, `h q k`."""
        if self.relative_position_embedding is None:
            return None
        table = resize_offsets(self.relative_position_embedding, size).to(like.dtype)
        return offset_bias(mark("position_bias", table))


class MBConvBlock(nn.Module):
    """shortcut(x) + shrink(gate(act(norm(depthwise(act(norm(expand(norm(x)))))))); `b c y x`.

    The gate is a squeeze-excite where there is a ratio; drop is the share of samples whose branch
    is left out in training.
    """

    def __init__(
        self,
        stage: Stage,
        inputs: int,
        stride: int,
        *,
        se_ratio: float | None,
        drop: float,
        act: str,
        bn_eps: float,
    ) -> None:
        super().__init__()
        out, self.drop = stage.hidden_size, drop
        middle = out * stage.expansion_rate
        self.shortcut_pool = SameAvgPool2d(stage.pool_size, stride) if stride > 1 else nn.Identity()
        self.shortcut_conv = nn.Conv2d(inputs, out, 1) if inputs != out else nn.Identity()
        self.pre_norm = nn.BatchNorm2d(inputs, bn_eps)
        self.expand_conv = nn.Conv2d(inputs, middle, 1, bias=False)
        self.expand_norm = NormAct(middle, bn_eps, act)
        self.depthwise_conv = SameConv2d(middle, middle, 3, stride, groups=middle, bias=False)
        self.depthwise_norm = NormAct(middle, bn_eps, act)
        self.se: nn.Module = nn.Identity()
        if se_ratio is not None:
            squeezed = max(1, int(out * se_ratio))
            names = ("reduce_conv2d", "expand_conv2d")
            self.se = SqueezeExcite(middle, squeezed, "silu", names=names)
        self.shrink_conv = nn.Conv2d(middle, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand_norm(self.expand_conv(self.pre_norm(x)))
        y = self.shrink_conv(self.se(self.depthwise_norm(self.depthwise_conv(y))))
        return self.shortcut_conv(self.shortcut_pool(x)) + dropped(y, self.drop, self.training)


class MOATBlock(MBConvBlock):
    """The inverted bottleneck without a gate, then y + attention(norm(y)); there is no MLP."""

    def __init__(
        self,
        stage: Stage,
        inputs: int,
        stride: int,
        *,
        window: tuple[int, int] | None,
        drop: float,
        act: str,
        bn_eps: float,
        ln_eps: float,
    ) -> None:
        super().__init__(stage, inputs, stride, se_ratio=None, drop=drop, act=act, bn_eps=bn_eps)
        self.attention_norm = nn.LayerNorm(stage.hidden_size, ln_eps)
        self.attention = Attention(stage, window)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        mixed = self.attention(self.attention_norm(y.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return y + dropped(mixed, self.drop, self.training)
