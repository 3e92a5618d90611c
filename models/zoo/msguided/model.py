"""Multi-scale self-guided attention for medical pictures (arXiv 1906.02849)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ....probe.errors import ModelError, OptionError
from ....probe.mark import mark
from ...card import Card, Figure
from ...registry import Variant, register
from .attention import AttentionLayer, ChannelAttention, PositionAttention
from .backbone import ResNeXt
from .semantic import MultiConv, SemanticModule, resized

SCALES = (4, 3, 2, 1)  # the coarsest first, as its names count
BACKBONES: dict[str, dict[str, Any]] = {
    "resnext101": {"layers": (3, 4, 23, 3), "groups": 32, "width_per_group": 8},
    "resnext50": {"layers": (3, 4, 6, 3), "groups": 32, "width_per_group": 4},
}


class GuidedAttention(nn.Module):
    """Logits `b class y x` of pictures; attention of places and channels, twice, at four scales.

    A stage's attention is (channel + position) times what an autoencoder makes of the same
    features, so that meaning guides where it looks; the second stage reads the first one's. In
    training, or with `train_outputs`, a mapping: `logits`, the eight `predictions`, `codes_1` and
    `codes_2` of both stages, coarsest scale first, and what was `encoded` and `decoded`.
    Ports `gate_1` and `gate_2` of each scale hold the guided attention.
    """

    def __init__(
        self, resnext: ResNeXt, *, classes: int, inter_channels: int, eps: float,
        train_outputs: bool | None,
    ) -> None:  # fmt: skip
        super().__init__()
        c = inter_channels
        self.train_outputs, self.in_channels = train_outputs, resnext.layer0[0].in_channels
        self.resnext = resnext
        for scale, width in zip(SCALES, reversed(resnext.channels), strict=True):
            self.add_module(f"down{scale}", nn.Sequential(
                nn.Conv2d(width, c, 1), nn.BatchNorm2d(c, eps), nn.PReLU()
            ))  # fmt: skip
        self._add_unused(c, eps)
        for stage in (1, 2):
            for n in range(1, 5):
                name = f"{n}" if stage == 1 else f"1{n}"
                self.add_module(f"conv8_{name}", nn.Conv2d(c, c, 1))
                self.add_module(f"conv_sem_{stage}_{n}", nn.Conv2d(2 * c, c, 3, padding=1))
                for kind, word in ((PositionAttention, "pam"), (ChannelAttention, "cam")):
                    layer = AttentionLayer(kind, c, eps)
                    self.add_module(f"{word}_attention_{stage}_{n}", layer)
            self.add_module(f"semanticModule_{stage}_1", SemanticModule(2 * c, eps))
        self.fuse1 = MultiConv(4 * c, c, eps)
        for n in range(1, 5):
            self.add_module(f"predict{n}", nn.Conv2d(c, classes, 1))
            self.add_module(f"predict{n}_2", nn.Conv2d(c, classes, 1))
        self.hidden = (*(f"resnext.layer{n}" for n in range(1, 5)), "fuse1")
        stages = [(s, n) for s in (1, 2) for n in SCALES]
        self.heads = tuple(
            f"{word}_attention_{s}_{n}.attn.3" for s, n in stages for word in ("pam", "cam")
        )
        self.apply(_init)

    def _add_unused(self, c: int, eps: float) -> None:
        """What published files hold and nothing calls."""
        for n in range(1, 5):
            for row in (6, 7):
                unused = nn.Sequential(nn.Identity(), nn.Conv2d(c, c, 1))
                self.add_module(f"conv{row}_{n}", unused)
            self.add_module(f"attention{n}", MultiConv(2 * c, c, eps, attn=True))
            self.add_module(f"refine{n}", MultiConv(2 * c, c, eps))

    def forward(self, x: Tensor) -> Tensor | dict[str, Any]:
        self._check(x)
        maps = self.resnext(x)
        down = {n: self.get_submodule(f"down{n}")(maps[n - 1]) for n in SCALES}
        down = {n: resized(d, maps[0]) if n > 1 else d for n, d in down.items()}
        fused = self.fuse1(torch.cat([down[n] for n in SCALES], 1))
        first = {n: torch.cat([d, fused], 1) for n, d in down.items()}
        codes_1, decoded_1, gates = self._stage(1, first)
        second = {n: torch.cat([d, gates[n] * fused], 1) for n, d in down.items()}
        codes_2, decoded_2, refined = self._stage(2, second)
        last = [resized(self.get_submodule(f"predict{n}_2")(refined[n]), x) for n in range(1, 5)]
        logits = torch.stack(last).sum(0) / 4
        if not (self.training if self.train_outputs is None else self.train_outputs):
            return logits
        plain = [resized(self.get_submodule(f"predict{n}")(down[n]), x) for n in range(1, 5)]
        return {
            "logits": logits,
            "predictions": [*plain, *last],
            "codes_1": [codes_1[n] for n in SCALES],
            "codes_2": [codes_2[n] for n in SCALES],
            "encoded": [z[n] for z in (first, second) for n in range(1, 5)],
            "decoded": [z[n] for z in (decoded_1, decoded_2) for n in range(1, 5)],
        }

    def _stage(
        self, stage: int, features: dict[int, Tensor]
    ) -> tuple[dict[int, Tensor], dict[int, Tensor], dict[int, Tensor]]:
        """Codes, reconstructions and guided attention of each scale."""
        codes, decoded, gates = {}, {}, {}
        semantic = self.get_submodule(f"semanticModule_{stage}_1")  # one for all scales
        for n, z in features.items():
            codes[n], decoded[n] = semantic(z)
            position = self.get_submodule(f"pam_attention_{stage}_{n}")(z)
            channel = self.get_submodule(f"cam_attention_{stage}_{n}")(z)
            place = 5 - n  # convolutions count from the coarsest scale
            guide = self.get_submodule(f"conv_sem_{stage}_{place}")(decoded[n])
            mix = self.get_submodule(f"conv8_{place}" if stage == 1 else f"conv8_1{place}")
            gates[n] = mark(f"gate_{stage}", mix((channel + position) * guide))
        return codes, decoded, gates

    def _check(self, x: Tensor) -> None:
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ModelError(
                f"the model takes pictures b {self.in_channels} y x, but was given {tuple(x.shape)}"
            )
        if any(side % 8 or not side for side in x.shape[2:]):
            raise ModelError(
                f"sides of {tuple(x.shape[2:])} pixels were given, but the semantic decoder only "
                "matches multiples of 8: resize or pad the picture"
            )


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.xavier_normal_(module.weight)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


def msguided(
    *,
    backbone: str = "resnext101",
    layers: Sequence[int] | None = None,
    width: int = 64,
    groups: int | None = None,
    width_per_group: int | None = None,
    in_channels: int = 1,
    num_classes: int = 5,
    inter_channels: int = 64,
    norm_eps: float = 1e-5,
    train_outputs: bool | None = None,
) -> GuidedAttention:
    """Guided attention on a ResNeXt.

    backbone       `resnext101` (32 x 8d) or `resnext50` (32 x 4d); `layers`, `width`, `groups`
                   and `width_per_group` say otherwise
    train_outputs  the mapping instead of logits; left out, in training only
    """
    word = backbone.lower().partition(" ")[0].replace("-", "")  # as golden cases say it
    if word not in BACKBONES:
        raise OptionError(f"backbone {backbone!r} is unknown: write {' or '.join(BACKBONES)}")
    shape = dict(BACKBONES[word])
    said = {"layers": layers, "groups": groups, "width_per_group": width_per_group}
    shape |= {name: value for name, value in said.items() if value is not None}
    if len(shape["layers"]) != 4 or min(shape["layers"]) < 1:
        raise OptionError(f"layers={layers!r} must give four stages one block or more each")
    if inter_channels < 8:
        raise OptionError(f"inter_channels={inter_channels} must be at least 8, a query's share")
    resnext = ResNeXt(**shape, width=width, in_channels=in_channels, eps=norm_eps)
    return GuidedAttention(
        resnext,
        classes=num_classes,
        inter_channels=inter_channels,
        eps=norm_eps,
        train_outputs=train_outputs,
    )


FIGURES = (
    Figure(
        "What the centre attends to",
        "centre",
        sites=tuple(f"pam_attention_{s}_{n}.attn.3" for s in (1, 2) for n in (4, 1)),
        about="Position attention of the middle pixel, at the coarsest and the finest scale, "
        "in both stages.",
    ),
    Figure(
        "Which channels read which",
        "whole maps",
        sites=tuple(f"cam_attention_{s}_{n}.attn.3" for s in (1, 2) for n in (4, 1)),
        about="Channel attention: readers down, what they read across.",
    ),
    Figure(
        "Guided attention, stage 1 against 2",
        "norm",
        sites=(":gate_1", ":gate_2"),
        about="The size of (channel + position) x meaning at each scale, coarsest first.",
    ),
)
register(
    msguided,
    Card(
        "Multi-scale self-guided attention",
        "Multi-scale self-guided attention for medical image segmentation, arXiv 1906.02849",
        size=256,
        resize=256,
        mean=(0.0,),
        std=(1.0,),
        labels=("background", "liver", "right kidney", "left kidney", "spleen"),
        about="no weights are published",
        shows=FIGURES,
    ),
    [
        Variant("msguided_resnext101", also=("msguided",), build={"backbone": "resnext101"}),
        Variant("msguided_resnext50", build={"backbone": "resnext50"}),
        Variant(
            "msguided_narrow",
            build={
                "backbone": "resnext50",
                "layers": (1, 1, 1, 1),
                "width": 16,
                "groups": 1,
                "width_per_group": 64,
                "inter_channels": 16,
            },
            about="for CPUs, not from the paper",
        ),
    ],
)
