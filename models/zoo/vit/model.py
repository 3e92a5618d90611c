"""Vision transformers (ViT, arXiv 2010.11929; DeiT, arXiv 2012.12877), timm's parameter names."""

from __future__ import annotations

from functools import partial
from math import log, prod

import torch
from torch import Tensor, nn

from ....probe.errors import OptionError
from ...card import CENTRE, ROW_SUMS, Card, Source, State
from ...layers import (
    Attention,
    Block,
    Mlp,
    PatchEmbed,
    ScaledBlock,
    SigmoidAttention,
    fit_positions,
    grid_of,
    pooling,
    resize_positions,
)
from ...registry import Variant, register


class VisionTransformer(nn.Module):
    """Patches and a class token through pre-norm blocks; another input size resizes positions."""

    def __init__(
        self,
        blocks: list[Block],
        *,
        img_size: int | tuple[int, int],
        patch_size: int,
        in_channels: int,
        embed_dim: int,
        num_classes: int,
        pool: str,
        drop: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.patch_size, self.pool = patch_size, pool
        self.grid = grid_of(img_size, patch_size)
        tokens = 1 + self.grid[0] * self.grid[1]
        self.patch_embed = PatchEmbed(patch_size, in_channels, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, embed_dim))
        self.pos_drop = nn.Dropout(drop)
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.LayerNorm(embed_dim, eps) if pool == "token" else nn.Identity()
        self.fc_norm = nn.LayerNorm(embed_dim, eps) if pool == "avg" else nn.Identity()
        self.head = nn.Linear(embed_dim, num_classes)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)

    def convert_state(self, state: State) -> State:
        """Resize a file's position table to this model's grid."""
        fit_positions(state, "pos_embed", self.grid, prefix=1)
        return state

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        grid = grid_of((height, width), self.patch_size)
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        x = self.pos_drop(x + resize_positions(self.pos_embed, self.grid, grid, prefix=1))
        x = self.norm(self.blocks(x))
        pooled = x[:, 0] if self.pool == "token" else x[:, 1:].mean(1)
        return self.head(self.fc_norm(pooled))


def vit(
    *,
    img_size: int | tuple[int, int] = 224,
    patch_size: int = 16,
    in_channels: int = 3,
    embed_dim: int = 768,
    depth: int = 12,
    num_heads: int = 12,
    mlp_ratio: float = 4.0,
    mlp_dim: int | None = None,
    qkv_bias: bool = True,
    num_classes: int = 1000,
    pool: str = "token",
    act: str = "gelu",
    norm_eps: float = 1e-6,
    final_eps: float | None = None,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
    score: str = "softmax",
    attn_bias: float | None = None,
    qk_norm: bool = False,
    layer_scale_init: float | None = None,
) -> VisionTransformer:
    """A vision transformer.

    score       "softmax", or "sigmoid" of scores plus attn_bias (arXiv 2409.04431)
    attn_bias   -ln n unless given, n the tokens of img_size; of sigmoid scores alone
    qk_norm     layer norms of each head's queries and keys; of sigmoid scores alone
    layer_scale_init   where learned scales of the branches start; None for no such scales
    mlp_dim     hidden width of the MLP, instead of mlp_ratio x embed_dim
    pool        "token" reads the class token, "avg" the mean of the patches (then fc_norm)
    final_eps   epsilon of the last norm where it differs from the blocks'
    """
    check_heads(embed_dim, num_heads)
    hidden = int(embed_dim * mlp_ratio) if mlp_dim is None else mlp_dim
    check_score(score, attn_bias, qk_norm, attention_dropout)
    block = Block if layer_scale_init is None else partial(ScaledBlock, start=layer_scale_init)
    if attn_bias is None:
        attn_bias = -log(1 + prod(grid_of(img_size, patch_size)))

    def mixer() -> nn.Module:
        if score == "softmax":
            return Attention(embed_dim, num_heads, qkv_bias, dropout, attention_dropout)
        eps = norm_eps if qk_norm else None
        return SigmoidAttention(
            embed_dim, num_heads, qkv_bias, dropout, bias=attn_bias, qk_norm=eps
        )

    blocks = [
        block(embed_dim, mixer(), Mlp(embed_dim, hidden, act.lower(), drop=dropout), norm_eps)
        for _ in range(depth)
    ]
    return VisionTransformer(
        blocks,
        img_size=img_size,
        patch_size=patch_size,
        in_channels=in_channels,
        embed_dim=embed_dim,
        num_classes=num_classes,
        pool=pooling(pool.lower()),
        drop=dropout,
        eps=norm_eps if final_eps is None else final_eps,
    )


