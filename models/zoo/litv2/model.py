"""LITv2: convolutional MLPs, HiLo attention in later stages, deformable merging (2205.13213)."""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm, sqrt
from typing import TypeVar

from torch import Tensor, nn

from ....probe.errors import OptionError
from ...card import Card, Figure, Source, sides
from ...layers import Checkpointing, drop_rates, init_weights
from ...registry import Variant, register
from .blocks import Block, ConvMlp, DepthwiseConv, PatchMap, Stage
from .hilo import HiLo
from .merging import DeformableMerging

Value = TypeVar("Value")


class LITv2(Checkpointing, nn.Module):
    """Stages of such blocks on pictures of any sides that divide; the mean token is classified."""

    def __init__(
        self, stem: PatchMap, stages: list[Stage], unit: int, dim: int, classes: int, eps: float
    ) -> None:
        super().__init__()
        self.unit = unit
        self.patch_embed = stem
        self.layers = nn.ModuleList(stages)
        self.norm = nn.LayerNorm(dim, eps)
        self.head = nn.Linear(dim, classes) if classes else nn.Identity()
        init_weights(self, nn.Linear)
        depthwise = (part.dwconv for part in self.modules() if isinstance(part, DepthwiseConv))
        for conv in depthwise:
            init_weights(conv, nn.Conv2d, draw=lambda weight: nn.init.normal_(weight, std=SPREAD))

    def forward(self, x: Tensor) -> Tensor:
        check_sides((x.shape[-2], x.shape[-1]), self.unit)
        x = self.patch_embed(x)
        for stage in self.layers:
            for block in stage.blocks:  # type: ignore[union-attr]
                x = self.through(block, x)
            if stage.downsample is not None:
                x = stage.downsample(x)  # type: ignore[operator]
        return self.head(self.norm(x).mean((1, 2)))


SPREAD = sqrt(2 / 9)  # of a depthwise 3 x 3: fan-out 9


def litv2(
    *,
    img_size: int | tuple[int, int] = 224,
    patch_size: int = 4,
    in_channels: int = 3,
    num_classes: int = 1000,
    embed_dim: int = 96,
    depths: Sequence[int] = (2, 2, 6, 2),
    num_heads: Sequence[int] = (3, 6, 12, 24),
    has_msa: Sequence[bool | int] = (0, 0, 1, 1),
    alpha: float | Sequence[float] = 0.9,
    local_ws: int | Sequence[int] = (0, 0, 2, 1),
    pad_windows: bool = False,
    mlp_ratio: float | Sequence[float] = 4.0,
    qkv_bias: bool = True,
    qk_scale: float | None = None,
    patch_norm: bool = True,
    norm_eps: float = 1e-5,
    dropout: float = 0.0,
    drop_path: float = 0.0,
    head_dim: int | Sequence[int] | None = None,
    l_heads: int | Sequence[int] | None = None,
    h_heads: int | Sequence[int] | None = None,
) -> LITv2:
    """A LITv2; the width doubles from stage to stage, lists have an entry a stage.

    has_msa      which stages attend; the others are convolutional MLPs alone
    alpha        share of Lo-Fi heads, and local_ws the side of a window (1: ordinary attention),
                 where a stage attends; one for all stages or one a stage, as mlp_ratio
    pad_windows  zeros up to whole windows, so that local_ws need not divide the maps
    qk_scale     in place of head_dim^-0.5
    dropout      share of values left out in the MLPs in training
    drop_path    share of branches dropped in the last block, growing from 0 in the first
    head_dim, l_heads, h_heads   what width, num_heads, alpha and local_ws come to: a head's width,
                 Lo-Fi and Hi-Fi heads; said, they are checked: a number is that of the first
                 stage that attends, a list has one for each that does
    Raises OptionError for lists of another length, widths and sides that do not divide, shares
    out of range.
    """
    count = len(depths)
    dims = [embed_dim << n for n in range(count)]
    shares, windows, ratios = _each(alpha, count), _each(local_ws, count), _each(mlp_ratio, count)
    _one_a_stage(count, num_heads=num_heads, has_msa=has_msa, alpha=shares, local_ws=windows,
                 mlp_ratio=ratios)  # fmt: skip
    _shares(dropout=dropout, drop_path=drop_path)
    rates = drop_rates(drop_path, depths)

    def block(n: int) -> Block:
        attn = None
        if has_msa[n]:
            attn = HiLo(
                dims[n],
                num_heads[n],
                windows[n],
                shares[n],
                qkv_bias=qkv_bias,
                qk_scale=qk_scale,
                pad_windows=pad_windows,
            )
        mlp = ConvMlp(dims[n], int(dims[n] * ratios[n]), dropout)
        return Block(dims[n], attn, mlp, next(rates), norm_eps)

    stages = []
    for n, depth in enumerate(depths):
        merging = DeformableMerging(dims[n], norm_eps) if n < count - 1 else None
        stages.append(Stage([block(n) for _ in range(depth)], merging))
    _agree(stages, head_dim=head_dim, l_heads=l_heads, h_heads=h_heads)
    unit = unit_of(stages, patch_size)
    check_sides(sides(img_size), unit)
    norm = nn.LayerNorm(embed_dim, norm_eps) if patch_norm else None
    stem = PatchMap(patch_size, in_channels, embed_dim, norm)
    return LITv2(stem, stages, unit, dims[-1], num_classes, norm_eps)


