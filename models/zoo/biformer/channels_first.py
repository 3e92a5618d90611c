"""BiFormer in Swin-Tiny's layout, refactored to channels first (`biformer_stl_nchw`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ....kernels.attention import attention
from ....kernels.routed import routed_attention
from ....kernels.windows import Window
from ....probe.errors import OptionError
from ....probe.mark import mark
from ...layers import ChannelNorm, drop_rates
from ...registry import Variant, register
from .attention import check_heads, depthwise
from .model import ARCHITECTURE, Block, check_stages, published
from .swin_layout import BiFormerSTL, each_stage

FULL_SIDE = 5  # the side convolution of full attention, whatever that of routed attention


class RoutedAttention(nn.Module):
    """Routed attention on `b c y x`; regions of side // n_win, zeros where the map ends early.

    Ports: `affinity` of regions, `routing` weights, the op's `index`, and `lepe`.
    """

    def __init__(
        self, dim: int, num_heads: int, n_win: int, topk: int, side: int, scale: float | None = None
    ) -> None:
        super().__init__()
        self.num_heads, self.n_win, self.topk = num_heads, n_win, topk
        self.scale = scale or dim**-0.5
        self.lepe = depthwise(dim, side)
        self.qkv_linear = nn.Conv2d(dim, 3 * dim, 1)
        self.output_linear = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        region = (max(height // self.n_win, 1), max(width // self.n_win, 1))
        q, k, v = self.qkv_linear(x).chunk(3, 1)
        index = self._route(q.detach(), k.detach(), region)
        rest = (-height % region[0], -width % region[1])
        grid = (height + rest[0], width + rest[1])
        tokens = [
            heads(F.pad(part, (0, rest[1], 0, rest[0])), self.num_heads) for part in (q, k, v)
        ]
        window = Window("block", region, grid)
        out = routed_attention(*tokens, index, scale=self.scale, window=window)
        out = out.transpose(2, 3).flatten(1, 2).unflatten(2, grid)[:, :, :height, :width]
        return self.output_linear(plus_side(out, self.lepe, v))

    def _route(self, q: Tensor, k: Tensor, region: tuple[int, int]) -> Tensor:
        """The regions whose mean key fits each region's mean query best, `b R t`."""
        means = [
            F.avg_pool2d(part, region, ceil_mode=True, count_include_pad=False).flatten(2)
            for part in (q, k)
        ]
        affinity = mark("affinity", means[0].transpose(1, 2) @ means[1])
        best, index = affinity.topk(min(self.topk, affinity.shape[-1]), -1)
        mark("routing", best.softmax(-1))
        return index


class FullAttention(nn.Module):
    """Attention over all places of `b c y x`, with a side convolution of v."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, bias=False)
        self.proj = nn.Conv2d(dim, dim, 1)
        self.lepe = depthwise(dim, FULL_SIDE)

    def forward(self, x: Tensor) -> Tensor:
        grid = (x.shape[2], x.shape[3])
        q, k, v = self.qkv(x).chunk(3, 1)
        out = attention(*(heads(part, self.num_heads) for part in (q, k, v)))
        out = out.transpose(2, 3).flatten(1, 2).unflatten(2, grid)
        return self.proj(plus_side(out, self.lepe, v))


def heads(x: Tensor, count: int) -> Tensor:
    """`b (h d) y x` -> `b h (y x) d`."""
    return x.unflatten(1, (count, -1)).flatten(3).transpose(2, 3)


def plus_side(out: Tensor, lepe: nn.Module, v: Tensor) -> Tensor:
    """out + a side convolution of v, where there is one."""
    return out if isinstance(lepe, nn.Identity) else out + mark("lepe", lepe(v))


def biformer_nchw(
    *,
    in_channels: int = 3,
    depth: Sequence[int] = (2, 2, 6, 2),
    embed_dim: Sequence[int] = (96, 192, 384, 768),
    mlp_ratios: Sequence[float] = (4, 4, 4, 4),
    head_dim: int = 32,
    num_heads: int = 8,
    qk_scale: float | None = None,
    n_wins: int | Sequence[int] = (7, 7, 7, 7),
    topks: Sequence[int] = (1, 4, 16, -1),
    side_dwconv: int = 5,
    norm_eps: float = 1e-6,
    drop_path: float = 0.0,
    num_classes: int = 1000,
) -> BiFormerSTL:
    """A BiFormer, channels first, for pictures of any size.

    topks        regions that each region attends to, -1 full attention with a side convolution
    head_dim     of routed attention; num_heads is of full attention
    side_dwconv  beside routed attention; beside full attention it is 5 always
    n_wins       regions a side, for each stage or for all; more where a map's side does not divide
    """
    n_wins = each_stage(n_wins, depth)
    check_stages(
        depth=depth, embed_dim=embed_dim, mlp_ratios=mlp_ratios, topks=topks, n_wins=n_wins
    )
    if any(topk == 0 or topk < -1 for topk in topks):
        raise OptionError(f"topks={list(topks)} must be numbers of regions, or -1 for all places")
    drops = drop_rates(drop_path, depth)

    def block(s: int) -> Block:
        dim, routed = embed_dim[s], topks[s] > 0
        count = dim // head_dim if routed else num_heads
        check_heads(dim, count, dim)
        attn = (
            RoutedAttention(dim, count, n_wins[s], topks[s], side_dwconv, qk_scale)
            if routed
            else FullAttention(dim, count)
        )
        hidden = int(dim * mlp_ratios[s])
        mlp = nn.Sequential(nn.Conv2d(dim, hidden, 1), nn.GELU(), nn.Conv2d(hidden, dim, 1))
        return Block(dim, attn, mlp, ChannelNorm, eps=norm_eps, drop=next(drops))

    stages = [[block(s) for _ in range(count)] for s, count in enumerate(depth)]
    return BiFormerSTL(stages, embed_dim, in_channels, num_classes, last=False)


SITES = {"hidden": ("stages.*.blocks.*",), "heads": ("stages.*.blocks.*.attn",)}
VARIANTS = (
    Variant(
        "biformer_stl_nchw",
        weights=published("s!AkBbczdRlZvChWYrKbWbMgqd2Ai0"),
        about="ImageNet top-1 82.7 %",
        card=SITES,
    ),
)
register(biformer_nchw, ARCHITECTURE, VARIANTS)
