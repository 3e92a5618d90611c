"""FFNet (arXiv 2406.02021): MetaMixer's attention with kernels for keys and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TypeVar

from torch import Tensor, nn

from ....probe.errors import OptionError
from ...card import Card, Figure, Source, State
from ...layers import ChannelNorm, Checkpointing, drop_rates, init_weights
from ...registry import Variant, register
from .blocks import Block, ChannelMixer, ConvNorm, PatchMerging, TokenMixer

Value = TypeVar("Value", int, float, bool)


class FFNet(Checkpointing, nn.Module):
    """A stem at a quarter of the picture's size, stages between mergings, a mean, a head."""

    def __init__(
        self,
        stages: Sequence[Sequence[nn.Module]],
        widths: Sequence[int],
        *,
        in_channels: int,
        in_dim: int,
        num_classes: int,
        layer_norm_last: bool,
        eps: float,
    ) -> None:
        super().__init__()
        self.patch_embed = nn.Sequential(
            ConvNorm(in_channels, in_dim, 3, 2, eps=eps),
            nn.GELU(),
            ConvNorm(in_dim, widths[0], 3, 2, eps=eps),
        )
        self.stages = nn.ModuleList(nn.Sequential(*stage) for stage in stages)
        last = widths[-1]
        self.norm = ChannelNorm(last, 1e-6) if layer_norm_last else nn.BatchNorm2d(last, eps)
        self.head = nn.Linear(last, num_classes)
        init_weights(self, nn.Conv2d, nn.Linear)

    def convert_state(self, state: State) -> State:
        """The entries of a file's `encoder`, where it holds one."""
        inner = {n.removeprefix("encoder."): x for n, x in state.items() if n[:8] == "encoder."}
        return inner or state

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        for stage in self.stages:
            for part in stage:  # type: ignore[attr-defined]
                x = self.through(part, x)
        return self.head(self.norm(x).mean((-2, -1)))


def ffnet(
    *,
    depth: Sequence[int] = (2, 2, 8, 2),
    embed_dim: Sequence[int] = (80, 160, 320, 640),
    in_dim: int = 64,
    kernel_sizes: int | Sequence[int] = 7,
    kernel_sizes1: int | Sequence[int] = (3, 3, 7, 7),
    kernel_sizes2: int | Sequence[int] = (3, 3, 7, 7),
    expansion_ratios: float | Sequence[float] = 3.0,
    use_gelus: bool | Sequence[bool] = True,
    use_ses: bool | Sequence[bool] = False,
    use_layer_scale: bool = False,
    layer_scale_init: float = 1e-6,
    layer_norm_last: bool = False,
    drop_path: float = 0.0,
    in_channels: int = 3,
    num_classes: int = 1000,
    norm_eps: float = 1e-5,
) -> FFNet:
    """An FFNet; what is one a stage may be one for all.

    in_dim            channels between the two convolutions of the stem
    kernel_sizes      sides of the channel mixers' kernels; 7 has a 3 beside it until merged
    kernel_sizes1     of the token mixers' keys; kernel_sizes2: of their values
    expansion_ratios  hidden width of the channel mixers' MLPs
    use_gelus         else ReLU, in token and channel mixers
    use_ses           squeeze-and-excitation behind every other token mixer, the first included
    layer_scale_init  start of the branches' scales where use_layer_scale asks for them
    layer_norm_last   a layer norm over channels before the mean, else a batch norm
    drop_path         share of branches dropped in the last block, growing from 0 in the first
    """
    count = len(depth)
    widths = _each("embed_dim", embed_dim, count)
    _check(widths, drop_path)
    large = _each("kernel_sizes", kernel_sizes, count)
    keys = _each("kernel_sizes1", kernel_sizes1, count)
    values = _each("kernel_sizes2", kernel_sizes2, count)
    ratios = _each("expansion_ratios", expansion_ratios, count)
    gelus = _each("use_gelus", use_gelus, count)
    squeezed = _each("use_ses", use_ses, count)
    rates, scale = drop_rates(drop_path, depth), layer_scale_init if use_layer_scale else None

    def block(s: int, place: int) -> Block:
        dim, act = widths[s], "gelu" if gelus[s] else "relu"
        tokens = TokenMixer(dim, keys[s], values[s], act, norm_eps)
        channels = ChannelMixer(dim, large[s], int(dim * ratios[s]), act, norm_eps)
        squeeze = bool(squeezed[s]) and place % 2 == 0
        return Block(tokens, channels, dim, squeeze=squeeze, scale=scale, drop=next(rates))

    stages: list[list[nn.Module]] = [[block(s, n) for n in range(d)] for s, d in enumerate(depth)]
    for stage, (dim, out) in zip(stages[1:], pairwise(widths), strict=True):
        stage.insert(0, PatchMerging(dim, out, norm_eps))
    return FFNet(
        stages,
        widths,
        in_channels=in_channels,
        in_dim=in_dim,
        num_classes=num_classes,
        layer_norm_last=layer_norm_last,
        eps=norm_eps,
    )