def _each(given: Value | Sequence[Value], count: int) -> Sequence[Value]:
    return given if isinstance(given, Sequence) else [given] * count


def _one_a_stage(count: int, **lists: Sequence[object]) -> None:
    """Raise OptionError unless there are stages and each list has one entry a stage."""
    if not count:
        raise OptionError("depths=() names no stage: give the blocks of each")
    for name, values in lists.items():
        if len(values) != count:
            raise OptionError(
                f"{name}={list(values)} has {len(values)} entries for {count} stages: give one a "
                "stage"
            )


def _shares(**rates: float) -> None:
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise OptionError(f"{name}={rate} is no share to drop: give 0 or more, less than 1")


def _agree(stages: Sequence[Stage], **said: int | Sequence[int] | None) -> None:
    """Raise OptionError where what is said of the heads is not what the stages have."""
    attns = [attn for stage in stages if (attn := stage.attention) is not None]
    for name, value in said.items():
        found = [getattr(attn, name) for attn in attns]
        meant = found[:1] if isinstance(value, int) else found
        if value is not None and meant != list(_each(value, 1)):
            raise OptionError(
                f"{name}={value} was said, but width, num_heads, alpha and local_ws come to "
                f"{found}: leave it out or change those"
            )


def unit_of(stages: Sequence[Stage], patch_size: int) -> int:
    """What the sides of a picture are multiples of: patches, pairs of tokens, Hi-Fi windows."""
    unit = patch_size
    for n, stage in enumerate(stages):
        attn, token = stage.attention, patch_size << n
        unit = lcm(unit, token if stage.downsample is None else 2 * token)
        if attn is not None and attn.h_heads and not attn.pad:
            unit = lcm(unit, attn.ws * token)
    return unit


def check_sides(size: tuple[int, int], unit: int) -> None:
    """Raise OptionError unless patches, mergings and windows tile a picture of that size."""
    height, width = size
    if not height or not width or height % unit or width % unit:
        raise OptionError(
            f"a picture of {height} x {width} does not divide into the patches, mergings and "
            f"windows of this LITv2: give sides that are multiples of {unit}"
        )


RELEASES = "https://github.com/ziplab/LITv2/releases/download"
S: dict[str, object] = {"drop_path": 0.2}
M: dict[str, object] = {"depths": (2, 2, 18, 2), "drop_path": 0.3}
B: dict[str, object] = {
    **M,
    "embed_dim": 128,
    "num_heads": (4, 8, 16, 32),
    "drop_path": 0.5,
}
HEADS = tuple(f"layers.*.blocks.*.attn.{group}" for group in ("hifi", "lofi"))


def variant(
    name: str,
    build: dict[str, object],
    *,
    top1: float,
    file: str = "",
    size: int = 224,
    heads: tuple[str, ...] = HEADS,
) -> Variant:
    """A row; `file` is the release's path where it is not that of the name."""
    url = f"{RELEASES}/{file or f'v1.0/{name}'}.pth"
    return Variant(
        name,
        build=build,
        size=size,
        resize=max(256, size),
        weights={"imagenet": Source(url, key="model")},
        about=f"ImageNet top-1 {top1} (authors)",
        card={"heads": heads},
    )


VARIANTS = (
    variant("litv2_s", S, top1=82.0),
    variant("litv2_m", M, top1=83.3),
    variant("litv2_b", B, top1=83.6),
    variant("litv2_b_384", B, top1=84.7, size=384),
    variant("litv2_s_alpha_0", {**S, "alpha": 0}, top1=81.16, file="v1.1/alpha_0"),
    variant("litv2_s_alpha_0.2", {**S, "alpha": 0.2}, top1=81.89, file="v1.1/alpha_0.2"),
    variant("litv2_s_alpha_0.4", {**S, "alpha": 0.4}, top1=81.81, file="v1.1/alpha_0.4"),
    variant("litv2_s_alpha_0.5", {**S, "alpha": 0.5}, top1=81.88, file="v1.1/alpha_0.5"),
    variant("litv2_s_alpha_0.7", {**S, "alpha": 0.7}, top1=81.94, file="v1.1/alpha_0.7"),
    variant("litv2_s_alpha_0.9", {**S, "alpha": 0.9}, top1=82.03, file="v1.1/alpha_0.9"),
    variant("litv2_s_alpha_1", {**S, "alpha": 1}, top1=81.89, file="v1.1/alpha_1", heads=HEADS[1:]),
)
register(
    litv2,
    Card(
        "LITv2",
        "Fast vision transformers with HiLo attention, arXiv 2205.13213",
        hidden=("layers.*.blocks.*",),
        classifier="head",
        interpolation="bicubic",
        shows=(
            Figure(
                "Where the centre looks",
                "centre",
                about="High-frequency heads attend within windows of tokens, low-frequency "
                "heads to their means.",
            ),
            Figure(
                "High and low frequencies",
                "norm",
                sites=("**:hifi", "**:lofi"),
                about="What either kind of head adds: its length at each place.",
            ),
            Figure(
                "Power spectra",
                "spectrum",
                sites=("**:hifi", "**:lofi"),
                about="How the power of what either kind adds is spread over frequencies.",
            ),
            Figure(
                "Sampling offsets",
                "channels",
                sites=("**:offset",),
                about="How far the merging of tokens reads beside its place: 0 down, 1 to the "
                "right, in tokens.",
            ),
        ),
    ),
    VARIANTS,
    fixed={"ape": False, "attention_dropout": 0.0, "use_checkpoint": False},
)
