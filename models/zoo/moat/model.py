"""MOAT (arXiv 2210.01820): mobile convolution and attention in turn, the authors' names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from ....probe.errors import OptionError
from ...card import DISTANCE, Card, Figure, State
from ...layers import Checkpointing, NormAct, SameConv2d, activation, init_weights, resize_offsets
from ...registry import register
from .blocks import Attention, MBConvBlock, MOATBlock
from .names import from_tensorflow
from .stages import Stage, read_stages
from .variants import VARIANTS

NORMAL = partial(nn.init.normal_, std=0.02)
TABLE = ".relative_position_embedding"


class MOAT(Checkpointing, nn.Module):
    """A stem, stages of blocks, and a head of the mean, a norm and a 1 x 1 convolution.

    Without classes the result is `stage1` (the stem), `stage2`, ... and `res1`, ..., which are
    the activations of those.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[Sequence[MBConvBlock]],
        *,
        dim: int,
        act: str,
        ln_eps: float,
        num_classes: int | None,
    ) -> None:
        super().__init__()
        self.stem, self.act, self.ends = stem, activation(act).function, {"stem": "1"}
        for s, blocks in enumerate(stages):
            for n, block in enumerate(blocks):
                self.add_module(name := f"block_{s:02}_{n:02}", block)
            self.ends[name] = str(s + 2)
        self.num_classes = num_classes
        if num_classes is not None:
            self.final_layer_norm = nn.LayerNorm(dim, ln_eps)
            self.logits_head = nn.Conv2d(dim, num_classes, 1)
        init_weights(self, nn.Linear, nn.Conv2d, draw=NORMAL)

    def convert_state(self, state: State) -> State:
        """Accept TensorFlow's names and shapes; resize bias tables to this model's."""
        if any(name.startswith("moat/") for name in state):
            state = from_tensorflow(state)
        modules = dict(self.named_modules())
        for name, table in list(state.items()):
            part = modules.get(name.removesuffix(TABLE)) if name.endswith(TABLE) else None
            own = part.relative_position_embedding if isinstance(part, Attention) else None
            if own is not None and table.ndim == 3:
                side = own.shape[1] // 2 + 1
                state[name] = resize_offsets(table, (side, side))
        return state

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        ends: dict[str, Tensor] = {}
        for name, part in self._parts():
            x = self.through(part, x)
            if self.num_classes is None and name in self.ends:
                ends |= {f"stage{self.ends[name]}": x, f"res{self.ends[name]}": self.act(x)}
        if self.num_classes is None:
            return ends
        x = self.final_layer_norm(x.mean((2, 3), keepdim=True).permute(0, 2, 3, 1))
        return self.logits_head(x.permute(0, 3, 1, 2)).flatten(1)

    def _parts(self) -> Iterator[tuple[str, nn.Module]]:
        """The stem and the blocks, in turn."""
        for name, part in self.named_children():
            if name == "stem" or name.startswith("block_"):
                yield name, part


class Stem(nn.Module):
    """3 x 3 convolutions, the first to half the size; a norm and an activation between them."""

    def __init__(self, in_channels: int, widths: Sequence[int], act: str, eps: float) -> None:
        super().__init__()
        for n, width in enumerate(widths):
            inputs, stride = (widths[n - 1], 1) if n else (in_channels, 2)
            self.add_module(f"conv_{n}", SameConv2d(inputs, width, 3, stride))
            if n < len(widths) - 1:
                self.add_module(f"norm_{n}", NormAct(width, eps, act))

    def forward(self, x: Tensor) -> Tensor:
        for part in self.children():
            x = part(x)
        return x


