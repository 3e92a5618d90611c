"""Vision transformers (ViT, arXiv 2010.11929; DeiT, arXiv 2012.12877), timm's parameter names."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ....probe.errors import OptionError, near
from ...card import Card, Source, State
from ...layers import (
    ACTIVATIONS,
    POOLS,
    Attention,
    Block,
    Mlp,
    PatchEmbed,
    grid_of,
    resize_positions,
    square_grid,
)
from ...registry import model


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
        table = state.get("pos_embed")
        if table is not None and table.ndim == 3 and table.shape[1] != self.pos_embed.shape[1]:
            old = square_grid(table.shape[1] - 1)
            state["pos_embed"] = resize_positions(table, old, self.grid, prefix=1)
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
) -> VisionTransformer:
    """A vision transformer.

    mlp_dim     hidden width of the MLP, instead of mlp_ratio x embed_dim
    pool        "token" reads the class token, "avg" the mean of the patches (then fc_norm)
    final_eps   epsilon of the last norm where it differs from the blocks'
    """
    act, pool = act.lower(), pool.lower()
    check_options(embed_dim, num_heads, act, pool)
    hidden = int(embed_dim * mlp_ratio) if mlp_dim is None else mlp_dim
    blocks = [
        Block(
            embed_dim,
            Attention(embed_dim, num_heads, qkv_bias, dropout, attention_dropout),
            Mlp(embed_dim, hidden, act, dropout),
            norm_eps,
        )
        for _ in range(depth)
    ]
    return VisionTransformer(
        blocks,
        img_size=img_size,
        patch_size=patch_size,
        in_channels=in_channels,
        embed_dim=embed_dim,
        num_classes=num_classes,
        pool=POOLS[pool],
        drop=dropout,
        eps=norm_eps if final_eps is None else final_eps,
    )


def check_options(embed_dim: int, num_heads: int, act: str, pool: str) -> None:
    """Raise OptionError for a head count, activation or pooling that cannot work."""
    if num_heads < 1 or embed_dim % num_heads:
        raise OptionError(
            f"a width of {embed_dim} does not divide into {num_heads} heads: "
            "give an embed_dim that is a multiple of num_heads"
        )
    for what, word, known in (("activation", act, ACTIVATIONS), ("pooling", pool, POOLS)):
        if word not in known:
            hint = near(word, known) or "; there are " + ", ".join(known)
            raise OptionError(f"a vision transformer has no {what} {word!r}{hint}")


DEIT = {  # name: width, heads, published file
    "deit_tiny": (192, 3, "deit_tiny_patch16_224-a1311bcf.pth"),
    "deit_small": (384, 6, "deit_small_patch16_224-cd65a155.pth"),
    "deit_base": (768, 12, "deit_base_patch16_224-b5f2ef4d.pth"),
}
SITES = {"hidden": ("blocks.*",), "heads": ("blocks.*.attn",), "classifier": "head", "prefix": 1}
CROP = {"resize": 248, "interpolation": "bicubic"}

for _name, (_dim, _heads, _file) in DEIT.items():
    _long = f"{_name}_patch16_224"
    _url = f"https://dl.fbaipublicfiles.com/deit/{_file}"
    _card = Card(
        _name,
        "Training data-efficient image transformers, arXiv 2012.12877",
        weights={
            "imagenet": Source(_url, key="model", sha256=_file[-12:-4]),
            "fb_in1k": Source(hub=f"timm/{_long}.fb_in1k", file="model.safetensors"),
        },
        **SITES,  # type: ignore[arg-type]
        **CROP,  # type: ignore[arg-type]
    )
    model(_name, card=_card, also=(_long,), embed_dim=_dim, num_heads=_heads)(vit)

VIT_B = Card(
    "vit_base_patch16_224",
    "An image is worth 16x16 words, arXiv 2010.11929",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    weights={
        "imagenet": Source(
            hub="timm/vit_base_patch16_224.augreg2_in21k_ft_in1k", file="model.safetensors"
        )
    },
    about="timm's ViT-B/16; torchvision's names are 'vit_b_16'",
    **SITES,  # type: ignore[arg-type]
    **CROP,  # type: ignore[arg-type]
)
model("vit_base_patch16_224", card=VIT_B)(vit)
