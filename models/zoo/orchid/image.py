"""An image classifier on Orchid: patches in raster order, pre-norm blocks, their mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...card import CENTRE, ENERGIES, FILTERS, Card
from ...layers import Checkpointing, PatchEmbed, check_grid, grid_of, init_weights
from ...registry import Variant, register
from .blocks import orchid_blocks
from .operator import FIXED, PAPER


class OrchidViT(Checkpointing, nn.Module):
    """Patches with learned positions through blocks; a linear layer on the mean of their norm."""

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        *,
        grid: tuple[int, int],
        patch_size: int,
        in_channels: int,
        d_model: int,
        num_classes: int,
        dropout: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.patch_size, self.grid = patch_size, grid
        self.patch_embed = PatchEmbed(patch_size, in_channels, d_model)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid[0] * grid[1], d_model))
        self.pos_drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(d_model, eps)
        self.head = nn.Linear(d_model, num_classes)
        for part in (self.head, *(block.mlp for block in self.blocks)):
            init_weights(part, nn.Linear)  # type: ignore[arg-type]
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        check_grid(x, self.patch_size, self.grid, "the filters and positions")
        x = self.pos_drop(self.patch_embed(x) + self.pos_embed)
        for block in self.blocks:
            x = self.through(block, x)
        return self.head(self.norm(x).mean(1))


def orchid_vit(
    *,
    img_size: int | tuple[int, int] = 224,
    patch_size: int = 16,
    in_channels: int = 3,
    num_classes: int = 1000,
    d_model: int = 768,
    depth: int = 12,
    mlp_ratio: float = 4.0,
    norm_eps: float = 1e-6,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    filter_order: int = 64,
    residual_long_conv: str | None = "sconv",
    short_filter_order: int = 3,
    emb_dim: int = 33,
    num_inner_mlps: int = 1,
    w: float = 10,
    causal: bool = False,
    dxt: str = "fft",
    conv_kernel: Mapping[str, Any] | None = None,
    lr: float | None = None,
    lr_pos_emb: float | None = 1e-5,
) -> OrchidViT:
    """A classifier of pictures; l_max of its operators is the number of patches.

    dropout   behind the positions
    The others are those of `OrchidOperator`.
    """
    grid = grid_of(img_size, patch_size)
    options = {
        "l_max": grid[0] * grid[1],
        "filter_order": filter_order,
        "residual_long_conv": residual_long_conv,
        "short_filter_order": short_filter_order,
        "emb_dim": emb_dim,
        "num_inner_mlps": num_inner_mlps,
        "w": w,
        "causal": causal,
        "dxt": dxt,
        "conv_kernel": conv_kernel,
        "lr": lr,
        "lr_pos_emb": lr_pos_emb,
    }
    blocks = orchid_blocks(
        d_model, depth, options, mlp_ratio=mlp_ratio, norm_eps=norm_eps, drop_path=drop_path
    )
    return OrchidViT(
        blocks,
        grid=grid,
        patch_size=patch_size,
        in_channels=in_channels,
        d_model=d_model,
        num_classes=num_classes,
        dropout=dropout,
        eps=norm_eps,
    )


register(
    orchid_vit,
    Card(
        "Orchid-ViT",
        PAPER,
        hidden=("blocks.*",),
        heads=("blocks.*.attn",),
        prefix=0,
        classifier="head",
        shows=(CENTRE, FILTERS, ENERGIES),
        interpolation="bicubic",
        about="patches in raster order, no class token; only the operator was published, the trunk "
        "is built after the paper; no weights",
    ),
    [
        Variant("orchid_vit_b_16"),
        Variant(
            "orchid_vit_cifar10",
            size=32,
            resize=32,
            build={
                "patch_size": 4,
                "num_classes": 10,
                "d_model": 192,
                "depth": 6,
                "emb_dim": 3,
                "num_inner_mlps": 2,
            },
            card={"labels": ""},
        ),
    ],
    fixed=FIXED,
)
