"""KArAt (arXiv 2503.10632): vision transformers whose attention maps are learned functions.

Nothing was published but the paper: names of parameters are timm's for the trunk and this file's
for the maps, `blocks.0.attn.karat.a`, or `karat.a` where all blocks share one operator.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...kernels.kan import Order
from ..card import Card, Figure
from ..layers import (
    Block,
    Checkpointing,
    KanAttention,
    KanOperator,
    KanOptions,
    Mlp,
    PatchEmbed,
    attention_width,
    check_grid,
    drop_rates,
    grid_of,
    init_weights,
)
from ..registry import Variant, register


class KArAtViT(Checkpointing, nn.Module):
    """Patches and a class token through pre-norm blocks; the input size is that of the weights."""

    def __init__(
        self,
        blocks: list[Block],
        karat: KanOperator | None,
        *,
        grid: tuple[int, int],
        patch_size: int,
        in_channels: int,
        embed_dim: int,
        num_classes: int,
        drop: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.patch_size, self.grid = patch_size, grid
        self.patch_embed = PatchEmbed(patch_size, in_channels, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid[0] * grid[1], embed_dim))
        self.pos_drop = nn.Dropout(drop)
        self.karat = karat
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(embed_dim, eps)
        self.head = nn.Linear(embed_dim, num_classes)
        init_weights(self, nn.Linear)
        for table in (self.pos_embed, self.cls_token):
            nn.init.trunc_normal_(table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        check_grid(x, self.patch_size, self.grid, "the learned maps")
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        x = self.pos_drop(x + self.pos_embed)
        shared = () if self.karat is None else (self.karat,)
        for block in self.blocks:
            x = self.through(block, x, *shared)
        return self.head(self.norm(x)[:, 0])


def karat(
    *,
    img_size: int | tuple[int, int] = 224,
    patch_size: int = 16,
    in_channels: int = 3,
    embed_dim: int | None = None,
    head_dim: int | None = None,
    depth: int = 12,
    num_heads: int = 3,
    mlp_ratio: float = 4.0,
    qkv_bias: bool = True,
    num_classes: int = 1000,
    norm_eps: float = 1e-6,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    rank: int = 12,
    grid_size: int = 3,
    universal: bool = False,
    basis: str = "fourier",
    base: str = "zero",
    order: Order = "w_phi",
    scales: bool = True,
    simplex: bool = False,
    softmax_heads: tuple[int, ...] = (),
) -> KArAtViT:
    """A vision transformer with Kolmogorov-Arnold attention.

    embed_dim   the whole width; or give head_dim, the width of a head (64 in the paper)
    rank        r, to which a row of scores is reduced
    grid_size   G, frequencies of the Fourier basis
    universal   all blocks share the functions of the heads (GnU), else each has its own (GnB)
    basis       fourier, rational, or a wavelet: mexican_hat, morlet, dog, meyer, shannon
    base        the fixed function beside the basis: zero, identity, silu or gelu
    order       w_phi: W Phi(A); phi_w: Phi(W A); phi_phi: Phi2(Phi1(A)); phi: Phi(A), full rank
    scales      learned scales of base and basis, with which alone the published counts come out
    simplex     rows of the map are projected on the probability simplex
    softmax_heads   heads of every block that stay softmax
    """
    dim = attention_width(embed_dim, head_dim, num_heads, usual=64)
    options = KanOptions(
        rank, grid_size, basis, base, order, simplex, scales, universal, tuple(softmax_heads)
    ).checked(num_heads)
    grid = grid_of(img_size, patch_size)
    tokens = 1 + grid[0] * grid[1]
    blocks = [
        Block(
            dim,
            KanAttention(dim, num_heads, qkv_bias, dropout, tokens, options),
            Mlp(dim, int(dim * mlp_ratio), drop=dropout),
            norm_eps,
            drop,
        )
        for drop in drop_rates(drop_path, [depth])
    ]
    return KArAtViT(
        blocks,
        KanOperator(num_heads, tokens, options) if universal else None,
        grid=grid,
        patch_size=patch_size,
        in_channels=in_channels,
        embed_dim=dim,
        num_classes=num_classes,
        drop=dropout,
        eps=norm_eps,
    )


VARIANTS = (
    Variant("karat_tiny_g3b", about="top-1 59.11 in the paper, ViT-Tiny 59.15; no weights"),
    Variant(
        "karat_tiny_g3u",
        build={"universal": True},
        about="top-1 57.97 in the paper, ViT-Tiny 59.15; no weights",
    ),
    Variant(
        "karat_small_g3b",
        build={"num_heads": 6},
        about="top-1 67.77 in the paper, ViT-Small 70.50; no weights",
    ),
    Variant("karat_small_g3u", build={"num_heads": 6, "universal": True}),
    Variant(
        "karat_base_g1b",
        build={"num_heads": 12, "grid_size": 1},
        about="top-1 68.03 in the paper, ViT-Base 72.90; no weights",
    ),
    Variant(
        "karat_base_g1u",
        build={"num_heads": 12, "grid_size": 1, "universal": True},
        about="top-1 68.83 in the paper, ViT-Base 72.90; no weights",
    ),
)
register(
    karat,
    Card(
        "KArAt",
        "Kolmogorov-Arnold Attention, arXiv 2503.10632",
        hidden=("blocks.*",),
        heads=("blocks.*.attn",),
        prefix=1,
        classifier="head",
        interpolation="bicubic",
        about="rebuilt from the paper; no code or weights were published",
        shows=(
            Figure(
                "Where the class token looks",
                "class",
                about="Weights are no shares: they may be negative, and are drawn so.",
            ),
            Figure(
                "Learned functions",
                "functions",
                about="What becomes of a score: phi of the first head.",
            ),
            Figure(
                "Singular values",
                "singular values",
                about="Of the scores, of their learned functions, and of the map.",
            ),
            Figure(
                "Negative mass",
                "heads",
                methods=("negative_mass",),
                about="The share of a head's weight that is negative; 0 for a softmax.",
            ),
        ),
    ),
    VARIANTS,
)