def _each(name: str, value: Value | Sequence[Value], count: int) -> list[Value]:
    """A value for each stage. Raises OptionError for a list of another length."""
    values = [value] * count if isinstance(value, int | float) else list(value)
    if len(values) != count:
        raise OptionError(f"{len(values)} {name} for {count} stages: give one a stage")
    return values


def _check(widths: Sequence[int], drop_path: float) -> None:
    """Raise OptionError for widths that no merging reaches, and for an impossible share."""
    for dim, out in pairwise(widths):
        if out % dim:
            raise OptionError(
                f"embed_dim={tuple(widths)} goes from {dim} to {out} channels, but a merging makes "
                "as many of each: give multiples of the width before"
            )
    if not 0 <= drop_path < 1:
        raise OptionError(f"drop_path={drop_path} is no share: give at least 0 and less than 1")


URL = "https://github.com/ysj9909/FFNet/releases/download/v1.0/{}.pth.tar"


def variant(
    name: str,
    build: Mapping[str, object],
    *,
    size: int = 256,
    resize: int,
    files: Mapping[str, str],
    about: str,
) -> Variant:
    """A row; files by the tag of their weights."""
    weights = {tag: Source(URL.format(file)) for tag, file in files.items()}
    return Variant(name, build=build, size=size, resize=resize, weights=weights, about=about)


FFNET_1 = {"kernel_sizes": 3}
FFNET_2 = {"depth": (3, 3, 15, 3), "embed_dim": (88, 176, 352, 704)}
FFNET_3 = {
    "depth": (4, 4, 22, 5),
    "embed_dim": (96, 192, 384, 768),
    "use_layer_scale": True,
}
FFNET_4 = {
    "depth": (4, 4, 27, 3),
    "embed_dim": (128, 256, 512, 1024),
    "use_layer_scale": True,
}
VARIANTS = (
    variant(
        "ffnet_1",
        FFNET_1,
        resize=284,
        files={"imagenet": "ffnet_1", "distilled": "ffnet_1_distillation"},
        about="ImageNet top-1 81.3 %, distilled 82.1 %; trained with drop_path 0.1",
    ),
    variant(
        "ffnet_2",
        FFNET_2,
        resize=284,
        files={"imagenet": "ffnet_2", "distilled": "ffnet_2_distillation"},
        about="ImageNet top-1 82.9 %, distilled 83.7 %; trained with drop_path 0.15",
    ),
    variant(
        "ffnet_3",
        FFNET_3,
        resize=269,
        files={"imagenet": "ffnet_3", "distilled": "ffnet_3_distillation"},
        about="ImageNet top-1 83.9 %, distilled 84.5 %; trained with drop_path 0.35",
    ),
    variant(
        "ffnet_3_384",
        FFNET_3,
        size=384,
        resize=404,
        files={"imagenet": "ffnet_3_384"},
        about="ImageNet top-1 84.5 % at 384 pixels",
    ),
    variant(
        "ffnet_4",
        FFNET_4,
        resize=269,
        files={},
        about="published at 384 pixels alone; trained with drop_path 0.4",
    ),
    variant(
        "ffnet_4_384",
        FFNET_4,
        size=384,
        resize=404,
        files={"imagenet": "ffnet_4_384"},
        about="ImageNet top-1 85.3 % at 384 pixels",
    ),
)
register(
    ffnet,
    Card(
        "FFNet",
        "MetaMixer is all you need, arXiv 2406.02021",
        hidden=("stages.*.*",),
        classifier="head",
        interpolation="bicubic",
        shows=(
            Figure(
                "Coefficients",
                "norm",
                sites=("**:coefficient",),
                about="The activated answers of the keys, which weigh the values: their length "
                "at each place.",
            ),
            Figure(
                "Key kernels",
                "tables",
                sites=("*.token_mixer.*main.conv1*weight",),
                about="Depthwise kernels that q is compared with, a channel each.",
            ),
            Figure(
                "Value kernels",
                "tables",
                sites=("*.token_mixer.*main.conv2*weight",),
                about="Depthwise kernels that the coefficients weigh, a channel each.",
            ),
        ),
    ),
    VARIANTS,
)
