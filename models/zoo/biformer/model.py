"""BiFormer (arXiv 2303.08810): attention routed between regions; tiny, small and base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ....probe.errors import OptionError, near
from ...card import Card, Source
from ...layers import Checkpointing, drop_rates, dropped, init_weights
from ...registry import Variant, register
from .attention import POOLS, mixer


class Block(nn.Module):
    """x + attn(norm1(x)), then x + mlp(norm2(x)); normed after each sum if not `pre_norm`.

    drop   share of the branches that are left out in training
    """

    gamma1: Tensor | None
    gamma2: Tensor | None

    def __init__(
        self,
        dim: int,
        attn: nn.Module,
        mlp: nn.Module,
        norm: Callable[[int, float], nn.Module],
        *,
        eps: float,
        drop: float = 0.0,
        pre_norm: bool = True,
        layer_scale: float = -1,
    ) -> None:
        super().__init__()
        self.drop, self.pre_norm = drop, pre_norm
        self.norm1 = norm(dim, eps)
        self.attn = attn
        self.norm2 = norm(dim, eps)
        self.mlp = mlp
        for name in ("gamma1", "gamma2"):
            start = torch.full((dim,), float(layer_scale)) if layer_scale > 0 else None
            self.register_parameter(name, None if start is None else nn.Parameter(start))

    def forward(self, x: Tensor) -> Tensor:
        x = self._added(x, self.norm1, self.attn, self.gamma1)
        return self._added(x, self.norm2, self.mlp, self.gamma2)

    def _added(self, x: Tensor, norm: nn.Module, part: nn.Module, gamma: Tensor | None) -> Tensor:
        y = part(norm(x) if self.pre_norm else x)
        x = x + dropped(y if gamma is None else gamma * y, self.drop, self.training)
        return x if self.pre_norm else norm(x)


class PlacedBlock(Block):
    """A depthwise convolution for the position, then a block; `b c y x` around `b y x c`."""

    def __init__(
        self, dim: int, attn: nn.Module, mlp: nn.Module, position: int, **how: Any
    ) -> None:
        super().__init__(dim, attn, mlp, nn.LayerNorm, **how)
        self.pos_embed = (
            nn.Conv2d(dim, dim, position, padding=position // 2, groups=dim) if position else None
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.pos_embed is not None:
            x = x + self.pos_embed(x)
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class DepthwiseTokens(nn.Module):
    """A depthwise 3 x 3 on `b y x c`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def mlp_of(dim: int, hidden: int, *middle: nn.Module) -> nn.Sequential:
    """Two linear layers around an activation, with something else before it."""
    return nn.Sequential(nn.Linear(dim, hidden), *middle, nn.GELU(), nn.Linear(hidden, dim))


