"""TransNeXt (arXiv 2311.17132): foveal vision, sharp around a query and pooled further out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor, nn

from ....probe.errors import ModelError
from ...card import Card, Figure, sides
from ...layers import Block, Checkpointing, drop_rates, init_weights
from ...registry import register
from .attention import AggregatedAttention, PlainAttention
from .blocks import ConvGlu, OverlappingPatches
from .options import (
    Size,
    check_options,
    check_pretrained,
    check_rates,
    pooled_grid,
    stage_grids,
)
from .positions import Pair
from .variants import VARIANTS


class TransNeXt(Checkpointing, nn.Module):
    """Stages of blocks on tokens, on ever coarser grids; the mean over tokens is classified.

    Tables of positions and lengths are made for pictures of one size, `img_size`.
    """

    def __init__(
        self,
        patches: Sequence[OverlappingPatches],
        stages: Sequence[Sequence[Block]],
        *,
        img_size: Pair,
        grids: Sequence[Pair],
        num_classes: int,
        eps: float,
    ) -> None:
        super().__init__()
        self.img_size, self.grids = img_size, tuple(grids)
        for number, (patch, blocks) in enumerate(zip(patches, stages, strict=True), 1):
            self.add_module(f"patch_embed{number}", patch)
            self.add_module(f"block{number}", nn.ModuleList(blocks))
            self.add_module(f"norm{number}", nn.LayerNorm(patch.proj.out_channels, eps))
        width = patches[-1].proj.out_channels
        self.head = nn.Linear(width, num_classes) if num_classes else nn.Identity()
        init_weights(self, nn.Linear)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                draw_convolution(part)

    def forward(self, x: Tensor) -> Tensor:
        check_size(x, self.img_size)
        for number, grid in enumerate(self.grids, 1):
            x = self.get_submodule(f"patch_embed{number}")(x)
            for block in self.blocks(number):
                x = self.through(block, x)
            x = self.get_submodule(f"norm{number}")(x)
            if number < len(self.grids):
                x = x.mT.unflatten(2, grid)
        return self.head(x.mean(1))

    def blocks(self, stage: int) -> Iterator[nn.Module]:
        """The blocks of a stage, counted from 1."""
        return self.get_submodule(f"block{stage}").children()


def draw_convolution(part: nn.Conv2d) -> None:
    """Weights of variance 2 / (kernel area x outputs per group), biases 0."""
    fan_out = math.prod(part.kernel_size) * part.out_channels // part.groups
    nn.init.normal_(part.weight, std=math.sqrt(2 / fan_out))
    if part.bias is not None:
        nn.init.zeros_(part.bias)


def check_size(x: Tensor, size: Pair) -> None:
    """Raise ModelError for pictures of another size than the model has positions for."""
    given = x.shape[-2], x.shape[-1]
    if given != size:
        raise ModelError(
            f"this TransNeXt has positions for pictures of {size[0]} x {size[1]} but was given "
            f"{given[0]} x {given[1]}: build it with img_size={given}, and with pretrain_size "
            "for the size that its weights were trained at"
        )


def transnext(
    *,
    img_size: Size = 224,
    pretrain_size: Size | None = None,
    patch_size: int = 4,
    in_channels: int = 3,
    embed_dims: Sequence[int] = (48, 96, 192, 384),
    num_heads: Sequence[int] = (2, 4, 8, 16),
    depths: Sequence[int] = (2, 2, 15, 2),
    mlp_ratios: Sequence[float] = (8, 8, 4, 4),
    sr_ratios: Sequence[int] = (8, 4, 2, 1),
    window_size: Sequence[int | None] = (3, 3, 3, None),
    fixed_pool_size: Size | None = None,
    qkv_bias: bool = True,
    num_classes: int = 1000,
    norm_eps_blocks: float = 1e-6,
    norm_eps_patch_embed: float = 1e-5,
    norm_eps_attn_pool: float = 1e-5,
    dropout: float = 0.0,
    drop_path: float = 0.0,
) -> TransNeXt:
    """A TransNeXt; lists have one entry a stage.

    img_size       of the pictures, which all have this size
    pretrain_size  of the pictures that the weights were first trained on, by which distances are
                   measured; img_size unless given, and that of published weights with those
    patch_size     stride of the first convolution, whose kernel is 2 patch_size - 1
    sr_ratios      how many times coarser than the tokens the pooled keys are; at 1 a stage attends
                   to all its tokens, and its entry of window_size is not used
    window_size    side of the window around a query
    fixed_pool_size  side (or rows and columns) of the pooled keys, in place of sr_ratios above 1
    dropout        behind the projections and inside the MLPs
    drop_path      share of branches dropped in the last block, growing from 0 in the first; 0.15
                   (micro), 0.25 (tiny) and 0.6 (base) trained the published models
    """
    check_options(depths, embed_dims, num_heads, mlp_ratios, sr_ratios, window_size)
    check_rates(dropout=dropout, drop_path=drop_path)
    grids = stage_grids("img_size", img_size, patch_size, len(depths))
    old = img_size if pretrain_size is None else pretrain_size
    check_pretrained(pretrained := stage_grids("pretrain_size", old, patch_size, len(depths)))
    rates = drop_rates(drop_path, depths)

    def mixer(s: int) -> nn.Module:
        sizes = embed_dims[s], num_heads[s], grids[s]
        if sr_ratios[s] == 1:
            return PlainAttention(*sizes, pretrained[s], bias=qkv_bias, drop=dropout)
        return AggregatedAttention(
            *sizes,
            pretrained[s],
            pool=pooled_grid(s + 1, grids[s], sr_ratios[s], fixed_pool_size),
            window=window_size[s] or 1,
            bias=qkv_bias,
            drop=dropout,
            eps=norm_eps_attn_pool,
        )

    def block(s: int) -> Block:
        dim, hidden = embed_dims[s], int(2 * (embed_dims[s] * mlp_ratios[s]) / 3)
        mlp = ConvGlu(dim, hidden, grids[s], dropout)
        return Block(dim, mixer(s), mlp, norm_eps_blocks, next(rates))

    kernel = 2 * patch_size - 1
    first = OverlappingPatches(in_channels, embed_dims[0], kernel, patch_size, norm_eps_patch_embed)
    others = [OverlappingPatches(a, b, 3, 2, norm_eps_patch_embed) for a, b in pairwise(embed_dims)]
    return TransNeXt(
        [first, *others],
        [[block(s) for _ in range(depth)] for s, depth in enumerate(depths)],
        img_size=sides(img_size),
        grids=grids,
        num_classes=num_classes,
        eps=norm_eps_blocks,
    )


register(
    transnext,
    Card(
        "TransNeXt",
        "TransNeXt: robust foveal visual perception for vision transformers, arXiv 2311.17132",
        hidden=("block?.*",),
        heads=("block?.*.attn",),
        prefix=0,
        classifier="head",
        interpolation="bicubic",
        shows=(
            Figure(
                "Where the centre looks",
                "centre",
                about="Neighbours and pooled keys in one picture: the weight of a pooled key "
                "lies over all that it pools.",
            ),
            Figure(
                "Foveal mass",
                "heads",
                methods=("foveal_mass",),
                about="The share of the softmax that falls on neighbours; the rest falls on "
                "pooled keys.",
            ),
        ),
    ),
    VARIANTS,
)
