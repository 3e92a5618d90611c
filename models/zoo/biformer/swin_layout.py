"""BiFormer in Swin-Tiny's layout (`biformer_stl`), the ablation of arXiv 2303.08810."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from ...layers import Checkpointing, drop_rates, init_weights
from ...registry import Variant, register
from .attention import mixer
from .model import ARCHITECTURE, Block, check_stages, mlp_of, published


class Stage(nn.Module):
    """Blocks of one width."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)


class BiFormerSTL(Checkpointing, nn.Module):
    """Patches of 4, then stages between merges of 2 x 2; the mean over positions is classified.

    last   whether blocks take `b y x c`
    """

    def __init__(
        self,
        stages: Sequence[Sequence[nn.Module]],
        dims: Sequence[int],
        in_channels: int,
        num_classes: int,
        *,
        last: bool,
    ) -> None:
        super().__init__()
        self.last = last
        stem = nn.Sequential(nn.Conv2d(in_channels, dims[0], 4, 4), nn.BatchNorm2d(dims[0]))
        merges = [
            nn.Sequential(nn.BatchNorm2d(a), nn.Conv2d(a, b, 2, 2)) for a, b in pairwise(dims)
        ]
        self.downsample_layers = nn.ModuleList([stem, *merges])
        self.stages = nn.ModuleList(Stage(blocks) for blocks in stages)
        self.norm = nn.BatchNorm2d(dims[-1])
        self.head = nn.Linear(dims[-1], num_classes) if num_classes else nn.Identity()
        init_weights(self, nn.Linear)

    def forward(self, x: Tensor) -> Tensor:
        for merge, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = merge(x)
            x = x.permute(0, 2, 3, 1) if self.last else x
            for block in stage.blocks:  # type: ignore[union-attr]
                x = self.through(block, x)
            x = x.permute(0, 3, 1, 2) if self.last else x
        return self.head(self.norm(x).mean((2, 3)))


def biformer_stl(
    *,
    in_channels: int = 3,
    depth: Sequence[int] = (2, 2, 6, 2),
    embed_dim: Sequence[int] = (96, 192, 384, 768),
    mlp_ratios: Sequence[float] = (4, 4, 4, 4),
    head_dim: int = 32,
    num_heads: int = 8,
    qk_scale: float | None = None,
    n_wins: int | Sequence[int] = (7, 7, 7, 7),
    topks: Sequence[int] = (1, 4, 16, -2),
    side_dwconv: int = 5,
    auto_pad: bool = False,
    norm_eps: float = 1e-6,
    drop_path: float = 0.0,
    num_classes: int = 1000,
) -> BiFormerSTL:
    """A BiFormer in Swin-Tiny's layout; arguments as those of `biformer_tiny`.

    n_wins   regions a side, for each stage or for all
    """
    n_wins = each_stage(n_wins, depth)
    check_stages(
        depth=depth, embed_dim=embed_dim, mlp_ratios=mlp_ratios, topks=topks, n_wins=n_wins
    )
    drops = drop_rates(drop_path, depth)

    def block(s: int) -> Block:
        dim = embed_dim[s]
        attn = mixer(
            dim,
            topks[s],
            head_dim=head_dim,
            num_heads=num_heads,
            side_dwconv=side_dwconv,
            n_win=n_wins[s],
            scale=qk_scale,
            auto_pad=auto_pad,
        )
        mlp = mlp_of(dim, int(mlp_ratios[s] * dim))
        return Block(dim, attn, mlp, nn.LayerNorm, eps=norm_eps, drop=next(drops))

    stages = [[block(s) for _ in range(count)] for s, count in enumerate(depth)]
    return BiFormerSTL(stages, embed_dim, in_channels, num_classes, last=True)


def each_stage(n_wins: int | Sequence[int], depth: Sequence[int]) -> Sequence[int]:
    """Regions a side for each stage."""
    return [n_wins] * len(depth) if isinstance(n_wins, int) else n_wins


SITES = {"hidden": ("stages.*.blocks.*",), "heads": ("stages.*.blocks.*.attn",)}
VARIANTS = (
    Variant(
        "biformer_stl",
        weights=published("s!AkBbczdRlZvChSf-m7ujkvx9lIQ1"),
        about="ImageNet top-1 82.7 %",
        card=SITES,
    ),
)
register(biformer_stl, ARCHITECTURE, VARIANTS)
