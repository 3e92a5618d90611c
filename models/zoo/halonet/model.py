"""HaloNet (arXiv 2103.12731): ResNets whose last blocks attend to a halo around each tile."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from math import sqrt
from typing import Any

from torch import Tensor, nn

from ....probe.errors import OptionError
from ...card import Card, Source
from ...layers import Checkpointing, ConvNormAct, activation, divisible
from ...registry import Variant, register
from .attention import HaloAttention
from .blocks import GATES, Block

KINDS = {"B": "B", "A": "A", "bottle": "B", "self_attn": "A"}
SHORTCUTS = ("", "conv1x1", "avg")  # the first two are one


class Stem(nn.Module):
    """Three 3 x 3 convolutions, or one 7 x 7; then a max pool, or a last stride."""

    def __init__(
        self, in_channels: int, widths: Sequence[int], pool: bool, act: str, eps: float
    ) -> None:
        super().__init__()
        kernel = 3 if len(widths) > 1 else 7
        inputs = in_channels
        for n, width in enumerate(widths, 1):
            last = n == len(widths) > 1 and not pool
            stride = 2 if n == 1 or last else 1
            setattr(self, f"conv{n}", ConvNormAct(inputs, width, kernel, stride, act, eps=eps))
            inputs = width
        self.pool = nn.MaxPool2d(3, 2, 1) if pool else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        for part in self.children():
            x = part(x)
        return x


class Head(nn.Module):
    """The mean over positions, classified."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(dim, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean((2, 3)))


