"""MobileNet v1 (arXiv 1704.04861) and where ULSAM goes into it; timm's parameter names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from ...card import Card, Source
from ...layers import Checkpointing, NormAct, divisible, init_weights
from ...registry import Variant, register
from .figures import SHOWS
from .hosted import Hosted, check_places, stand_in

STAGES = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))  # width, blocks, stride


class SeparableConvolution(nn.Module):
    """A depthwise 3 x 3 and a 1 x 1, each with batch norm and ReLU6."""

    def __init__(self, dim: int, out: int, stride: int, eps: float) -> None:
        super().__init__()
        self.conv_dw = nn.Conv2d(dim, dim, 3, stride, 1, groups=dim, bias=False)
        self.bn1 = NormAct(dim, eps, "relu6")
        self.conv_pw = nn.Conv2d(dim, out, 1, bias=False)
        self.bn2 = NormAct(out, eps, "relu6")

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv_pw(self.bn1(self.conv_dw(x))))


class MobileNetV1(Checkpointing, Hosted):
    """A stem and 13 blocks; `ulsam.N` follows block N."""

    def __init__(
        self,
        stages: Sequence[Sequence[nn.Module]],
        widths: Sequence[int],
        *,
        stem: int,
        in_channels: int,
        num_classes: int,
        dropout: float,
        eps: float,
    ) -> None:
        super().__init__()
        self.conv_stem = nn.Conv2d(in_channels, stem, 3, 2, 1, bias=False)
        self.bn1 = NormAct(stem, eps, "relu6")
        self.blocks = nn.Sequential(*(nn.Sequential(*stage) for stage in stages))
        self.drop = nn.Dropout(dropout)
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv_stem(x))
        blocks = (block for stage in self.blocks for block in stage)  # type: ignore[attr-defined]
        for place, block in enumerate(blocks, 1):
            x = self.after(place, self.through(block, x))
        return self.classifier(self.drop(x.mean((2, 3))))


def mobilenet_v1(
    *,
    width: float = 1.0,
    insert: Sequence[int] = (),
    replace: Sequence[int] = (),
    num_splits: int = 4,
    dropout: float = 0.0,
    in_channels: int = 3,
    num_classes: int = 1000,
    norm_eps: float = 1e-5,
) -> MobileNetV1:
    """A MobileNet v1, with ULSAM where it is asked for.

    width       factor of all numbers of channels, which are rounded to multiples of 8
    insert      blocks, counted from 1 to 13, behind which a ULSAM stands; of equal cost are 7 to
                11 (512 channels at 14 x 14) and 12 and 13 (1024 at 7 x 7)
    replace     blocks in whose place one stands; among 7 to 11, costs do not tell which
    num_splits  subspaces of each ULSAM: 1, 2, 4, 8 and 16 are published
    """
    last = stem = divisible(32 * width)
    plan = [(divisible(w * width), s if n == 0 else 1) for w, d, s in STAGES for n in range(d)]
    check_places("replace", replace, len(plan))
    blocks: list[nn.Module] = []
    for place, (out, stride) in enumerate(plan, 1):
        if place in replace:
            blocks.append(stand_in(place, last, out, stride, num_splits))
        else:
            blocks.append(SeparableConvolution(last, out, stride, norm_eps))
        last = out
    left = iter(blocks)
    net = MobileNetV1(
        [[next(left) for _ in range(depth)] for _, depth, _ in STAGES],
        [out for out, _ in plan],
        stem=stem,
        in_channels=in_channels,
        num_classes=num_classes,
        dropout=dropout,
        eps=norm_eps,
    )
    net.insert(insert, [out for out, _ in plan], num_splits)
    init_weights(net, nn.Conv2d, draw=partial(nn.init.kaiming_normal_, mode="fan_out"))
    init_weights(net, nn.Linear, draw=partial(nn.init.normal_, std=0.01))
    return net


CHOICE = "of the equal blocks 7 to 11 the last: published costs do not tell which"
TIMM = Source(
    hub="timm/mobilenetv1_100.ra4_e3600_r224_in1k",
    file="model.safetensors",
    card={"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "interpolation": "bicubic"},
)
VARIANTS = (
    Variant("mobilenet_v1", also=("mobilenetv1_100",), weights={"ra4_e3600_r224_in1k": TIMM}),
    Variant("mobilenet_v1_ulsam_after_11", build={"insert": (11,)}, about=CHOICE),
    Variant("mobilenet_v1_ulsam_after_13", build={"insert": (13,)}),
    Variant("mobilenet_v1_ulsam_for_11", build={"replace": (11,)}, about=CHOICE),
    Variant("mobilenet_v1_075_ulsam_for_11", build={"width": 0.75, "replace": (11,)}, about=CHOICE),
    Variant("mobilenet_v1_050_ulsam_for_11", build={"width": 0.5, "replace": (11,)}, about=CHOICE),
)
register(
    mobilenet_v1,
    Card(
        "MobileNet v1",
        "MobileNets, arXiv 1704.04861; ULSAM: ultra-lightweight subspace attention module for "
        "compact convolutional neural networks, arXiv 2006.15102",
        hidden=("blocks.*.*",),
        classifier="classifier",
        shows=SHOWS,
    ),
    VARIANTS,
)
