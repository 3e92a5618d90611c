"""HaloNet (arXiv 2103.12731): ResNets whose last blocks attend to a halo around each tile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log2

import torch
from torch import Tensor, nn

from ..kernels.attention import attention
from ..kernels.windows import Window
from ..probe.errors import OptionError
from ..probe.mark import mark
from .card import Card, Source
from .checkpointing import Checkpointing
from .registry import model

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}


class RelativePosition(nn.Module):
    """Logits of a query for each row and column of its window, from its unscaled self."""

    def __init__(self, window: int, dim_head: int, scale: float) -> None:
        super().__init__()
        self.window = window
        self.height_rel = nn.Parameter(torch.randn(2 * window - 1, dim_head) * scale)
        self.width_rel = nn.Parameter(torch.randn(2 * window - 1, dim_head) * scale)

    def forward(self, q: Tensor, window: Window) -> tuple[Tensor, Tensor]:
        """q `b h n d` -> `b h n window` for rows and for columns."""
        local = window.place()[1].to(q.device)
        width = window.query_size[1]
        steps = torch.arange(self.window, device=q.device) + self.window - 1
        found = []
        for table, at in ((self.height_rel, local // width), (self.width_rel, local % width)):
            index = (steps - at[:, None]).expand(*q.shape[:2], -1, -1)
            found.append((q @ table.T).gather(-1, index))
        return found[0], found[1]


class HaloAttention(nn.Module):
    """Queries in tiles of a block, keys in the block and a halo of zeros or neighbours around it.

    Ports of the op: `rows` and `columns`, the relative logits. What the map's rows lack to 1 went
    to the zeros outside the picture.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int | None = None,
        *,
        num_heads: int = 8,
        dim_head: int | None = None,
        block_size: int = 8,
        halo_size: int = 3,
        stride: int = 1,
        qk_ratio: float = 1.0,
        avg_down: bool = False,
        qkv_bias: bool = False,
        scale_pos_embed: bool = False,
    ) -> None:
        super().__init__()
        out = dim_out or dim
        if out % num_heads or stride not in (1, 2):
            raise OptionError(
                f"halo attention of {out} channels, {num_heads} heads and stride {stride}: give a "
                "width that divides by the heads, and stride 1 or 2"
            )
        self.num_heads, self.block_size, self.halo_size = num_heads, block_size, halo_size
        self.dim_qk = dim_head or divisible(out * qk_ratio, 8) // num_heads
        self.scale, self.scale_pos_embed = self.dim_qk**-0.5, scale_pos_embed
        late = stride == 2 and (avg_down or block_size % 2 == 1)
        self.stride = 1 if late else stride
        keys = self.dim_qk * num_heads
        self.q = nn.Conv2d(dim, keys, 1, self.stride, bias=qkv_bias)
        self.kv = nn.Conv2d(dim, keys + out, 1, bias=qkv_bias)
        self.pos_embed = RelativePosition(block_size + 2 * halo_size, self.dim_qk, self.scale)
        self.pool = nn.AvgPool2d(2, 2) if late else nn.Identity()
        for part in (self.q, self.kv):
            nn.init.trunc_normal_(part.weight, std=dim**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        size = (self.block_size, self.block_size)
        grid = (x.shape[2], x.shape[3])
        window = Window("halo", size, grid, self.halo_size, self.stride)
        q = self._tokens(self.q(x))
        kv = self._tokens(self.kv(x))
        k, v = kv.split([self.dim_qk, kv.shape[-1] - self.dim_qk], -1)
        rows, columns = self.pos_embed(q, window)
        if self.scale_pos_embed:
            rows, columns = rows * self.scale, columns * self.scale
        out = attention(q, k, v, rows=rows, columns=columns, scale=self.scale, window=window)
        return self.pool(out.transpose(2, 3).flatten(1, 2).unflatten(2, window.query_grid))

    def _tokens(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.num_heads, -1)).flatten(3).transpose(2, 3)


class NormAct(nn.BatchNorm2d):
    """Batch norm and an activation, or none, under one name."""

    def __init__(self, dim: int, act: str) -> None:
        super().__init__(dim)
        self.act = ACTIVATIONS[act]() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