class HaloNet(Checkpointing, nn.Module):
    """A stem and four stages; sides must be multiples of 32 blocks where the last stage attends."""

    def __init__(
        self, stem: Stem, stages: list[list[Block]], final: nn.Module, head: Head, zero_last: bool
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(nn.Sequential(*blocks) for blocks in stages)
        self.final_conv = final
        self.head = head
        for module in self.modules():  # attention is reset after the convolutions in it
            if not isinstance(module, HaloAttention):
                init(module, zero_last)
        for module in self.modules():
            if isinstance(module, HaloAttention):
                module.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            for block in stage:  # type: ignore[attr-defined]
                x = self.through(block, x)
        return self.head(self.final_conv(x))


def init(module: nn.Module, zero_last: bool) -> None:
    """Convolutions normal by fan-out, the classifier 0.01; branches start at zero if asked."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
        nn.init.normal_(module.weight, std=sqrt(2 * module.groups / fan_out))
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
    elif isinstance(module, Block) and zero_last:
        nn.init.zeros_(module.conv3_1x1.bn.weight)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def read_stem(words: str, widths: Sequence[int]) -> tuple[tuple[int, ...], bool]:
    """The widths and the pool of a stem in words, "tiered 24,32,64 + maxpool"."""
    kind = next((name for name in ("tiered", "7x7") if name in words), None)
    if kind is None:
        raise OptionError(f"a HaloNet has no stem {words!r}: write 'tiered' or '7x7', '+ maxpool'")
    pool, wide = "pool" in words and "no pool" not in words, widths[-1]
    if kind == "7x7":
        return (wide,), pool
    numbers = re.search(r"\d+(?:, ?\d+){2}", words)
    if numbers is None:
        return (3 * wide // 8, wide // 2, wide), pool
    return tuple(int(number) for number in numbers[0].split(",")), pool


def each(what: str, given: Any, count: int) -> list[Any]:
    """One value a stage, from one for all or one for each."""
    many = list(given) if isinstance(given, list | tuple) else [given] * count
    if len(many) != count:
        raise OptionError(
            f"{what}={given!r} and the stages name different numbers of stages: give one value, "
            f"or one for each of {count} stages"
        )
    return many


def halonet(
    *,
    in_channels: int = 3,
    stages: Sequence[str | Sequence[str]] = ("BB", "BB", "BA", "AA"),
    out_chs: Sequence[int] = (256, 512, 1024, 2048),
    stem: str = "",
    stem_chs: Sequence[int] = (24, 32, 64),
    stem_pool: bool = True,
    bottle_ratio: float | Sequence[float] = 0.25,
    heads: int | Sequence[int] = 8,
    dim_head: int | None = None,
    qk_ratio: float = 1.0,
    block_size: int | Sequence[int] = 8,
    halo_size: int | Sequence[int] = 2,
    group_size: int = 0,
    gate: str = "",
    downsample: str = "",
    num_features: int = 0,
    act: str = "relu",
    norm_eps: float = 1e-5,
    avg_down: bool = False,
    qkv_bias: bool = False,
    scale_pos_embed: bool = False,
    zero_init_last: bool = True,
    num_classes: int = 1000,
) -> HaloNet:
    """A HaloNet; bottle_ratio, heads, block_size and halo_size are for all stages or each.

    stages     a word a stage: B ("bottle") for a bottleneck, A ("self_attn") for halo attention
    stem       in words, "tiered 24,32,64 + maxpool" or "7x7", instead of stem_chs and stem_pool
    gate       "se" or "eca" in bottlenecks
    downsample "avg": shortcuts average, then 1 x 1; "": a 1 x 1 with the stride
    group_size channels in a group of 3 x 3 convolutions; 0 for no groups
    num_features  channels of a last 1 x 1 convolution, 0 for none
    zero_init_last  residual branches start at zero
    """
    words = _words(stages)
    _check(stages, words, gate, act, downsample)
    if stem:
        stem_chs, stem_pool = read_stem(stem, stem_chs)
    attend = partial(
        HaloAttention,
        dim_head=dim_head,
        qk_ratio=qk_ratio,
        avg_down=avg_down,
        qkv_bias=qkv_bias,
        scale_pos_embed=scale_pos_embed,
    )
    block = partial(Block, act=act, gate=gate, average=downsample == "avg", eps=norm_eps)
    values = {"out_chs": out_chs, "bottle_ratio": bottle_ratio, "heads": heads}
    values |= {"block_size": block_size, "halo_size": halo_size}
    columns = [each(name, given, len(words)) for name, given in values.items()]
    built: list[list[Block]] = []
    inputs, halved = stem_chs[-1], stem_pool or len(stem_chs) > 1
    for word, out, ratio, many, side, halo in zip(words, *columns, strict=True):
        middle = divisible(out * ratio)
        attention = partial(attend, middle, num_heads=many, block_size=side, halo_size=halo)
        grouped = partial(block, groups=middle // group_size if group_size else 1)
        stride = 2 if built or not halved else 1
        built.append(_stage(word, (inputs, middle, out), stride, attention, grouped))
        inputs = out
    final: nn.Module = nn.Identity()
    if num_features:
        final = ConvNormAct(inputs, num_features, 1, act=act, eps=norm_eps)
    first = Stem(in_channels, stem_chs, stem_pool, act, norm_eps)
    head = Head(num_features or inputs, num_classes)
    return HaloNet(first, built, final, head, zero_init_last)


def _words(stages: Sequence[str | Sequence[str]]) -> list[str]:
    """Each stage in letters, "?" for what is no block."""
    return ["".join(KINDS.get(kind, "?") for kind in stage) for stage in stages]


def _check(
    stages: Sequence[str | Sequence[str]], words: list[str], gate: str, act: str, downsample: str
) -> None:
    """Raise OptionError for letters, gates or shortcuts that there are not."""
    activation(act)
    if "?" in "".join(words) or gate not in GATES or downsample not in SHORTCUTS:
        raise OptionError(
            f"stages={list(stages)}, gate={gate!r}, downsample={downsample!r}: write stages in A "
            "and B, gate '', 'se' or 'eca', downsample '' or 'avg'"
        )


def _stage(
    word: str,
    widths: tuple[int, int, int],
    stride: int,
    attention: Callable[..., HaloAttention],
    block: Callable[..., Block],
) -> list[Block]:
    """The blocks of a stage; the first takes its stride and its input's width."""
    inputs, middle, out = widths
    blocks = []
    for kind in word:
        attn = attention(stride=stride) if kind == "A" else None
        blocks.append(block(inputs, out, middle, stride, attn=attn))
        inputs, stride = out, 1
    return blocks


URL = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-attn-weights/"


def published(name: str, file: str, tag: str) -> dict[str, Source]:
    """timm's file, from its releases and from the hub."""
    return {
        "imagenet": Source(URL + file, sha256=file[-12:-4]),
        tag: Source(hub=f"timm/{name}.{tag}", file="model.safetensors"),
    }


VARIANTS = (
    Variant(
        "halonet26t",
        resize=269,
        weights=published("halonet26t", "halonet26t_a1h_256-3083328c.pth", "a1h_in1k"),
    ),
    Variant(
        "halonet50ts",
        build={
            "act": "silu",
            "halo_size": 3,
            "stages": ("BBB", "BBBA", "BABABA", "BAB"),
            "heads": (4, 4, 8, 8),
        },
        weights=published("halonet50ts", "halonet50ts_a1h2_256-f3a3daee.pth", "a1h_in1k"),
    ),
    Variant(
        "sehalonet33ts",
        build={
            "act": "silu",
            "halo_size": 3,
            "stages": ("BB", "BBA", "BBA", "AA"),
            "out_chs": (256, 512, 1024, 1536),
            "bottle_ratio": (0.25, 0.25, 0.25, 0.333),
            "stem_pool": False,
            "gate": "se",
            "num_features": 1280,
        },
        weights=published("sehalonet33ts", "sehalonet33ts_256-87e053f9.pth", "ra2_in1k"),
    ),
    Variant(
        "eca_halonext26ts",
        build={"act": "silu", "gate": "eca", "group_size": 16, "dim_head": 16},
        weights=published("eca_halonext26ts", "eca_halonext26ts_c_256-06906299.pth", "c1_in1k"),
    ),
    Variant(
        "halonet_h1",
        build={
            "stages": ("AAA", "AAA", "A" * 10, "AAA"),
            "out_chs": (64, 128, 256, 512),
            "stem_chs": (64,),
            "bottle_ratio": 1.0,
            "halo_size": 3,
        },
        resize=269,
    ),
)
register(
    halonet,
    Card(
        "HaloNet",
        "HaloNet: scaling local self-attention, arXiv 2103.12731",
        hidden=("stages.*.*",),
        heads=("stages.*.*.self_attn",),
        classifier="head.fc",
        size=256,
        resize=272,
        interpolation="bicubic",
    ),
    VARIANTS,
)
