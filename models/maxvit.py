"""MaxViT (arXiv 2204.01697): convolution, then attention in tiles and over a dilated grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels.attention import attention
from ..kernels.windows import Window
from ..probe.errors import ModelError, OptionError
from .card import Card, Source, State, sides
from .checkpointing import Checkpointing
from .maxvit_conv import ACTIVATIONS, LAYOUTS, Layout, MBConv, Stem
from .norms import ChannelNorm
from .registry import model


class RelativeBias(nn.Module):
    """A learned bias for each offset between two places of a window, `h q k`."""

    def __init__(self, size: tuple[int, int], num_heads: int, signed: bool) -> None:
        super().__init__()
        self.size, self.signed = size, signed
        rows, columns = 2 * size[0] - 1, 2 * size[1] - 1
        shape = (num_heads, rows, columns) if signed else (rows * columns, num_heads)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(shape))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("index", self._index(), persistent=False)

    def _index(self) -> Tensor:
        height, width = self.size
        y, x = (t.flatten() for t in torch.meshgrid(
            torch.arange(height), torch.arange(width), indexing="ij"))  # fmt: skip
        down, along = (t[None, :] - t[:, None] for t in (y, x))  # key minus query
        if not self.signed:
            down, along = -down, -along
        return (down + height - 1) * (2 * width - 1) + along + width - 1

    def forward(self) -> Tensor:
        table = self.relative_position_bias_table
        flat = table.flatten(1) if self.signed else table.T
        return flat[:, self.index]  # type: ignore[index]


class PartitionAttention(nn.Module):
    """Attention within the parts of a partition of `b y x c`, with relative bias."""

    def __init__(self, dim: int, dim_head: int, kind: str, size: tuple[int, int], signed: bool):
        super().__init__()
        self.num_heads, self.kind, self.size, self.signed = dim // dim_head, kind, size, signed
        self.qkv = nn.Linear(dim, 3 * dim)
        self.rel_pos = RelativeBias(size, self.num_heads, signed)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        grid = (x.shape[1], x.shape[2])
        if any(side % own for side, own in zip(grid, self.size, strict=True)):
            raise ModelError(
                f"a map of {grid[0]} x {grid[1]} does not divide into windows of "
                f"{self.size[0]} x {self.size[1]}: build the model for this img_size"
            )
        qkv = self.qkv(x.flatten(1, 2))
        if self.signed:
            q, k, v = qkv.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q, k, v = qkv.unflatten(2, (self.num_heads, -1)).transpose(1, 2).chunk(3, -1)
        window = Window(self.kind, self.size, grid)  # type: ignore[arg-type]
        out = attention(q, k, v, bias=self.rel_pos(), window=window)
        return self.proj(out.transpose(1, 2).flatten(2).unflatten(1, grid))


class Mlp(nn.Module):
    """Two linear layers around an activation."""

    def __init__(self, dim: int, hidden: int, act: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = ACTIVATIONS[act]()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class AttentionBlock(nn.Module):
    """Pre-norm attention and MLP on `b y x c`."""

    def __init__(
        self, dim: int, dim_head: int, kind: str, size: tuple[int, int], mlp: float, lay: Layout
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, lay.ln_eps)
        self.attn = PartitionAttention(dim, dim_head, kind, size, lay.signed)
        self.norm2 = nn.LayerNorm(dim, lay.ln_eps)
        self.mlp = Mlp(dim, int(dim * mlp), lay.act_tfm)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Block(nn.Module):
    """MBConv, tiles, grid; `b c y x`."""

    def __init__(self, conv: MBConv, tiles: AttentionBlock, grid: AttentionBlock) -> None:
        super().__init__()
        self.conv, self.attn_block, self.attn_grid = conv, tiles, grid

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).permute(0, 2, 3, 1)
        return self.attn_grid(self.attn_block(x)).permute(0, 3, 1, 2)


class Stage(nn.Module):
    """Blocks of one width; the first halves the size."""

    def __init__(self, blocks: list[Block]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)


class PreLogits(nn.Module):
    """A hidden layer with tanh."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc = nn.Linear(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x).tanh()


class Head(nn.Module):
    """The mean over positions, in tf a norm and a hidden layer, then the classifier."""

    def __init__(self, dim: int, hidden: int, num_classes: int, lay: Layout) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, lay.ln_eps) if lay.dense else nn.Identity()
        self.pre_logits = PreLogits(dim, hidden) if lay.dense else nn.Identity()
        width = hidden if lay.dense else dim
        self.fc = nn.Linear(width, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pre_logits(self.norm(x.mean((2, 3)))))


class MaxViT(Checkpointing, nn.Module):
    """A stem, four stages and a head."""

    def __init__(self, stem: Stem, stages: list[Stage], dim: int, head: Head, lay: Layout) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.norm = nn.Identity() if lay.dense else ChannelNorm(dim, lay.ln_eps)
        self.head = head

    def convert_state(self, state: State) -> State:
        """Resize bias tables of another window to this model's."""
        own = self.state_dict()
        for name, table in list(state.items()):
            bias = "relative_position_bias_table" in name and name in own and table.ndim == 3
            if bias and table.shape != own[name].shape:
                size = own[name].shape[1:]
                state[name] = F.interpolate(table[None], size, mode="bilinear")[0]
        return {n: x for n, x in state.items() if "lookup" not in n and "index" not in n}

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            for block in stage.blocks:  # type: ignore[union-attr]
                x = self.through(block, x)
        return self.head(self.norm(x))


