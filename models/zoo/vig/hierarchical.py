"""Hierarchical ViG (arXiv 2405.18425): four stages of gated linear attention, channels first."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ....probe.errors import OptionError
from ...card import Card, State
from ...layers import ChannelNorm, Checkpointing
from ...registry import model
from .model import CROP, PAPER, Mixer, refuse, rounded_up, source

# Names of older files and what they are called now.
_OLD = (
    (re.compile(r"^patch_embed\.proj\b"), "patch_embed.0"),
    (re.compile(r"^patch_embed\.norm\b"), "patch_embed.2"),
    (re.compile(r"\bln_1\b"), "norm"),
    (re.compile(r"\bself_attention\b"), "op"),
    (re.compile(r"^(norm|head)\b"), r"classifier.\1"),
)


class GatedMlp(nn.Module):
    """fc2(silu(gate) up), gate and up from one matrix."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 2 * hidden, bias=False)
        self.fc2 = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.fc1(x.movedim(1, -1)).chunk(2, -1)
        return self.fc2(F.silu(gate) * up).movedim(-1, 1)


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
        self.mlp = GatedMlp(dim, hidden)

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
        own, found = self.state_dict(), {}
        for name, value in state.items():
            for pattern, new in _OLD:
                name = pattern.sub(new, name)
            square = name in own and value.ndim == 4 and own[name].ndim == 2
            found[name] = value[:, :, 0, 0] if square else value
        return found

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
    expand_v: float = 1.0,
    mlp_ratio: float = 4.0,
    use_act_in_conv: bool = False,
    use_out_act: bool = False,
    rope_mode: str = "none",
    downsample_version: str = "v3",
    patchembed_version: str = "v2",
    norm_layer: str = "ln2d",
    gmlp: bool = True,
    clamp_min: float | None = None,
    gate_logit_normalizer: float = 16,
    gate_low_rank_dim: int = 16,
    norm_eps: float = 1e-6,
    num_classes: int = 1000,
) -> HierViG:
    """A hierarchical ViG; `dims` is the width of the first stage, doubled at each further one."""
    fixed = {"expand_v": (expand_v, 1.0), "rope_mode": (rope_mode, "none"), "gmlp": (gmlp, True)}
    fixed |= {"downsample_version": (downsample_version, "v3"), "norm_layer": (norm_layer, "ln2d")}
    fixed |= {"patchembed_version": (patchembed_version, "v2")}
    for name, (given, known) in fixed.items():
        refuse(name, given, known)
    if len(depths) != len(num_heads):
        raise OptionError(
            f"depths={list(depths)} and num_heads={list(num_heads)} name different numbers of "
            "stages: give one of each a stage"
        )
    stages = []
    for place, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
        dim = dims * 2**place
        blocks = [
            Block(
                dim,
                GridMixer(
                    dim,
                    heads,
                    expand_k=expand_k,
                    act=use_act_in_conv,
                    out_act=use_out_act,
                    clamp=clamp_min,
                    normalizer=gate_logit_normalizer,
                    rank=gate_low_rank_dim,
                    eps=norm_eps,
                    halve=False,
                ),
                rounded_up(dim * mlp_ratio * 2 / 3, 32),
            )
            for _ in range(depth)
        ]
        stages.append(Stage(blocks, dim, last=place == len(depths) - 1))
    width = dims * 2 ** (len(depths) - 1)
    return HierViG(stages, dims, in_channels, Classifier(width, num_classes))


VARIANTS = {
    "vig_h_tiny": (96, (2, 2, 5, 2), (3, 6, 12, 24)),
    "vig_h_small": (96, (2, 2, 17, 2), (3, 6, 12, 24)),
    "vig_h_base": (128, (2, 2, 17, 2), (4, 8, 16, 32)),
}
for _name, (_dims, _depths, _heads) in VARIANTS.items():
    _card = Card(
        _name,
        PAPER,
        hidden=("layers.*.blocks.*",),
        heads=("layers.*.blocks.*.op",),
        weights=source(_name),
        **{**CROP, "classifier": "classifier.head"},  # type: ignore[arg-type]
    )
    model(_name, card=_card, dims=_dims, depths=_depths, num_heads=_heads)(vig_h)
