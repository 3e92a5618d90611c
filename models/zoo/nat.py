"""Neighbourhood attention modules, and NAT / DiNAT classifiers (arXiv 2204.07143, 2209.15001)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...kernels.neighborhood import neighborhood_attention
from ...probe.errors import OptionError
from ..card import Card
from ..layers import Checkpointing, Mlp, init_weights
from ..registry import Variant, register

Ints = int | Sequence[int]
Flags = bool | Sequence[bool]


class NeighborhoodAttention(nn.Module):
    """Attention in neighbourhoods of a grid, channels last: `b x c`, `b y x c` or `b z y x c`.

    Windows are no larger than the grid: on a small one they shrink to it, and so does dilation.
    """

    axes = 2

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        kernel_size: Ints,
        stride: Ints = 1,
        dilation: Ints = 1,
        is_causal: Flags = False,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise OptionError(
                f"a width of {embed_dim} does not divide into {num_heads} heads: change num_heads"
            )
        self.num_heads, self.scale = num_heads, qk_scale
        self.kernel_size, self.stride, self.dilation, self.causal = (
            list(given) if isinstance(given, Sequence) else [given] * self.axes
            for given in (kernel_size, stride, dilation, is_causal)
        )
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=qkv_bias)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        grid = tuple(x.shape[1:-1])
        window = [min(k, side) for k, side in zip(self.kernel_size, grid, strict=True)]
        spread = [
            max(1, min(d, side // k))
            for d, side, k in zip(self.dilation, grid, window, strict=True)
        ]
        qkv = self.qkv(x.flatten(1, -2)).unflatten(2, (3, self.num_heads, -1))
        out = neighborhood_attention(
            *qkv.permute(2, 0, 3, 1, 4).unbind(0),
            grid=grid,
            kernel_size=tuple(window),
            stride=tuple(min(s, k) for s, k in zip(self.stride, window, strict=True)),
            dilation=tuple(spread),
            causal=tuple(bool(c) for c in self.causal),
            scale=self.scale,
        )
        return self.proj_drop(self.proj(out.transpose(1, 2).flatten(2).unflatten(1, grid)))


class NeighborhoodAttention1D(NeighborhoodAttention):
    """On sequences, `b x c`."""

    axes = 1


class NeighborhoodAttention2D(NeighborhoodAttention):
    """On maps, `b y x c`."""


class NeighborhoodAttention3D(NeighborhoodAttention):
    """On volumes or videos, `b z y x c`."""

    axes = 3


class Block(nn.Module):
    """Pre-norm residual block on `b y x c`, with learned scales where asked for."""

    def __init__(
        self, dim: int, attn: nn.Module, mlp_ratio: float, scale: float | None, eps: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=0.0)
        for name in ("gamma1", "gamma2") if scale is not None else ():
            setattr(self, name, nn.Parameter(torch.full((dim,), float(scale))))  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        first, second = (getattr(self, name, 1.0) for name in ("gamma1", "gamma2"))
        x = x + first * self.attn(self.norm1(x))
        return x + second * self.mlp(self.norm2(x))


class ConvTokenizer(nn.Module):
    """Two overlapping convolutions to a quarter of the size; `b c y x` -> `b y x c`."""

    def __init__(self, in_channels: int, dim: int, eps: float) -> None:
        super().__init__()
        half = nn.Conv2d(in_channels, dim // 2, 3, 2, 1)
        self.proj = nn.Sequential(half, nn.Conv2d(dim // 2, dim, 3, 2, 1))
        self.norm = nn.LayerNorm(dim, eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


class Downsampler(nn.Module):
    """Half the size, twice the channels."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.reduction = nn.Conv2d(dim, 2 * dim, 3, 2, 1, bias=False)
        self.norm = nn.LayerNorm(2 * dim, eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.reduction(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class Level(nn.Module):
    """Blocks of one size, then the step to the next."""

    def __init__(self, blocks: list[Block], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample


class NAT(Checkpointing, nn.Module):
    """Levels of neighbourhood attention; the mean over positions is classified."""

    def __init__(
        self, levels: list[Level], stem: ConvTokenizer, dim: int, classes: int, eps: float
    ):
        super().__init__()
        self.patch_embed = stem
        self.levels = nn.ModuleList(levels)
        self.norm = nn.LayerNorm(dim, eps)
        self.head = nn.Linear(dim, classes) if classes else nn.Identity()
        init_weights(self, nn.Linear)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        for level in self.levels:
            for block in level.blocks:  # type: ignore[union-attr]
                x = self.through(block, x)
            if level.downsample is not None:
                x = level.downsample(x)  # type: ignore[operator]
        return self.head(self.norm(x).mean((1, 2)))


def nat(
    *,
    in_channels: int = 3,
    embed_dim: int = 64,
    depths: Sequence[int] = (3, 4, 6, 5),
    num_heads: Sequence[int] = (2, 4, 8, 16),
    kernel_size: int = 7,
    dilations: Sequence[int] = (1, 1, 1, 1),
    stride: int = 1,
    mlp_ratio: float = 3.0,
    qkv_bias: bool = True,
    layer_scale_init: float | None = None,
    norm_eps: float = 1e-5,
    num_classes: int = 1000,
) -> NAT:
    """A NAT; with dilations, every second block of a level is dilated so (DiNAT)."""
    if len({len(depths), len(num_heads), len(dilations)}) != 1:
        raise OptionError(
            f"depths={list(depths)}, num_heads={list(num_heads)} and dilations={list(dilations)} "
            "name different numbers of levels: give one of each a level"
        )
    levels = []
    for place, (depth, heads, wide) in enumerate(zip(depths, num_heads, dilations, strict=True)):
        dim = embed_dim * 2**place
        blocks = []
        for n in range(depth):
            attn = NeighborhoodAttention2D(
                dim, heads, kernel_size, stride, wide if n % 2 else 1, qkv_bias=qkv_bias
            )
            blocks.append(Block(dim, attn, mlp_ratio, layer_scale_init, norm_eps))
        last = place == len(depths) - 1
        levels.append(Level(blocks, None if last else Downsampler(dim, norm_eps)))
    stem = ConvTokenizer(in_channels, embed_dim, norm_eps)
    return NAT(levels, stem, embed_dim * 2 ** (len(depths) - 1), num_classes, norm_eps)


MINI: dict[str, object] = {
    "embed_dim": 64,
    "depths": (3, 4, 6, 5),
    "num_heads": (2, 4, 8, 16),
    "mlp_ratio": 3.0,
}
TINY = {**MINI, "depths": (3, 4, 18, 5)}
SMALL: dict[str, object] = {
    "embed_dim": 96,
    "depths": (3, 4, 18, 5),
    "num_heads": (3, 6, 12, 24),
    "mlp_ratio": 2.0,
    "layer_scale_init": 1e-5,
}
BASE = {**SMALL, "embed_dim": 128, "num_heads": (4, 8, 16, 32)}
DILATED = {"dilations": (8, 4, 2, 1)}
DINAT = {"paper": "Dilated neighborhood attention transformer, arXiv 2209.15001"}
VARIANTS = (
    Variant("nat_mini", build=MINI),
    Variant("nat_tiny", build=TINY),
    Variant("nat_small", build=SMALL),
    Variant("nat_base", build=BASE),
    Variant("dinat_mini", build={**MINI, **DILATED}, card=DINAT),
    Variant("dinat_tiny", build={**TINY, **DILATED}, card=DINAT),
    Variant("dinat_small", build={**SMALL, **DILATED}, card=DINAT),
    Variant("dinat_base", build={**BASE, **DILATED}, card=DINAT),
)
register(
    nat,
    Card(
        "NAT",
        "Neighborhood attention transformer, arXiv 2204.07143",
        hidden=("levels.*.blocks.*",),
        heads=("levels.*.blocks.*.attn",),
        classifier="head",
        interpolation="bicubic",
        about="no published weights fit: those were trained with a relative position bias, "
        "which NATTEN has since dropped",
    ),
    VARIANTS,
)