def maxvit(
    *,
    img_size: int | tuple[int, int] = 224,
    layout: str = "tf",
    in_channels: int = 3,
    stem_width: Sequence[int] = (64, 64),
    embed_dim: Sequence[int] = (64, 128, 256, 512),
    depths: Sequence[int] = (2, 2, 5, 2),
    head_hidden: int | None = None,
    dim_head: int = 32,
    mbconv_expand: int = 4,
    mlp_ratio: float = 4.0,
    se_ratio: float | None = None,
    window: int | Sequence[int] | None = None,
    grid: int | Sequence[int] | None = None,
    bn_eps: float | None = None,
    ln_eps: float | None = None,
    num_classes: int = 1000,
) -> MaxViT:
    """A MaxViT.

    layout    "tf", the published weights' arithmetic, or "rw", timm's own
    window    sides of the tiles, and grid those of the grid: img_size / 32 unless given
    se_ratio  squeezed channels: in tf a share of the output's, in rw of the expanded ones
    """
    if layout not in LAYOUTS:
        raise OptionError(f"layout={layout!r} is unknown: write 'tf' or 'rw'")
    changes = {"bn_eps": bn_eps, "ln_eps": ln_eps, "se": se_ratio}
    known = {k: v for k, v in changes.items() if v is not None}
    lay = replace(LAYOUTS[layout], **known)  # type: ignore[arg-type]
    if len(depths) != len(embed_dim) or any(dim % dim_head for dim in embed_dim):
        raise OptionError(
            f"depths={list(depths)} and embed_dim={list(embed_dim)} must name the same stages, "
            f"with widths that divide by dim_head={dim_head}"
        )
    usual = (max(sides(img_size)[0] // 32, 1), max(sides(img_size)[1] // 32, 1))
    tile, cells = (_pair(one, usual) for one in (window, grid))
    stages, inputs = [], stem_width[1]
    for dim, depth in zip(embed_dim, depths, strict=True):
        blocks = []
        for n in range(depth):
            conv = MBConv(inputs, dim, 1 if n else 2, mbconv_expand, lay.se, lay)
            tiles = AttentionBlock(dim, dim_head, "block", tile, mlp_ratio, lay)
            blocks.append(
                Block(conv, tiles, AttentionBlock(dim, dim_head, "grid", cells, mlp_ratio, lay))
            )
            inputs = dim
        stages.append(Stage(blocks))
    head = Head(inputs, head_hidden or inputs, num_classes, lay)
    return MaxViT(Stem(in_channels, stem_width, lay), stages, inputs, head, lay)


def _pair(given: int | Sequence[int] | None, usual: tuple[int, int]) -> tuple[int, int]:
    if given is None:
        return usual
    return (given, given) if isinstance(given, int) else (int(given[0]), int(given[1]))


PAPER = "MaxViT: multi-axis vision transformer, arXiv 2204.01697"
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
SITES = {
    "hidden": ("stages.*.blocks.*",),
    "heads": ("stages.*.blocks.*.attn_block.attn", "stages.*.blocks.*.attn_grid.attn"),
    "classifier": "head.fc",
    "interpolation": "bicubic",
}
TF = {
    "tiny": ((64, 64), 64, (2, 2, 5, 2)),
    "small": ((64, 64), 96, (2, 2, 5, 2)),
    "base": ((64, 64), 96, (2, 6, 14, 2)),
    "large": ((128, 128), 128, (2, 6, 14, 2)),
    "xlarge": ((192, 192), 192, (2, 6, 14, 2)),
}
RW = {"nano_rw_256": ((32, 64), 64, (1, 2, 3, 1)), "tiny_rw_224": ((32, 64), 64, (2, 2, 5, 2))}


def _hub(name: str, tag: str) -> Source:
    return Source(hub=f"timm/{name}.{tag}", file="model.safetensors")


for _size, (_stem, _dim, _depths) in TF.items():
    for _side in (224, 384, 512):
        _name = f"maxvit_{_size}_tf_{_side}"
        _tags = {"imagenet": "in1k"} if _size != "xlarge" else {}
        if _size in ("base", "large", "xlarge"):
            _tags |= {"in21k_ft_in1k": "in21k_ft_in1k"} if _side != 224 else {"in21k": "in21k"}
        _crop = {"resize": 235} if _side == 224 else {"resize": _side, **HALF}
        _card = Card(
            _name,
            PAPER,
            size=_side,
            weights={tag: _hub(_name, file) for tag, file in _tags.items()},
            **SITES,  # type: ignore[arg-type]
            **_crop,  # type: ignore[arg-type]
        )
        model(
            _name,
            card=_card,
            img_size=_side,
            stem_width=_stem,
            embed_dim=tuple(_dim * 2**n for n in range(4)),
            depths=_depths,
        )(maxvit)

for _name, (_stem, _dim, _depths) in RW.items():
    _side = int(_name.rsplit("_", 1)[1])
    _card = Card(
        f"maxvit_{_name}",
        PAPER,
        size=_side,
        resize=int(_side / 0.95),
        weights={"imagenet": _hub(f"maxvit_{_name}", "sw_in1k")},
        **HALF,  # type: ignore[arg-type]
        **SITES,  # type: ignore[arg-type]
    )
    model(
        _card.name,
        card=_card,
        layout="rw",
        img_size=_side,
        stem_width=_stem,
        embed_dim=tuple(_dim * 2**n for n in range(4)),
        depths=_depths,
    )(maxvit)