class ConvNormAct(nn.Module):
    """Convolution, batch norm, activation."""

    def __init__(
        self, inputs: int, out: int, kernel: int, stride: int = 1, act: str = "", groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = NormAct(out, act)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class AverageShortcut(nn.Module):
    """The mean of 2 x 2, then a 1 x 1 convolution and its norm."""

    def __init__(self, inputs: int, out: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
        self.conv = ConvNormAct(inputs, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.pool(x))


class SqueezeExcite(nn.Module):
    """A gate for each channel from the mean over positions; port `gate`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        squeezed = divisible(dim / 16, 8)
        self.fc1 = nn.Conv2d(dim, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return x * mark("gate", gate)


class ChannelAttention(nn.Module):
    """ECA: a gate for each channel from its neighbours' means; port `gate`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        size = int(abs(log2(dim) + 1) / 2)
        size = max(size if size % 2 else size + 1, 3)
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.conv(x.mean((2, 3))[:, None]).sigmoid()
        return x * mark("gate", gate.transpose(1, 2)[..., None])


GATES: dict[str, Callable[[int], nn.Module]] = {
    "": lambda dim: nn.Identity(),
    "se": SqueezeExcite,
    "eca": ChannelAttention,
}


class Block(nn.Module):
    """A bottleneck around a 3 x 3 convolution, or around halo attention."""

    def __init__(
        self,
        inputs: int,
        out: int,
        middle: int,
        stride: int,
        *,
        attn: HaloAttention | None,
        act: str,
        gate: str,
        groups: int,
        average: bool,
    ) -> None:
        super().__init__()
        self.shortcut: nn.Module = nn.Identity()
        if stride == 2 and average:
            self.shortcut = AverageShortcut(inputs, out)
        elif stride == 2 or inputs != out:
            self.shortcut = ConvNormAct(inputs, out, 1, stride)
        self.conv1_1x1 = ConvNormAct(inputs, middle, 1, act=act)
        if attn is None:
            self.conv2_kxk = ConvNormAct(middle, middle, 3, stride, act, groups)
            self.attn = GATES[gate](middle)
        else:
            self.self_attn = attn
            self.post_attn = NormAct(middle, act)
        self.conv3_1x1 = ConvNormAct(middle, out, 1)
        self.act = ACTIVATIONS[act]()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1_1x1(x)
        if hasattr(self, "self_attn"):
            y = self.post_attn(self.self_attn(y))
        else:
            y = self.attn(self.conv2_kxk(y))
        return self.act(self.conv3_1x1(y) + self.shortcut(x))


class Stem(nn.Module):
    """Three 3 x 3 convolutions, or one 7 x 7; then a max pool, or a last stride."""

    def __init__(self, in_channels: int, widths: Sequence[int], pool: bool, act: str) -> None:
        super().__init__()
        kernel = 3 if len(widths) > 1 else 7
        inputs = in_channels
        for n, width in enumerate(widths, 1):
            last = n == len(widths) > 1 and not pool
            stride = 2 if n == 1 or last else 1
            setattr(self, f"conv{n}", ConvNormAct(inputs, width, kernel, stride, act))
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

    def __init__(self, stem: Stem, stages: list[list[Block]], final: nn.Module, head: Head) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(nn.Sequential(*blocks) for blocks in stages)
        self.final_conv = final
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            for block in stage:  # type: ignore[attr-defined]
                x = self.through(block, x)
        return self.head(self.final_conv(x))


def divisible(value: float, by: int) -> int:
    """The nearest multiple, at least one, and not under 0.9 of the value."""
    new = max(by, int(value + by / 2) // by * by)
    return new if new >= 0.9 * value else new + by


def halonet(
    *,
    in_channels: int = 3,
    stages: Sequence[str] = ("BB", "BB", "BA", "AA"),
    out_chs: Sequence[int] = (256, 512, 1024, 2048),
    stem_chs: Sequence[int] = (24, 32, 64),
    stem_pool: bool = True,
    bottle_ratio: float | Sequence[float] = 0.25,
    heads: int | Sequence[int] = 8,
    dim_head: int | None = None,
    qk_ratio: float = 1.0,
    block_size: int = 8,
    halo_size: int = 2,
    group_size: int = 0,
    gate: str = "",
    downsample: str = "",
    num_features: int = 0,
    act: str = "relu",
    avg_down: bool = False,
    qkv_bias: bool = False,
    scale_pos_embed: bool = False,
    num_classes: int = 1000,
) -> HaloNet:
    """A HaloNet.

    stages     a word a stage: B for a bottleneck, A for halo attention
    gate       "se" or "eca" in bottlenecks
    downsample "avg": shortcuts of stride 2 average; "": they are strided convolutions
    group_size channels in a group of 3 x 3 convolutions; 0 for no groups
    num_features  channels of a last 1 x 1 convolution, 0 for none
    """
    count = len(stages)
    ratios = [bottle_ratio] * count if isinstance(bottle_ratio, (int, float)) else bottle_ratio
    many = [heads] * count if isinstance(heads, int) else heads
    if len({count, len(out_chs), len(ratios), len(many)}) != 1:
        raise OptionError(
            f"stages={list(stages)} and out_chs={list(out_chs)} name different numbers of stages: "
            "give one of each a stage"
        )
    wrong = set("".join(stages)) - set("AB")
    if wrong or gate not in GATES or act not in ACTIVATIONS or downsample not in ("", "avg"):
        raise OptionError(
            f"stages={list(stages)}, gate={gate!r}, act={act!r}, downsample={downsample!r}: write "
            "stages in A and B, gate '', 'se' or 'eca', act 'relu' or 'silu', downsample '' or "
            "'avg'"
        )
    built, inputs = [], stem_chs[-1]
    halved = stem_pool or len(stem_chs) > 1
    for s, word in enumerate(stages):
        middle = divisible(out_chs[s] * ratios[s], 8)
        blocks = []
        for n, kind in enumerate(word):
            stride = 2 if n == 0 and (s > 0 or not halved) else 1
            attn = None
            if kind == "A":
                attn = HaloAttention(
                    middle,
                    num_heads=many[s],
                    dim_head=dim_head,
                    block_size=block_size,
                    halo_size=halo_size,
                    stride=stride,
                    qk_ratio=qk_ratio,
                    avg_down=avg_down,
                    qkv_bias=qkv_bias,
                    scale_pos_embed=scale_pos_embed,
                )
            blocks.append(
                Block(
                    inputs,
                    out_chs[s],
                    middle,
                    stride,
                    attn=attn,
                    act=act,
                    gate=gate,
                    groups=middle // group_size if group_size else 1,
                    average=downsample == "avg",
                )
            )
            inputs = out_chs[s]
        built.append(blocks)
    final = ConvNormAct(inputs, num_features, 1, act=act) if num_features else nn.Identity()
    stem = Stem(in_channels, stem_chs, stem_pool, act)
    return HaloNet(stem, built, final, Head(num_features or inputs, num_classes))


PAPER = "HaloNet: scaling local self-attention, arXiv 2103.12731"
URL = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-attn-weights/"
SILU = {"act": "silu", "halo_size": 3}
VARIANTS: dict[str, tuple[dict, str, str, float]] = {
    "halonet26t": ({}, "halonet26t_a1h_256-3083328c.pth", "a1h_in1k", 0.95),
    "halonet50ts": (
        {**SILU, "stages": ("BBB", "BBBA", "BABABA", "BAB"), "heads": (4, 4, 8, 8)},
        "halonet50ts_a1h2_256-f3a3daee.pth",
        "a1h_in1k",
        0.94,
    ),
    "sehalonet33ts": (
        {
            **SILU,
            "stages": ("BB", "BBA", "BBA", "AA"),
            "out_chs": (256, 512, 1024, 1536),
            "bottle_ratio": (0.25, 0.25, 0.25, 0.333),
            "stem_pool": False,
            "gate": "se",
            "num_features": 1280,
        },
        "sehalonet33ts_256-87e053f9.pth",
        "ra2_in1k",
        0.94,
    ),
    "eca_halonext26ts": (
        {"act": "silu", "gate": "eca", "group_size": 16, "dim_head": 16},
        "eca_halonext26ts_c_256-06906299.pth",
        "c1_in1k",
        0.94,
    ),
    "halonet_h1": (
        {
            "stages": ("AAA", "AAA", "A" * 10, "AAA"),
            "out_chs": (64, 128, 256, 512),
            "stem_chs": (64,),
            "bottle_ratio": 1.0,
            "halo_size": 3,
        },
        "",
        "",
        0.95,
    ),
}
for _name, (_hyper, _file, _tag, _crop) in VARIANTS.items():
    _published = {
        "imagenet": Source(URL + _file, sha256=_file[-12:-4]),
        _tag: Source(hub=f"timm/{_name}.{_tag}", file="model.safetensors"),
    }
    _card = Card(
        _name,
        PAPER,
        hidden=("stages.*.*",),
        heads=("stages.*.*.self_attn",),
        classifier="head.fc",
        size=256,
        resize=int(256 / _crop),
        interpolation="bicubic",
        weights=_published if _file else {},
    )
    model(_name, card=_card, **_hyper)(halonet)
