"""ViT (arXiv 2010.11929) with torchvision's parameter names and its nn.MultiheadAttention."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from ...card import Card, Source, State
from ...layers import fit_positions, grid_of, resize_positions
from ...registry import Variant, register
from .model import check_heads


class EncoderBlock(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x))."""

    def __init__(
        self, dim: int, num_heads: int, mlp_dim: int, drop: float, attn_drop: float, eps: float
    ) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim, eps)
        self.self_attention = nn.MultiheadAttention(
            dim, num_heads, dropout=attn_drop, batch_first=True
        )
        self.dropout = nn.Dropout(drop)
        self.ln_2 = nn.LayerNorm(dim, eps)
        self.mlp = nn.Sequential(
            nn.Linear(dim, mlp_dim),
            nn.GELU(),
            nn.Dropout(drop),
            nn.Linear(mlp_dim, dim),
            nn.Dropout(drop),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        y, _ = self.self_attention(y, y, y, need_weights=False)
        x = x + self.dropout(y)
        return x + self.mlp(self.ln_2(x))


class Encoder(nn.Module):
    """Adds positions, runs the blocks and the last norm on tokens `b 1+(y x) c`."""

    def __init__(
        self,
        grid: tuple[int, int],
        dim: int,
        layers: OrderedDict[str, nn.Module],
        drop: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.pos_embedding = nn.Parameter(torch.zeros(1, 1 + grid[0] * grid[1], dim))
        self.dropout = nn.Dropout(drop)
        self.layers = nn.Sequential(layers)
        self.ln = nn.LayerNorm(dim, eps)
        nn.init.normal_(self.pos_embedding, std=0.02)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """The position table for a grid, resized where it is not the model's own."""
        return resize_positions(self.pos_embedding, self.grid, grid, prefix=1, align_corners=True)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.ln(self.layers(self.dropout(x + self.positions(grid))))


class VisionTransformer(nn.Module):
    """Patches and a class token through the encoder; the head reads the class token."""

    def __init__(
        self, encoder: Encoder, *, patch_size: int, in_channels: int, dim: int, num_classes: int
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.conv_proj = nn.Conv2d(in_channels, dim, patch_size, patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.encoder = encoder
        self.heads = nn.Sequential(OrderedDict(head=nn.Linear(dim, num_classes)))

    def convert_state(self, state: State) -> State:
        """Rename the MLPs of old files and resize a file's position table to this grid."""
        for old, new in ((".mlp.linear_1.", ".mlp.0."), (".mlp.linear_2.", ".mlp.3.")):
            state = {name.replace(old, new): value for name, value in state.items()}
        table, grid = "encoder.pos_embedding", self.encoder.grid
        fit_positions(state, table, grid, prefix=1, align_corners=True)
        return state

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        grid = grid_of((height, width), self.patch_size)
        x = self.conv_proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], 1)
        return self.heads(self.encoder(x, grid)[:, 0])


def vit_torchvision(
    *,
    img_size: int | tuple[int, int] = 224,
    patch_size: int = 16,
    in_channels: int = 3,
    embed_dim: int = 768,
    depth: int = 12,
    num_heads: int = 12,
    mlp_dim: int | None = None,
    mlp_ratio: float = 4.0,
    num_classes: int = 1000,
    norm_eps: float = 1e-6,
    dropout: float = 0.0,
    attention_dropout: float = 0.0,
) -> VisionTransformer:
    """A vision transformer; `mlp_dim` or else mlp_ratio x embed_dim is the MLP's hidden width."""
    check_heads(embed_dim, num_heads)
    hidden = int(embed_dim * mlp_ratio) if mlp_dim is None else mlp_dim
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for n in range(depth):
        layers[f"encoder_layer_{n}"] = EncoderBlock(
            embed_dim, num_heads, hidden, dropout, attention_dropout, norm_eps
        )
    encoder = Encoder(grid_of(img_size, patch_size), embed_dim, layers, dropout, norm_eps)
    return VisionTransformer(
        encoder,
        patch_size=patch_size,
        in_channels=in_channels,
        dim=embed_dim,
        num_classes=num_classes,
    )


def published(file: str) -> dict[str, Source]:
    """torchvision's file; the end of its name is its digest."""
    url = f"https://download.pytorch.org/models/{file}"
    return {"imagenet": Source(url, sha256=file[-12:-4])}


VARIANTS = (
    Variant(
        "vit_b_16",
        build={"patch_size": 16},
        weights=published("vit_b_16-c867db91.pth"),
        about="ImageNet top-1 81.072 (torchvision)",
    ),
    Variant(
        "vit_b_32",
        build={"patch_size": 32},
        weights=published("vit_b_32-d86f8d99.pth"),
        about="ImageNet top-1 75.912 (torchvision)",
    ),
)
register(
    vit_torchvision,
    Card(
        "ViT",
        "An image is worth 16x16 words, arXiv 2010.11929",
        hidden=("encoder.layers.*",),
        heads=("encoder.layers.*.self_attention",),
        prefix=1,
        classifier="heads.head",
    ),
    VARIANTS,
)
