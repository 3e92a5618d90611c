"""ResNet-50 with BNNeck for re-identification, with a gate behind chosen blocks (2302.14574).

The paper was published without code. What is known is its aim, a gate that costs little, and that
rules say where it pays; the layout of the gate and of the network are choices made here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import wraps
from itertools import accumulate
from typing import Any, Literal

from torch import Tensor, nn

from ....probe.errors import ModelError, OptionError
from ...card import Card, Figure
from ...layers import Bottleneck, Checkpointing
from ...layers.gates import gate
from ...registry import Variant, register
from .pair import SimilarityOfTwo

Embedding = Literal["before", "after"]


class ReidNet(Checkpointing, nn.Module):
    """A ResNet's trunk, `attention.N` behind block N of it, a mean, BNNeck, a classifier.

    Returns the embedding `b d`; with `return_logits` also the scores of people known in training,
    {"logits", "embedding"}.
    """

    def __init__(
        self,
        layers: Sequence[int],
        *,
        width: int,
        last_stride: int,
        embedding: Embedding,
        return_logits: bool,
        in_channels: int,
        num_classes: int,
        eps: float,
    ) -> None:
        super().__init__()
        self.embedding, self.return_logits, self.stages = embedding, return_logits, len(layers)
        self.conv1 = nn.Conv2d(in_channels, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width, eps)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        last, self.widths = width, list[int]()
        for n, count in enumerate(layers):
            inner, out = width << n, (width << n) * Bottleneck.expansion
            stride = 1 if n == 0 else last_stride if n == len(layers) - 1 else 2
            blocks = [Bottleneck(last, out, stride, inner, 1, eps)]
            blocks += [Bottleneck(out, out, 1, inner, 1, eps) for _ in range(count - 1)]
            self.add_module(f"layer{n + 1}", nn.Sequential(*blocks))
            self.widths += [out] * count
            last = out
        self.attention = nn.ModuleDict()
        self.bottleneck = nn.BatchNorm1d(last, eps)
        self.bottleneck.bias.requires_grad_(False)  # a shift would move people off the origin
        self.classifier = nn.Linear(last, num_classes, bias=False)

    def insert(self, places: Sequence[int], kind: str, reduction: int, num_splits: int) -> None:
        """A gate behind each of these blocks, counted from 1."""
        for place in places:
            self.attention[str(place)] = gate(
                kind, self.widths[place - 1], reduction=reduction, num_splits=num_splits
            )

    def features(self, x: Tensor) -> Tensor:
        """The last feature map, `b d y x`."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        stages = (self.get_submodule(f"layer{n + 1}") for n in range(self.stages))
        blocks = (block for stage in stages for block in stage)  # type: ignore[attr-defined]
        for place, block in enumerate(blocks, 1):
            x = self.through(block, x)
            if str(place) in self.attention:
                x = self.attention[str(place)](x)
        return x

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        before = self.features(x).mean((2, 3))
        if self.embedding == "before" and not self.return_logits:
            return before
        after = self.bottleneck(before)
        embedding = before if self.embedding == "before" else after
        if not self.return_logits:
            return embedding
        return {"logits": self.classifier(after), "embedding": embedding}

    def load_trunk(self, state: Mapping[str, Tensor]) -> None:
        """Take the trunk's weights from the state dict of a ResNet; gates and neck stay.

        Raises ModelError where the trunk does not fit.
        """
        own = self.state_dict()
        head = ("attention.", "bottleneck.", "classifier.")
        wanted = {name for name in own if not name.startswith(head)}
        missing = [n for n in sorted(wanted) if n not in state or state[n].shape != own[n].shape]
        if missing:
            raise ModelError(
                f"a trunk of {len(wanted)} entries was to be taken from a state dict of "
                f"{len(state)}, but {missing[0]!r} is missing or of another shape there: give that "
                "of a ResNet of the same layers"
            )
        self.load_state_dict({**own, **{name: state[name] for name in wanted}})