def check_score(score: str, bias: float | None, qk_norm: bool, dropout: float) -> None:
    """Raise OptionError for a score that is not known or options that it has not."""
    if score not in ("softmax", "sigmoid"):
        raise OptionError(f"a vision transformer has no score {score!r}: give softmax or sigmoid")
    if score == "softmax" and (bias is not None or qk_norm):
        raise OptionError(
            f"attn_bias={bias} and qk_norm={qk_norm} are of sigmoid scores: give score='sigmoid'"
        )
    if score == "sigmoid" and dropout:
        raise OptionError(
            f"sigmoid attention has no dropout, but attention_dropout is {dropout}: leave it out"
        )


def check_heads(embed_dim: int, num_heads: int) -> None:
    """Raise OptionError unless the width divides into that many heads."""
    if num_heads < 1 or embed_dim % num_heads:
        raise OptionError(
            f"a width of {embed_dim} does not divide into {num_heads} heads: "
            "give an embed_dim that is a multiple of num_heads"
        )


DEIT_PAPER = "Training data-efficient image transformers, arXiv 2012.12877"
DEIT_URL = "https://dl.fbaipublicfiles.com/deit/"


def deit(name: str, *, file: str, **build: object) -> Variant:
    """A DeiT, by its own name and timm's, with the files of both."""
    long = f"{name}_patch16_224"
    return Variant(
        name,
        also=(long,),
        build=build,
        weights={
            "imagenet": Source(DEIT_URL + file, key="model", sha256=file[-12:-4]),
            "fb_in1k": Source(hub=f"timm/{long}.fb_in1k", file="model.safetensors"),
        },
        card={"paper": DEIT_PAPER},
    )


VARIANTS = (
    deit(
        "deit_tiny",
        embed_dim=192,
        num_heads=3,
        file="deit_tiny_patch16_224-a1311bcf.pth",
    ),
    deit(
        "deit_small",
        embed_dim=384,
        num_heads=6,
        file="deit_small_patch16_224-cd65a155.pth",
    ),
    deit(
        "deit_base",
        embed_dim=768,
        num_heads=12,
        file="deit_base_patch16_224-b5f2ef4d.pth",
    ),
    Variant(
        "vit_base_patch16_224",
        weights={
            "imagenet": Source(
                hub="timm/vit_base_patch16_224.augreg2_in21k_ft_in1k", file="model.safetensors"
            )
        },
        about="timm's ViT-B/16; torchvision's names are 'vit_b_16'",
        card={"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)},
    ),
    Variant(
        "vit_base_patch16_224_sigmoid",
        build={"score": "sigmoid", "layer_scale_init": 1e-4},
        about="timm's names, sigmoid scores with a bias of -ln 197; no weights are published, and "
        "those trained with softmax lose their accuracy",
        card={
            "paper": "Theory, analysis, and best practices for sigmoid self-attention, "
            "arXiv 2409.04431",
            "shows": (CENTRE, ROW_SUMS),
        },
    ),
)
register(
    vit,
    Card(
        "ViT",
        "An image is worth 16x16 words, arXiv 2010.11929",
        hidden=("blocks.*",),
        heads=("blocks.*.attn",),
        prefix=1,
        classifier="head",
        resize=248,
        interpolation="bicubic",
    ),
    VARIANTS,
)
