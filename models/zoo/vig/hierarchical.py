"""Hierarchical ViG (arXiv 2405.18425): four stages of gated linear attention, channels first."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor, nn

from ....probe.errors import OptionError
from ...card import Card, State
from ...layers import ChannelNorm, Checkpointing, GatedMlp
from ...registry import Variant, register
from .model import PAPER, Mixer, published, rounded_up

# Names of older files and what they are called now.
_OLD = (
    (re.compile(r"^patch_embed\.proj\b"), "patch_embed.0"),
    (re.compile(r"^patch_embed\.norm\b"), "patch_embed.2"),
    (re.compile(r"\bln_1\b"), "norm"),
    (re.compile(r"\bself_attention\b"), "op"),
    (re.compile(r"^(norm|head)\b"), r"classifier.\1"),
)


class GridMlp(GatedMlp):
    """The gated MLP on `b c y x`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class GridMixer(Mixer):
    """The mixer on `b c y x`."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        grid = (x.shape[2], x.shape[3])
        tokens = super().forward(x.flatten(2).transpose(1, 2), grid)
        return tokens.transpose(1, 2).unflatten(2, grid)


class Block(nn.Module):
    """Pre-norm residual block on `b c y x`."""

    def __init__(self, dim: int, op: GridMixer, hidden: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(dim)
        self.op = op
        self.norm2 = ChannelNorm(dim)
        self.mlp = GridMlp(dim, hidden, names=("fc1", "fc2"))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.op(self.norm(x))
        return x + self.mlp(self.norm2(x))


class Stage(nn.Module):
    """Blocks, then half the size and twice the channels."""

    def __init__(self, blocks: list[Block], dim: int, *, last: bool) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        halve = nn.Conv2d(dim, 2 * dim, 3, stride=2, padding=1)
        ends = [nn.Identity(), halve, nn.Identity(), ChannelNorm(2 * dim)]
        self.downsample = nn.Identity() if last else nn.Sequential(*ends)

    def forward(self, x: Tensor) -> Tensor:
        return self.downsample(self.blocks(x))


class Classifier(nn.Module):
    """Norm, mean over positions, linear."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(dim)
        self.head = nn.Linear(dim, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x).mean((2, 3)))


class HierViG(Checkpointing, nn.Module):
    """A stem of two convolutions and four stages; any input size."""

    def __init__(self, stages: list[Stage], dim: int, in_channels: int, classifier: Classifier):
        super().__init__()
        half = dim // 2
        self.patch_embed = nn.Sequential(
            nn.Conv2d(in_channels, half, 3, stride=2, padding=1),
            nn.Identity(),
            ChannelNorm(half),
            nn.Identity(),
            nn.GELU(),
            nn.Conv2d(half, dim, 3, stride=2, padding=1),
            nn.Identity(),
            ChannelNorm(dim),
        )
        self.layers = nn.ModuleList(stages)
        self.classifier = classifier

    def convert_state(self, state: State) -> State:
        """Names of older files, and matrices kept as 1 x 1 convolutions."""
        wanted, current = self.state_dict(), {}
        for name, value in state.items():
            for pattern, new in _OLD:
                name = pattern.sub(new, name)
            square = name in wanted and value.ndim == 4 and wanted[name].ndim == 2
            current[name] = value[:, :, 0, 0] if square else value
        return current

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        for stage in self.layers:
            for block in stage.blocks:  # type: ignore[union-attr]
                x = self.through(block, x)
            x = stage.downsample(x)  # type: ignore[operator]
        return self.classifier(x)


def vig_h(
    *,
    in_channels: int = 3,
    dims: int = 96,
    depths: Sequence[int] = (2, 2, 5, 2),
    num_heads: Sequence[int] = (3, 6, 12, 24),
    expand_k: float = 0.5,
    mlp_ratio: float = 4.0,
    use_act_in_conv: bool = False,
    use_out_act: bool = False,
    clamp_min: float | None = None,
    gate_logit_normalizer: float = 16,
    gate_low_rank_dim: int = 16,
    norm_eps: float = 1e-6,
    num_classes: int = 1000,
) -> HierViG:
    """A hierarchical ViG; `dims` is the width of the first stage, doubled at each further one."""
    if len(depths) != len(num_heads):
        raise OptionError(
            f"depths={list(depths)} and num_heads={list(num_heads)} name different numbers of "
            "stages: give one of each a stage"
        )
    widths = [dims * 2**s for s in range(len(depths))]

    def block(s: int) -> Block:
        mixer = GridMixer(
            widths[s],
            num_heads[s],
            expand_k=expand_k,
            act=use_act_in_conv,
            out_act=use_out_act,
            clamp=clamp_min,
            normalizer=gate_logit_normalizer,
            rank=gate_low_rank_dim,
            eps=norm_eps,
            halve=False,
        )
        return Block(widths[s], mixer, rounded_up(widths[s] * mlp_ratio * 2 / 3, 32))

    stages = [
        Stage([block(s) for _ in range(depth)], widths[s], last=s == len(depths) - 1)
        for s, depth in enumerate(depths)
    ]
    return HierViG(stages, dims, in_channels, Classifier(widths[-1], num_classes))


FIXED: dict[str, object] = {
    "expand_v": 1.0,
    "rope_mode": "none",
    "gmlp": True,
    "downsample_version": "v3",
    "norm_layer": "ln2d",
    "patchembed_version": "v2",
}
VARIANTS = (
    Variant(
        "vig_h_tiny",
        build={"dims": 96, "depths": (2, 2, 5, 2), "num_heads": (3, 6, 12, 24)},
        weights=published("vig_h_tiny"),
    ),
    Variant(
        "vig_h_small",
        build={"dims": 96, "depths": (2, 2, 17, 2), "num_heads": (3, 6, 12, 24)},
        weights=published("vig_h_small"),
    ),
    Variant(
        "vig_h_base",
        build={"dims": 128, "depths": (2, 2, 17, 2), "num_heads": (4, 8, 16, 32)},
        weights=published("vig_h_base"),
    ),
)
register(
    vig_h,
    Card(
        "hierarchical ViG",
        PAPER,
        hidden=("layers.*.blocks.*",),
        heads=("layers.*.blocks.*.op",),
        classifier="classifier.head",
        interpolation="bicubic",
    ),
    VARIANTS,
    fixed=FIXED,
)
