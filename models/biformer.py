"""BiFormer (arXiv 2303.08810): attention routed between regions; the published legacy layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.attention import attention
from ..kernels.routed import routed_attention
from ..kernels.windows import Window
from ..probe.errors import ModelError, OptionError, near
from ..probe.mark import mark
from .card import Card, Source
from .checkpointing import Checkpointing
from .registry import model


class QKV(nn.Module):
    """One linear map to queries, keys and values."""

    def __init__(self, dim: int, keys: int) -> None:
        super().__init__()
        self.keys = keys
        self.qkv = nn.Linear(dim, 2 * keys + dim)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.qkv(x).split([self.keys, self.keys, x.shape[-1]], -1)


class Router(nn.Module):
    """The regions each region attends to: the largest of (q_r scale) k_r', detached."""

    def __init__(self, keys: int, topk: int, scale: float, differentiable: bool, learned: bool):
        super().__init__()
        self.topk, self.scale, self.differentiable = topk, scale, differentiable
        self.emb = nn.Linear(keys, keys) if learned else nn.Identity()

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Region means `b R c` -> weights and indices of the chosen regions, `b R t`."""
        if not self.differentiable:
            q, k = q.detach(), k.detach()
        affinity = mark("affinity", self.emb(q) * self.scale @ self.emb(k).transpose(-1, -2))
        best, index = affinity.topk(self.topk, -1)
        return mark("routing", best.softmax(-1)), index


POOLS: dict[str, Callable[[int, int], nn.Module]] = {
    "identity": lambda size, ratio: nn.Identity(),
    "ada_avgpool": lambda size, ratio: nn.AdaptiveAvgPool2d(size),
    "ada_maxpool": lambda size, ratio: nn.AdaptiveMaxPool2d(size),
    "avgpool": lambda size, ratio: nn.AvgPool2d(ratio) if ratio > 1 else nn.Identity(),
    "maxpool": lambda size, ratio: nn.MaxPool2d(ratio) if ratio > 1 else nn.Identity(),
}


class RoutedAttention(nn.Module):
    """Bi-level routing attention on `b y x c`, with a depthwise convolution of v beside it.

    Ports: `affinity` of regions, `routing` weights, the op's `index`, and `lepe`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        keys: int,
        *,
        n_win: int,
        topk: int,
        side_dwconv: int,
        pool: nn.Module,
        auto_pad: bool,
        soft: bool,
        differentiable: bool,
        learned: bool,
    ) -> None:
        super().__init__()
        self.num_heads, self.n_win, self.scale = num_heads, n_win, keys**-0.5
        self.auto_pad, self.soft = auto_pad, soft
        self.lepe = local(dim, side_dwconv)
        self.router = Router(keys, topk, self.scale, differentiable, learned)
        self.qkv = QKV(dim, keys)
        self.wo = nn.Linear(dim, dim)
        self.kv_down = pool

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        x = self._padded(x)
        grid = (x.shape[1], x.shape[2])
        region = (grid[0] // self.n_win, grid[1] // self.n_win)
        q, k, v = self.qkv(x)
        weight, index = self.router(region_means(q, region), region_means(k, region))
        window = Window("block", region, grid)
        out = routed_attention(
            self._heads(q.flatten(1, 2)),
            self._heads(self._pooled(k, region)),
            self._heads(self._pooled(v, region)),
            index,
            weight=weight if self.soft else None,
            scale=self.scale,
            window=window,
        )
        out = out.transpose(1, 2).flatten(2).unflatten(1, grid)
        out = self.wo(out + beside(self.lepe, v))
        return out[:, :height, :width]

    def _padded(self, x: Tensor) -> Tensor:
        rest = [-side % self.n_win for side in x.shape[1:3]]
        if any(rest) and not self.auto_pad:
            raise ModelError(
                f"a map of {x.shape[1]} x {x.shape[2]} does not divide into {self.n_win} x "
                f"{self.n_win} regions: give another picture size, or build with auto_pad=True"
            )
        return F.pad(x, (0, 0, 0, rest[1], 0, rest[0])) if any(rest) else x

    def _pooled(self, x: Tensor, region: tuple[int, int]) -> Tensor:
        """Tokens `b m c`: in raster order, or pooled in each region and region by region."""
        if isinstance(self.kv_down, nn.Identity):
            return x.flatten(1, 2)
        b, n = len(x), self.n_win
        tiles = x.unflatten(2, (n, region[1])).unflatten(1, (n, region[0]))
        tiles = tiles.permute(0, 1, 3, 5, 2, 4).flatten(0, 2)
        return self.kv_down(tiles).flatten(2).transpose(1, 2).reshape(b, -1, x.shape[-1])

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class FullAttention(nn.Module):
    """Attention over all places of `b y x c`; with a side convolution of its input, or without."""

    def __init__(self, dim: int, num_heads: int, side_dwconv: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)
        if side_dwconv:
            self.lepe = local(dim, side_dwconv)

    def forward(self, x: Tensor) -> Tensor:
        grid = (x.shape[1], x.shape[2])
        qkv = self.qkv(x).flatten(1, 2).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        out = attention(*qkv.unbind(0)).transpose(1, 2).flatten(2).unflatten(1, grid)
        return self.proj(out + beside(self.lepe, x) if hasattr(self, "lepe") else out)


class ConvStandIn(nn.Sequential):
    """What takes the place of attention where topk is 0: 1 x 1, depthwise 5 x 5, 1 x 1."""

    def __init__(self, dim: int) -> None:
        depthwise = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        super().__init__(
            nn.Identity(), nn.Conv2d(dim, dim, 1), depthwise, nn.Conv2d(dim, dim, 1), nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class DepthwiseTokens(nn.Module):
    """A depthwise 3 x 3 on `b y x c`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def local(dim: int, side: int) -> nn.Module:
    """A depthwise convolution, or nothing."""
    return nn.Conv2d(dim, dim, side, padding=side // 2, groups=dim) if side else nn.Identity()


def beside(lepe: nn.Module, x: Tensor) -> Tensor:
    """What a side convolution of `b y x c` adds: zeros where there is none."""
    if isinstance(lepe, nn.Identity):
        return torch.zeros_like(x)
    return mark("lepe", lepe(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


def region_means(x: Tensor, region: tuple[int, int]) -> Tensor:
    """The mean of each region of `b y x c`, `b R c`."""
    return F.avg_pool2d(x.permute(0, 3, 1, 2), region).flatten(2).transpose(1, 2)


class Block(nn.Module):
    """Depthwise position, attention and MLP, each added; `b c y x`."""

    def __init__(
        self,
        dim: int,
        attn: nn.Module,
        *,
        mlp_ratio: float,
        mlp_dwconv: bool,
        position: int,
        pre_norm: bool,
        layer_scale: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        if position:
            self.pos_embed = nn.Conv2d(dim, dim, position, padding=position // 2, groups=dim)
        self.norm1 = nn.LayerNorm(dim, eps)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps)
        hidden = int(mlp_ratio * dim)
        middle = DepthwiseTokens(hidden) if mlp_dwconv else nn.Identity()
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), middle, nn.GELU(), nn.Linear(hidden, dim))
        for name in ("gamma1", "gamma2") if layer_scale > 0 else ():
            setattr(self, name, nn.Parameter(torch.full((dim,), float(layer_scale))))

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "pos_embed"):
            x = x + self.pos_embed(x)
        x = x.permute(0, 2, 3, 1)
        for norm, part, name in (
            (self.norm1, self.attn, "gamma1"),
            (self.norm2, self.mlp, "gamma2"),
        ):
            scale = getattr(self, name, 1.0)
            x = x + scale * part(norm(x)) if self.pre_norm else norm(x + scale * part(x))
        return x.permute(0, 3, 1, 2)


class BiFormer(Checkpointing, nn.Module):
    """Four stages between convolutions of stride 2; the mean over positions is classified."""

    def __init__(
        self, stages: list[list[Block]], dims: Sequence[int], in_channels: int, num_classes: int
    ) -> None:
        super().__init__()
        half = dims[0] // 2
        stem = nn.Sequential(
            nn.Conv2d(in_channels, half, 3, 2, 1),
            nn.BatchNorm2d(half),
            nn.GELU(),
            nn.Conv2d(half, dims[0], 3, 2, 1),
            nn.BatchNorm2d(dims[0]),
        )
        merges = [
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b)) for a, b in pairwise(dims)
        ]
        self.downsample_layers = nn.ModuleList([stem, *merges])
        self.stages = nn.ModuleList(nn.Sequential(*blocks) for blocks in stages)
        self.norm = nn.BatchNorm2d(dims[-1])
        self.head = nn.Linear(dims[-1], num_classes) if num_classes else nn.Identity()
        init_linear(self)

    def forward(self, x: Tensor) -> Tensor:
        for merge, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = merge(x)
            for block in stage:  # type: ignore[attr-defined]
                x = self.through(block, x)
        return self.head(self.norm(x).mean((2, 3)))


def init_linear(net: nn.Module) -> None:
    """Linear layers by a truncated normal of 0.02, without bias."""
    for part in net.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def biformer(
    *,
    in_channels: int = 3,
    depth: Sequence[int] = (2, 2, 8, 2),
    embed_dim: Sequence[int] = (64, 128, 256, 512),
    mlp_ratios: Sequence[float] = (3, 3, 3, 3),
    head_dim: int = 32,
    num_heads: int = 8,
    qk_dims: Sequence[int] | None = None,
    n_win: int = 7,
    topks: Sequence[int] = (1, 4, 16, -2),
    side_dwconv: int = 5,
    before_attn_dwconv: int = 3,
    layer_scale_init: float = -1,
    kv_downsample_mode: str = "identity",
    kv_per_win: Sequence[int] = (4, 4, 4, 4),
    kv_downsample_ratios: Sequence[int] = (1, 1, 1, 1),
    mlp_dwconv: bool = False,
    pre_norm: bool = True,
    auto_pad: bool = False,
    soft_routing: bool = False,
    diff_routing: bool = False,
    param_routing: bool = False,
    norm_eps: float = 1e-6,
    num_classes: int = 1000,
) -> BiFormer:
    """A BiFormer in its published layout; lists have one entry a stage.

    num_heads   of full attention; routed attention has heads of head_dim
    topks       regions that each region attends to; -2 full attention with a side convolution,
                -1 without, 0 convolutions only
    qk_dims     width of queries and keys; embed_dim unless given
    kv_downsample_mode   how keys are pooled in each region: ada_avgpool, ada_maxpool (to
                kv_per_win each way), avgpool, maxpool (by kv_downsample_ratios)
    auto_pad    pad maps that do not divide into regions
    """
    keys = tuple(qk_dims or embed_dim)
    _check(depth, embed_dim, mlp_ratios, topks, keys, head_dim, num_heads, kv_downsample_mode)
    stages = []
    for s, dim in enumerate(embed_dim):
        blocks = []
        for _ in range(depth[s]):
            attn: nn.Module
            if topks[s] > 0:
                attn = RoutedAttention(
                    dim,
                    dim // head_dim,
                    keys[s],
                    n_win=n_win,
                    topk=topks[s],
                    side_dwconv=side_dwconv,
                    pool=POOLS[kv_downsample_mode](kv_per_win[s], kv_downsample_ratios[s]),
                    auto_pad=auto_pad,
                    soft=soft_routing,
                    differentiable=diff_routing,
                    learned=param_routing,
                )
            elif topks[s] == 0:
                attn = ConvStandIn(dim)
            else:
                attn = FullAttention(dim, num_heads, side_dwconv if topks[s] == -2 else 0)
            blocks.append(
                Block(
                    dim,
                    attn,
                    mlp_ratio=mlp_ratios[s],
                    mlp_dwconv=mlp_dwconv,
                    position=before_attn_dwconv,
                    pre_norm=pre_norm,
                    layer_scale=layer_scale_init,
                    eps=norm_eps,
                )
            )
        stages.append(blocks)
    return BiFormer(stages, embed_dim, in_channels, num_classes)


def _check(
    depth: Sequence[int],
    dims: Sequence[int],
    ratios: Sequence[float],
    topks: Sequence[int],
    keys: Sequence[int],
    head_dim: int,
    num_heads: int,
    mode: str,
) -> None:
    if len({len(depth), len(dims), len(ratios), len(topks), len(keys)}) != 1:
        raise OptionError(
            f"depth={list(depth)}, embed_dim={list(dims)}, mlp_ratios={list(ratios)} and "
            f"topks={list(topks)} name different numbers of stages: give one of each a stage"
        )
    for dim, topk in zip(dims, topks, strict=True):
        by = head_dim if topk > 0 else num_heads
        if topk and dim % by:
            raise OptionError(f"a width of {dim} does not divide by {by}: change the heads")
    if mode not in POOLS:
        raise OptionError(f"kv_downsample_mode={mode!r} is unknown{near(mode, POOLS)}")


def padded_up(length: int, size: int) -> int:
    return ceil(length / size) * size


PAPER = "BiFormer: bi-level routing attention, arXiv 2303.08810"
SHARE = "https://api.onedrive.com/v1.0/shares/{}/root/content"
CROP = {"interpolation": "bicubic", "resize": 256, "classifier": "head"}
VARIANTS = {
    "biformer_tiny": ((2, 2, 8, 2), 64, "s!AkBbczdRlZvChHEOoGkgwgQzEDlM", 81.4),
    "biformer_small": ((4, 4, 18, 4), 64, "s!AkBbczdRlZvChHDyM-x9KWRBZ832", 83.8),
    "biformer_base": ((4, 4, 18, 4), 96, "s!AkBbczdRlZvChHI_XPhoadjaNxtO", 84.3),
}
for _name, (_depth, _dim, _share, _top1) in VARIANTS.items():
    _card = Card(
        _name,
        PAPER,
        hidden=("stages.*.*",),
        heads=("stages.*.*.attn",),
        weights={"imagenet": Source(SHARE.format(_share), key="model")},
        about=f"ImageNet top-1 {_top1} %",
        **CROP,  # type: ignore[arg-type]
    )
    model(_name, card=_card, depth=_depth, embed_dim=tuple(_dim * 2**s for s in range(4)))(biformer)
