"""BiFormer in its refactored layout, channels first (`biformer_stl_nchw`)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.attention import attention
from ..kernels.routed import routed_attention
from ..kernels.windows import Window
from ..probe.errors import OptionError
from ..probe.mark import mark
from .biformer import CROP, PAPER, SHARE, init_linear, padded_up
from .card import Card, Source
from .checkpointing import Checkpointing
from .norms import ChannelNorm
from .registry import model


class RoutedAttention(nn.Module):
    """Routed attention on `b c y x`; regions of side // n_win, zeros where the map ends early."""

    def __init__(self, dim: int, num_heads: int, n_win: int, topk: int, side: int) -> None:
        super().__init__()
        self.num_heads, self.n_win, self.topk, self.scale = num_heads, n_win, topk, dim**-0.5
        self.lepe = nn.Conv2d(dim, dim, side, padding=side // 2, groups=dim)
        self.qkv_linear = nn.Conv2d(dim, 3 * dim, 1)
        self.output_linear = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        region = (max(height // self.n_win, 1), max(width // self.n_win, 1))
        q, k, v = self.qkv_linear(x).chunk(3, 1)
        index = self._route(q.detach(), k.detach(), region)
        grid = (padded_up(height, region[0]), padded_up(width, region[1]))
        rest = (0, grid[1] - width, 0, grid[0] - height)
        tokens = [self._heads(F.pad(part, rest)) for part in (q, k, v)]
        out = routed_attention(
            *tokens, index, scale=self.scale, window=Window("block", region, grid)
        )
        out = out.transpose(2, 3).flatten(1, 2).unflatten(2, grid)[:, :, :height, :width]
        return self.output_linear(out + mark("lepe", self.lepe(v)))

    def _route(self, q: Tensor, k: Tensor, region: tuple[int, int]) -> Tensor:
        means = [
            F.avg_pool2d(part, region, ceil_mode=True, count_include_pad=False).flatten(2)
            for part in (q, k)
        ]
        affinity = mark("affinity", means[0].transpose(1, 2) @ means[1])
        best, index = affinity.topk(min(self.topk, affinity.shape[-1]), -1)
        mark("routing", best.softmax(-1))
        return index

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.num_heads, -1)).flatten(3).transpose(2, 3)


class FullAttention(nn.Module):
    """Attention over all places of `b c y x`, with a side convolution of v."""

    def __init__(self, dim: int, num_heads: int, side: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, bias=False)
        self.proj = nn.Conv2d(dim, dim, 1)
        self.lepe = nn.Conv2d(dim, dim, side, padding=side // 2, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        grid = (x.shape[2], x.shape[3])
        q, k, v = self.qkv(x).chunk(3, 1)
        lepe = mark("lepe", self.lepe(v))
        heads = [
            part.unflatten(1, (self.num_heads, -1)).flatten(3).transpose(2, 3) for part in (q, k, v)
        ]
        out = attention(*heads).transpose(2, 3).flatten(1, 2).unflatten(2, grid)
        return self.proj(out + lepe)


class Block(nn.Module):
    """Pre-norm residual block on `b c y x`."""

    def __init__(self, dim: int, attn: nn.Module, mlp_ratio: float, eps: float) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(dim, eps)
        self.attn = attn
        self.norm2 = ChannelNorm(dim, eps)
        hidden = int(dim * mlp_ratio)
        self.mlp = nn.Sequential(nn.Conv2d(dim, hidden, 1), nn.GELU(), nn.Conv2d(hidden, dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Stage(nn.Module):
    """Blocks of one width."""

    def __init__(self, blocks: list[Block]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)


class BiFormerNCHW(Checkpointing, nn.Module):
    """Patches of 4, then stages between merges of 2 x 2; any input size."""

    def __init__(
        self, stages: list[Stage], dims: Sequence[int], in_channels: int, num_classes: int
    ) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(in_channels, dims[0], 4, 4), nn.BatchNorm2d(dims[0]))
        merges = [
            nn.Sequential(nn.BatchNorm2d(a), nn.Conv2d(a, b, 2, 2)) for a, b in pairwise(dims)
        ]
        self.downsample_layers = nn.ModuleList([stem, *merges])
        self.stages = nn.ModuleList(stages)
        self.norm = nn.BatchNorm2d(dims[-1])
        self.head = nn.Linear(dims[-1], num_classes) if num_classes else nn.Identity()
        init_linear(self)

    def forward(self, x: Tensor) -> Tensor:
        for merge, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = merge(x)
            for block in stage.blocks:  # type: ignore[union-attr]
                x = self.through(block, x)
        return self.head(self.norm(x).mean((2, 3)))


def biformer_nchw(
    *,
    in_channels: int = 3,
    depth: Sequence[int] = (2, 2, 6, 2),
    embed_dim: Sequence[int] = (96, 192, 384, 768),
    mlp_ratios: Sequence[float] = (4, 4, 4, 4),
    head_dim: int = 32,
    num_heads: int = 8,
    n_wins: Sequence[int] = (7, 7, 7, 7),
    topks: Sequence[int] = (1, 4, 16, -1),
    side_dwconv: int = 5,
    norm_eps: float = 1e-6,
    num_classes: int = 1000,
) -> BiFormerNCHW:
    """A BiFormer, channels first; topks: regions seen, -1 full attention with a side convolution.

    num_heads   of full attention; routed attention has heads of head_dim
    """
    lengths = {len(one) for one in (depth, embed_dim, mlp_ratios, n_wins, topks)}
    if len(lengths) != 1 or 0 in topks:
        raise OptionError(
            f"depth={list(depth)}, embed_dim={list(embed_dim)}, n_wins={list(n_wins)} and "
            f"topks={list(topks)} must name the same stages, with topks other than 0"
        )
    stages = []
    for s, dim in enumerate(embed_dim):
        blocks = []
        for _ in range(depth[s]):
            attn: nn.Module = (
                RoutedAttention(dim, dim // head_dim, n_wins[s], topks[s], side_dwconv)
                if topks[s] > 0
                else FullAttention(dim, num_heads, side_dwconv)
            )
            blocks.append(Block(dim, attn, mlp_ratios[s], norm_eps))
        stages.append(Stage(blocks))
    return BiFormerNCHW(stages, embed_dim, in_channels, num_classes)


CARD = Card(
    "biformer_stl_nchw",
    PAPER,
    hidden=("stages.*.blocks.*",),
    heads=("stages.*.blocks.*.attn",),
    weights={"imagenet": Source(SHARE.format("s!AkBbczdRlZvChWYrKbWbMgqd2Ai0"), key="model")},
    about="ImageNet top-1 82.7 %",
    **CROP,  # type: ignore[arg-type]
)
model("biformer_stl_nchw", card=CARD)(biformer_nchw)