class BiFormer(Checkpointing, nn.Module):
    """Stages between convolutions of stride 2; the mean over positions is classified."""

    def __init__(
        self,
        stages: Sequence[Sequence[nn.Module]],
        dims: Sequence[int],
        in_channels: int,
        num_classes: int,
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
        init_weights(self, nn.Linear)

    def forward(self, x: Tensor) -> Tensor:
        for merge, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = merge(x)
            for block in stage:  # type: ignore[attr-defined]
                x = self.through(block, x)
        return self.head(self.norm(x).mean((2, 3)))


def biformer(
    *,
    in_channels: int = 3,
    depth: Sequence[int] = (2, 2, 8, 2),
    embed_dim: Sequence[int] = (64, 128, 256, 512),
    mlp_ratios: Sequence[float] = (3, 3, 3, 3),
    head_dim: int = 32,
    num_heads: int = 8,
    qk_dims: Sequence[int | None] | None = None,
    qk_scale: float | None = None,
    n_win: int = 7,
    topks: Sequence[int] = (1, 4, 16, -2),
    side_dwconv: int = 5,
    before_attn_dwconv: int = 3,
    layer_scale_init: float = -1,
    kv_downsample_mode: str = "identity",
    kv_per_wins: Sequence[int] = (4, 4, 4, 4),
    kv_downsample_ratios: Sequence[int] = (4, 2, 1, 1),
    param_attention: str = "qkvo",
    mlp_dwconv: bool = False,
    pre_norm: bool = True,
    auto_pad: bool = False,
    soft_routing: bool = False,
    diff_routing: bool = False,
    param_routing: bool = False,
    norm_eps: float = 1e-6,
    drop_path: float = 0.0,
    num_classes: int = 1000,
) -> BiFormer:
    """A BiFormer; lists have one entry a stage.

    head_dim    width of a head's queries in routed attention; num_heads is of full attention
    topks       regions that each region attends to; -2 full attention with a side convolution,
                -1 without, 0 convolutions only
    qk_dims     width of queries and keys in routed attention; embed_dim unless given
    qk_scale    of routed attention, instead of (width of queries)^-0.5
    kv_downsample_mode   how keys are pooled in each region: ada_avgpool, ada_maxpool (to
                kv_per_wins each way), avgpool, maxpool (by kv_downsample_ratios)
    param_attention      "qkv" leaves out the linear layer behind routed attention
    auto_pad    pad maps that do not divide into n_win x n_win regions
    drop_path   share of dropped branches in the last block, growing from 0 in the first
    """
    check_stages(depth=depth, embed_dim=embed_dim, mlp_ratios=mlp_ratios, topks=topks)
    check_options(kv_downsample_mode, param_attention, param_routing, diff_routing)
    keys = list(qk_dims or [None] * len(embed_dim))
    drops = drop_rates(drop_path, depth)
    routing = {"auto_pad": auto_pad, "scale": qk_scale, "output": param_attention == "qkvo"}
    routing |= {"soft": soft_routing, "differentiable": diff_routing, "learned": param_routing}

    def block(s: int) -> PlacedBlock:
        dim, hidden = embed_dim[s], int(mlp_ratios[s] * embed_dim[s])
        attn = mixer(
            dim,
            topks[s],
            head_dim=head_dim,
            num_heads=num_heads,
            keys=keys[s],
            side_dwconv=side_dwconv,
            n_win=n_win,
            pool=POOLS[kv_downsample_mode](kv_per_wins[s], kv_downsample_ratios[s]),
            **routing,
        )
        middle = DepthwiseTokens(hidden) if mlp_dwconv else nn.Identity()
        how = {"pre_norm": pre_norm, "layer_scale": layer_scale_init, "eps": norm_eps}
        mlp = mlp_of(dim, hidden, middle)
        return PlacedBlock(dim, attn, mlp, before_attn_dwconv, drop=next(drops), **how)

    stages = [[block(s) for _ in range(count)] for s, count in enumerate(depth)]
    return BiFormer(stages, embed_dim, in_channels, num_classes)


def check_stages(**lists: Sequence[object]) -> None:
    """Raise OptionError unless all lists have one entry a stage."""
    if len({len(values) for values in lists.values()}) != 1:
        listing = ", ".join(f"{name}={list(values)}" for name, values in lists.items())
        raise OptionError(f"{listing} name different numbers of stages: give one of each a stage")


def check_options(mode: str, param_attention: str, learned: bool, differentiable: bool) -> None:
    """Raise OptionError for switches of routed attention that are unknown or do nothing."""
    if mode not in POOLS:
        hint = near(mode, POOLS) or "; there are " + ", ".join(POOLS)
        raise OptionError(f"kv_downsample_mode={mode!r} is unknown{hint}")
    if param_attention not in ("qkvo", "qkv"):
        raise OptionError(f"param_attention={param_attention!r} is unknown: write 'qkvo' or 'qkv'")
    if learned and not differentiable:
        raise OptionError(
            "param_routing=True trains nothing while routing is detached: set diff_routing=True too"
        )


ARCHITECTURE = Card(
    "BiFormer",
    "BiFormer: bi-level routing attention, arXiv 2303.08810",
    hidden=("stages.*.*",),
    heads=("stages.*.*.attn",),
    classifier="head",
    interpolation="bicubic",
)


def published(share: str) -> dict[str, Source]:
    """The authors' file, by its share."""
    url = f"https://api.onedrive.com/v1.0/shares/{share}/root/content"
    return {"imagenet": Source(url, key="model")}


VARIANTS = (
    Variant(
        "biformer_tiny",
        build={"depth": (2, 2, 8, 2), "embed_dim": (64, 128, 256, 512)},
        weights=published("s!AkBbczdRlZvChHEOoGkgwgQzEDlM"),
        about="ImageNet top-1 81.4 %",
    ),
    Variant(
        "biformer_small",
        build={"depth": (4, 4, 18, 4), "embed_dim": (64, 128, 256, 512)},
        weights=published("s!AkBbczdRlZvChHDyM-x9KWRBZ832"),
        about="ImageNet top-1 83.8 %",
    ),
    Variant(
        "biformer_base",
        build={"depth": (4, 4, 18, 4), "embed_dim": (96, 192, 384, 768)},
        weights=published("s!AkBbczdRlZvChHI_XPhoadjaNxtO"),
        about="ImageNet top-1 84.3 %",
    ),
)
register(biformer, ARCHITECTURE, VARIANTS)