def moat(
    *,
    in_channels: int = 3,
    stem_size: Sequence[int] = (64, 64),
    block_type: Sequence[str] = ("mbconv", "mbconv", "moat", "moat"),
    num_blocks: Sequence[int] = (2, 3, 7, 2),
    hidden_size: Sequence[int] = (96, 192, 384, 768),
    stage_stride: int | Sequence[int] = 2,
    expansion_rate: int | Sequence[int] = 4,
    se_ratio: float | Sequence[float | None] | None = 0.25,
    head_size: int | Sequence[int] = 32,
    pool_size: int | Sequence[int] = 2,
    window_size: Sequence[Sequence[int] | None] | None = None,
    global_attention_at_end_of_moat_stage: bool = False,
    position_embedding_size: int | Sequence[int | None] | None = (None, None, 14, 7),
    relative_position_embedding_type: str | Sequence[str | None] | None = "2d_multi_head",
    activation: str = "gelu",
    bn_eps: float = 1e-3,
    ln_eps: float = 1e-5,
    survival_prob: float | None = None,
    num_classes: int | None = 1000,
) -> MOAT:
    """A MOAT; what is a list has one entry a stage, and a number means it for all.

    stem_size    channels of the stem's convolutions, the first of which halves the size
    block_type   "mbconv", or "moat" with attention behind the inverted bottleneck
    pool_size    side of the mean on shortcuts: 2 classified, 3 is the authors' for dense tasks
    window_size  rows and columns of attention's windows, None for the whole map, however large
    global_attention_at_end_of_moat_stage  the last block of each moat stage has no window
    position_embedding_size  P of the (2 P - 1)^2 offsets that a bias table holds; it is resized
                 to the window
    survival_prob  share of samples that keep a branch in training: 1 in the first block, falling
                 by (1 - survival_prob) / blocks from each to the next; None keeps all
    num_classes  None for a backbone that returns its stages
    Raises OptionError for lists of another length and for values that cannot be.
    """
    stages = read_stages(
        block_type,
        num_blocks=num_blocks,
        hidden_size=hidden_size,
        stage_stride=stage_stride,
        expansion_rate=expansion_rate,
        se_ratio=se_ratio,
        head_size=head_size,
        pool_size=pool_size,
        window_size=window_size,
        position_embedding_size=position_embedding_size,
        relative_position_embedding_type=relative_position_embedding_type,
    )
    if not stages or not stem_size:
        raise OptionError("a MOAT needs a stem and a stage: give stem_size and block_type entries")
    parts = _blocks(
        stages,
        stem_size[-1],
        rates=_drop_rates(survival_prob, sum(stage.num_blocks for stage in stages)),
        whole_at_end=global_attention_at_end_of_moat_stage,
        options={"act": activation, "bn_eps": bn_eps},
        ln_eps=ln_eps,
    )
    return MOAT(
        Stem(in_channels, stem_size, activation, bn_eps),
        parts,
        dim=stages[-1].hidden_size,
        act=activation,
        ln_eps=ln_eps,
        num_classes=num_classes,
    )


def _drop_rates(survival_prob: float | None, blocks: int) -> Iterator[float]:
    """The share of left-out branches of each block in turn; the last block's is not reached."""
    if survival_prob is not None and not 0 < survival_prob <= 1:
        raise OptionError(
            f"survival_prob={survival_prob!r} is no share of kept branches: give 0 < share <= 1"
        )
    last = 0.0 if survival_prob is None else 1 - survival_prob
    return (last * n / blocks for n in range(blocks))


def _blocks(
    stages: Sequence[Stage],
    inputs: int,
    *,
    rates: Iterator[float],
    whole_at_end: bool,
    options: Mapping[str, Any],
    ln_eps: float,
) -> list[list[MBConvBlock]]:
    """The blocks of every stage, which take `inputs` channels from the stem."""
    built: list[list[MBConvBlock]] = []
    for stage in stages:
        built.append([])
        for n in range(stage.num_blocks):
            stride, last = 1 if n else stage.stage_stride, n == stage.num_blocks - 1
            shared = {**options, "drop": next(rates)}
            block: MBConvBlock
            if stage.block_type == "moat":
                window = None if last and whole_at_end else stage.window_size
                block = MOATBlock(stage, inputs, stride, window=window, ln_eps=ln_eps, **shared)
            else:
                block = MBConvBlock(stage, inputs, stride, se_ratio=stage.se_ratio, **shared)
            built[-1].append(block)
            inputs = stage.hidden_size
    return built


register(
    moat,
    Card(
        "MOAT",
        "MOAT: alternating mobile convolution and attention, arXiv 2210.01820",
        hidden=("block_*",),
        heads=("block_*.attention",),
        classifier="logits_head",
        shows=(
            Figure(
                "Where the centre looks",
                "centre",
                about="Within its window in early stages, over the whole map in late ones.",
            ),
            Figure(
                "Position bias",
                "tables",
                sites=("**:position_bias",),
                about="What offsets add to the scores of each head, resized to the window; "
                "offset 0 in the middle.",
            ),
            DISTANCE,
        ),
    ),
    VARIANTS,
    fixed={"use_checkpointing_for_attention": False},
)
