"""MaxViT (arXiv 2204.01697): convolution, then attention in tiles and over a dilated grid."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ....probe.errors import OptionError
from ...card import Card, State, sides
from ...layers import ChannelNorm, Checkpointing
from ...registry import register
from .attention import AttentionBlock, RelativeBias
from .convolution import MBConv, Stem
from .layout import MaxVitLayout
from .layout import layout as read_layout
from .variants import VARIANTS


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

    def __init__(self, dim: int, hidden: int, num_classes: int, lay: MaxVitLayout) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, lay.ln_eps) if lay.dense else nn.Identity()
        self.pre_logits = PreLogits(dim, hidden) if lay.dense else nn.Identity()
        width = hidden if lay.dense else dim
        self.fc = nn.Linear(width, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pre_logits(self.norm(x.mean((2, 3)))))


class MaxViT(Checkpointing, nn.Module):
    """A stem, four stages and a head."""

    def __init__(
        self, stem: Stem, stages: list[Stage], dim: int, head: Head, lay: MaxVitLayout
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.norm = nn.Identity() if lay.dense else ChannelNorm(dim, lay.ln_eps)
        self.head = head
        init(self)

    def convert_state(self, state: State) -> State:
        """Resize bias tables of another, square window to this model's, bilinearly."""
        modules = dict(self.named_modules())
        for name, table in list(state.items()):
            bias = modules.get(name.removesuffix(".relative_position_bias_table"))
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
              that are None here comes from it, see MaxVitLayout
    window    sides of the tiles, and grid those of the grid: img_size / 32 unless given
    se_ratio  squeezed channels: in tf a share of the output's, in rw of the expanded ones
    rel_pos   "bias_tf", "swin" or "mlp"
    head_hidden  width of the hidden layer before the classifier; rw has none unless given
    """
    options = {"rel_pos": rel_pos, "qkv": qkv, "padding": padding, "expand_from": expand_from}
    options |= {"act": act, "act_conv": act_conv, "act_tfm": act_tfm, "se_act": se_act}
    options |= {"head": "pool" if head_hidden and head is None else head}
    lay = read_layout(
        layout,
        se_ratio=se_ratio,
        stem_bias=stem_bias,
        output_bias=output_bias,
        layer_scale=layer_scale_init,
        bn_eps=bn_eps,
        ln_eps=ln_eps,
        **options,
    )
    if len(depths) != len(embed_dim) or any(dim % dim_head for dim in embed_dim):
        raise OptionError(
            f"depths={list(depths)} and embed_dim={list(embed_dim)} must name the same stages, "
            f"with widths that divide by dim_head={dim_head}"
        )
    usual = (max(sides(img_size)[0] // 32, 1), max(sides(img_size)[1] // 32, 1))
    tile = _pair(window, usual)

    def block(inputs: int, dim: int, stride: int) -> Block:
        conv = MBConv(inputs, dim, stride, mbconv_expand, lay)
        tiles = AttentionBlock(dim, dim_head, "block", tile, mlp_ratio, lay)
        return Block(
            conv, tiles, AttentionBlock(dim, dim_head, "grid", _pair(grid, tile), mlp_ratio, lay)
        )

    stages, inputs = [], stem_width[1]
    for dim, depth in zip(embed_dim, depths, strict=True):
        blocks = [block(dim if n else inputs, dim, 1 if n else 2) for n in range(depth)]
        stages.append(Stage(blocks))
        inputs = dim
    top = Head(inputs, head_hidden or inputs, num_classes, lay)
    return MaxViT(Stem(in_channels, stem_width, lay), stages, inputs, top, lay)


def _pair(given: int | Sequence[int] | None, usual: tuple[int, int]) -> tuple[int, int]:
    if given is None:
        return usual
    return (given, given) if isinstance(given, int) else (int(given[0]), int(given[1]))


register(
    maxvit,
    Card(
        "MaxViT",
        "MaxViT: multi-axis vision transformer, arXiv 2204.01697",
        hidden=("stages.*.blocks.*",),
        heads=("stages.*.blocks.*.attn_block.attn", "stages.*.blocks.*.attn_grid.attn"),
        classifier="head.fc",
        interpolation="bicubic",
    ),
    VARIANTS,
)