def reid_lba(
    *,
    layers: Sequence[int] = (3, 4, 6, 3),
    width: int = 64,
    last_stride: int = 1,
    attention: str = "lba",
    locations: str = "0111",
    per: Literal["stage", "block"] = "stage",
    reduction: int = 16,
    num_splits: int = 4,
    embedding: Embedding = "after",
    return_logits: bool = False,
    in_channels: int = 3,
    num_classes: int = 751,
    norm_eps: float = 1e-5,
) -> ReidNet:
    """A network for re-identification.

    last_stride    of the last stage: 1 keeps its pictures at a sixteenth
    attention      "lba", "se", "psa_p", "psa_s" or "ulsam"
    locations      1 where a gate stands, 0 where none does: a digit a stage, or a block
    per            what a digit of `locations` is about: behind a whole "stage", or each "block"
    reduction      of the channels inside lba and se; num_splits: groups of channels of ulsam
    embedding      "after" BNNeck or "before" it; people are compared by its cosine
    return_logits  also return the scores of people known in training: {"logits", "embedding"}
    num_classes    people in training
    """
    if not layers or min(layers) < 1:
        raise OptionError(
            f"layers={tuple(layers)} were asked of a ResNet: give one number a stage, 1 or more"
        )
    if embedding not in ("before", "after"):
        raise OptionError(f"embedding={embedding!r} is unknown: write 'before' or 'after' (BNNeck)")
    net = ReidNet(
        layers,
        width=width,
        last_stride=last_stride,
        embedding=embedding,
        return_logits=return_logits,
        in_channels=in_channels,
        num_classes=num_classes,
        eps=norm_eps,
    )
    net.insert(places_of(locations, per, layers), attention, reduction, num_splits)
    return net


@wraps(reid_lba)
def reid_lba_pair(**hyper: Any) -> SimilarityOfTwo:
    """The similarity of two pictures by one such network, whose checkpoints it takes."""
    return SimilarityOfTwo(reid_lba(**hyper))


def places_of(locations: str, per: str, layers: Sequence[int]) -> list[int]:
    """The blocks, counted from 1, behind which a mask puts gates. Raises OptionError."""
    if per not in ("stage", "block"):
        raise OptionError(f"per={per!r} is unknown: write 'stage' or 'block'")
    ends = list(accumulate(layers)) if per == "stage" else list(range(1, sum(layers) + 1))
    if len(locations) != len(ends) or set(locations) - {"0", "1"}:
        raise OptionError(
            f"locations={locations!r} was given for {len(ends)} {per}s: give 0 or 1 for each"
        )
    return [end for digit, end in zip(locations, ends, strict=True) if digit == "1"]


SHOWS = (
    Figure(
        "Gates of places",
        "channels",
        sites=("**attention.*:spatial_gate",),
        about="How much of a place is let through, before it is mixed with that of channels.",
    ),
    Figure(
        "Gates of channels",
        "sorted",
        sites=("**attention.*:channel_gate",),
        about="The same of channels, the largest first.",
    ),
)
ABOUT = (
    "published without code or weights: gate, neck and locations are a reconstruction from the "
    "abstract"
)


def rival(name: str, kind: str, words: str) -> Variant:
    """A row: another gate in the same places."""
    about = f"ResNet-50 with BNNeck and {words} where reid_lba has its gates"
    return Variant(name, build={"attention": kind}, about=about, card={"shows": ()})


CARD = Card(
    "ResNet-50 with a little bit of attention",
    "A little bit attention is all you need for person re-identification, arXiv 2302.14574",
    hidden=("layer?.*",),
    classifier="classifier",
    size=(256, 128),
    resize=256,
    labels="",
    about=ABOUT,
    shows=SHOWS,
)
register(
    reid_lba,
    CARD,
    (
        Variant("reid_lba", also=("reid_lba_resnet50",)),
        Variant(
            "reid_resnet50",
            build={"locations": "0000"},
            about="ResNet-50 with BNNeck, without a gate",
            card={"shows": ()},
        ),
        rival("reid_resnet50_se", "se", "squeeze-and-excitation"),
        rival("reid_resnet50_psa_p", "psa_p", "polarized attention, its gates side by side"),
        rival("reid_resnet50_psa_s", "psa_s", "polarized attention, one gate behind the other"),
        rival("reid_resnet50_ulsam", "ulsam", "ULSAM"),
    ),
)
register(
    reid_lba_pair,
    replace(
        CARD,
        hidden=("net.layer?.*",),
        classifier="",
        axes=(("input.1", "b c y x"), ("input.gallery", "b c y x")),
    ),
    (Variant("reid_lba_pair"),),
)
