"""MaxViT (arXiv 2204.01697): convolution, then attention in tiles and over a dilated grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ....probe.errors import OptionError
from ...card import Card, Source, State, sides
from ...layers import ChannelNorm, Checkpointing
from ...registry import model
from .attention import AttentionBlock, RelativeBias
from .convolution import MBConv, Stem
from .layout import Layout
from .layout import layout as read_layout


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
        init(self)

    def convert_state(self, state: State) -> State:
        """Resize bias tables of another, square window to this model's, bilinearly."""
        own = dict(self.named_modules())
        for name, table in list(state.items()):
            bias = own.get(name.removesuffix(".relative_position_bias_table"))
            if isinstance(bias, RelativeBias):
                state[name] = bias.resized(table)
        return {n: x for n, x in state.items() if "lookup" not in n and "index" not in n}

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            for block in stage.blocks:  # type: ignore[union-attr]
                x = self.through(block, x)
        return self.head(self.norm(x))


def init(model: MaxViT) -> None:
    """Convolutions normal by fan-out, attention blocks Xavier; the classifier as torch has it."""
    for name, module in model.named_modules():
        dense = isinstance(module, nn.Linear) and name.startswith("stages")
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            nn.init.normal_(module.weight, std=(2 * module.groups / fan_out) ** 0.5)
        elif dense:
            nn.init.xavier_uniform_(module.weight)
        if (dense or isinstance(module, nn.Conv2d)) and module.bias is not None:
            nn.init.normal_(module.bias, std=1e-6 if ".mlp." in name else 0.0)


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
    se_ratio: float | str | None = None,
    window: int | Sequence[int] | None = None,
    grid: int | Sequence[int] | None = None,
    rel_pos: str | None = None,
    qkv: str | None = None,
    padding: str | None = None,
    expand_from: str | None = None,
    stem_bias: bool | None = None,
    output_bias: bool | None = None,
    act: str | None = None,
    act_conv: str | None = None,
    act_tfm: str | None = None,
    se_act: str | None = None,
    head: str | None = None,
    layer_scale_init: float | None = None,
    bn_eps: float | None = None,
    ln_eps: float | None = None,
    num_classes: int = 1000,
) -> MaxViT:
    """A MaxViT.

    layout    "tf", the published weights' arithmetic, or "rw", timm's own; each of the options
              that are None here comes from it, see Layout
    window    sides of the tiles, and grid those of the grid: img_size / 32 unless given
    se_ratio  squeezed channels: in tf a share of the output's, in rw of the expanded ones
    rel_pos   "bias_tf", "swin" or "mlp"
    head_hidden  width of the hidden layer before the classifier; rw has none unless given
    """
    changes = {"rel_pos": rel_pos, "qkv": qkv, "padding": padding, "expand_from": expand_from}
    changes |= {"act": act, "act_conv": act_conv, "act_tfm": act_tfm, "se_act": se_act}
    lay = read_layout(
        layout,
        se_ratio=se_ratio,
        stem_bias=stem_bias,
        output_bias=output_bias,
        head="pool" if head_hidden and head is None else head,
        layer_scale=layer_scale_init,
        bn_eps=bn_eps,
        ln_eps=ln_eps,
        **changes,
    )
    if len(depths) != len(embed_dim) or any(dim % dim_head for dim in embed_dim):
        raise OptionError(
            f"depths={list(depths)} and embed_dim={list(embed_dim)} must name the same stages, "
            f"with widths that divide by dim_head={dim_head}"
        )
    usual = (max(sides(img_size)[0] // 32, 1), max(sides(img_size)[1] // 32, 1))
    tile = _pair(window, usual)
    parts = {"block": tile, "grid": _pair(grid, tile)}
    stages, inputs = [], stem_width[1]
    for dim, depth in zip(embed_dim, depths, strict=True):
        blocks = []
        for n in range(depth):
            conv = MBConv(inputs, dim, 1 if n else 2, mbconv_expand, lay)
            attend = [
                AttentionBlock(dim, dim_head, *part, mlp_ratio, lay) for part in parts.items()
            ]
            blocks.append(Block(conv, *attend))
            inputs = dim
        stages.append(Stage(blocks))
    top = Head(inputs, head_hidden or inputs, num_classes, lay)
    return MaxViT(Stem(in_channels, stem_width, lay), stages, inputs, top, lay)


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
TF: dict[str, tuple[tuple[int, int], int, tuple[int, ...]]] = {
    "tiny": ((64, 64), 64, (2, 2, 5, 2)),
    "small": ((64, 64), 96, (2, 2, 5, 2)),
    "base": ((64, 64), 96, (2, 6, 14, 2)),
    "large": ((128, 128), 128, (2, 6, 14, 2)),
    "xlarge": ((192, 192), 192, (2, 6, 14, 2)),
}
MLP: dict[str, Any] = {"rel_pos": "mlp"}
SCALED = {**MLP, "layer_scale_init": 1e-6}
DENSE = {**MLP, "head_hidden": 768}
RW: dict[str, tuple[tuple[int, int], int, tuple[int, ...], dict[str, Any], str, float]] = {
    # name: stem, first width, depths, what else differs, tag on the hub, crop
    "pico_rw_256": ((24, 32), 32, (2, 2, 5, 2), {}, "", 0.95),
    "nano_rw_256": ((32, 64), 64, (1, 2, 3, 1), {}, "sw_in1k", 0.95),
    "tiny_rw_224": ((32, 64), 64, (2, 2, 5, 2), {}, "sw_in1k", 0.95),
    "tiny_rw_256": ((32, 64), 64, (2, 2, 5, 2), {}, "", 0.95),
    "rmlp_pico_rw_256": ((24, 32), 32, (2, 2, 5, 2), MLP, "sw_in1k", 0.95),
    "rmlp_nano_rw_256": ((32, 64), 64, (1, 2, 3, 1), MLP, "sw_in1k", 0.95),
    "rmlp_tiny_rw_256": ((32, 64), 64, (2, 2, 5, 2), MLP, "sw_in1k", 0.95),
    "rmlp_small_rw_224": ((32, 64), 96, (2, 2, 5, 2), SCALED, "sw_in1k", 0.9),
    "rmlp_small_rw_256": ((32, 64), 96, (2, 2, 5, 2), SCALED, "", 0.95),
    "rmlp_base_rw_224": ((32, 64), 96, (2, 6, 14, 2), DENSE, "sw_in12k_ft_in1k", 0.95),
    "rmlp_base_rw_384": ((32, 64), 96, (2, 6, 14, 2), DENSE, "sw_in12k_ft_in1k", 1.0),
}


def _hub(name: str, tag: str) -> Source:
    card = {"labels": ""} if tag == "in21k" else {}  # 21843 classes: give num_classes
    return Source(hub=f"timm/{name}.{tag}", file="model.safetensors", card=card)


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
            **_crop,
        )
        model(
            _name,
            card=_card,
            img_size=_side,
            stem_width=_stem,
            embed_dim=tuple(_dim * 2**n for n in range(4)),
            depths=_depths,
        )(maxvit)

for _name, (_stem, _dim, _depths, _more, _tag, _share) in RW.items():
    _side = int(_name.rsplit("_", 1)[1])
    _card = Card(
        f"maxvit_{_name}",
        PAPER,
        size=_side,
        resize=int(_side / _share),
        weights={"imagenet": _hub(f"maxvit_{_name}", _tag)} if _tag else {},
        about="" if _tag else "no published weights",
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
        **_more,
    )(maxvit)
