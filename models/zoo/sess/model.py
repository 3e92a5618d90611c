"""FFNet, simple and efficient architectures for semantic segmentation (arXiv 2206.08236)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from ....probe.errors import ModelError, OptionError, near
from ...card import Card, Figure, State
from ...registry import register
from .backbones import Backbone, Plan, Smoothing, plan
from .heads import Head
from .variants import VARIANTS

HEADS = tuple(code + mode for mode in ("", "_mobile") for code in "ABC")
TASKS = (*(f"segmentation_{code}" for code in "ABC"), "classification")
SCALES = tuple(f"head.layers.1.fam_{name}" for name in ("4", "8_sm", "16_sm", "32_sm"))
EXTRA = "smoothing.weight"


class FFNet(nn.Module):
    """A backbone and a head: picture `b c y x` to logits.

    Segmentation gives `b classes y x` at the finest features, 1/4 of the picture, 1/8 of a deeper
    backbone and of one that blurs the picture first; classification `b classes`, also of one
    picture. Raises ModelError for other channels, or too small a picture.
    """

    def __init__(
        self,
        made: Plan,
        *,
        head: str,
        task: str,
        in_channels: int,
        num_classes: int,
        smooth: bool,
        eps: float,
    ) -> None:
        super().__init__()
        self.in_channels, self.least = in_channels, 8 << smooth
        self.backbone_model = Backbone(made, in_channels, eps)
        code, _, mode = head.partition("_")
        read = "X" if task == "classification" else task[-1]
        self.head = Head(made.features, code, mode == "mobile", read, num_classes, eps)
        self.smoothing = Smoothing(in_channels) if smooth else None

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] != self.in_channels or min(x.shape[2:]) < self.least:
            raise ModelError(
                f"FFNet takes b {self.in_channels} y x with sides of at least {self.least}, but "
                f"the tensor is {tuple(x.shape)}: give it such a one"
            )
        return self.head(self.backbone_model(x if self.smoothing is None else self.smoothing(x)))

    def convert_state(self, state: State) -> State:
        """Published weights of the network that blurs serve the one that does not."""
        if self.smoothing is None:
            state.pop(EXTRA, None)
        return state


def sess(
    *,
    backbone: str = "Resnet40S",
    head: str = "B_mobile",
    task: str = "segmentation_B",
    pre_downsampling: bool = False,
    layers: Sequence[int] | None = None,
    in_channels: int = 3,
    num_classes: int = 19,
    norm_eps: float = 1e-5,
) -> FFNet:
    """An FFNet.

    backbone          `Resnet18` to `Resnet150`, slim `Resnet22S` to `Resnet150S`, narrow
                      `Resnet46N` to `Resnet122N`, narrow and small `...NS`; `_D` halves once more
    head              channels of the branch from coarse to fine, `A`, `B` or `C`; `_mobile` resizes
                      to the nearest value, else it is bilinear with corners on corners
    task              `segmentation_A`, `_B` or `_C`, or `classification`
    pre_downsampling  blur the picture and halve it first
    layers            blocks a stage, in place of those of the backbone's name
    Raises OptionError for unknown words and another number of stages.
    """
    for word, value, known in (("head", head, HEADS), ("task", task, TASKS)):
        if value not in known:
            hint = near(value, known) or "; there are " + ", ".join(known)
            raise OptionError(f"an FFNet has no {word}={value!r}{hint}")
    net = FFNet(
        plan(backbone, layers),
        head=head,
        task=task,
        in_channels=in_channels,
        num_classes=num_classes,
        smooth=pre_downsampling,
        eps=norm_eps,
    )
    _start(net)
    return net


def _start(net: nn.Module) -> None:
    """Convolutions by a normal of 0.01, their biases 1e-4; linear layers within 1 / sqrt(out)."""
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.weight, std=0.01)
            if part.bias is not None:
                nn.init.constant_(part.bias, 1e-4)
        if isinstance(part, nn.Linear):
            bound = 1 / math.sqrt(part.out_features)
            nn.init.uniform_(part.weight, -bound, bound)
            nn.init.uniform_(part.bias, -bound, bound)


SHOWS = (
    Figure(
        "Scales",
        "norm",
        sites=SCALES,
        about="Features of each scale, from fine to coarse: their length at each place.",
    ),
    Figure(
        "Share of each scale",
        "shares",
        sites=SCALES,
        methods=("lrp:lrp0",),
        about="How much of the explained score passes through each scale; they add up to 1 but "
        "for biases behind them.",
    ),
    Figure(
        "What the score reads",
        "maps",
        sites=("input",),
        methods=("gradient,reduce=norm",),
        about="The size of the gradient at each pixel: of one logit at one place, its effective "
        "receptive field.",
    ),
)
register(
    sess,
    Card(
        "FFNet (simple segmentation)",
        "Simple and efficient architectures for semantic segmentation, arXiv 2206.08236",
        hidden=("backbone_model.layer?.*", "head.layers.1.fam_*"),
        shows=SHOWS,
    ),
    VARIANTS,
    fixed={"use_adapter_convs": True},
)
