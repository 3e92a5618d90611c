"""MobileNet v2 (arXiv 1801.04381) and where ULSAM goes into it; torchvision's parameter names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from ...card import Card, Source
from ...layers import Checkpointing, divisible, init_weights
from ...registry import Variant, register
from .figures import SHOWS
from .hosted import Hosted, check_places, stand_in

# factor of the hidden width, width, blocks, stride of the first
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def conv_norm_relu6(
    dim: int, out: int, kernel: int, stride: int = 1, groups: int = 1, *, eps: float
) -> nn.Sequential:
    """A convolution without bias, its batch norm, ReLU6."""
    conv = nn.Conv2d(dim, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out, eps), nn.ReLU6())


class InvertedResidual(nn.Module):
    """A 1 x 1 that widens, a depthwise 3 x 3, a linear 1 x 1; a shortcut where the shape stays."""

    def __init__(self, dim: int, out: int, stride: int, factor: int, eps: float) -> None:
        super().__init__()
        hidden, self.shortcut = dim * factor, stride == 1 and dim == out
        wide = [conv_norm_relu6(dim, hidden, 1, eps=eps)] if factor != 1 else []
        self.conv = nn.Sequential(
            *wide,
            conv_norm_relu6(hidden, hidden, 3, stride, hidden, eps=eps),
            nn.Conv2d(hidden, out, 1, bias=False),
            nn.BatchNorm2d(out, eps),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


class MobileNetV2(Checkpointing, Hosted):
    """`features`: a stem, 17 blocks, a last 1 x 1; `ulsam.N` follows block N, `features.N`."""

    def __init__(
        self,
        features: Sequence[nn.Module],
        *,
        last: int,
        num_classes: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(*features)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        for place, part in enumerate(self.features):
            x = self.after(place, self.through(part, x))
        return self.classifier(x.mean((2, 3)))


def mobilenet_v2(
    *,
    width: float = 1.0,
    insert: Sequence[int] = (),
    replace: Sequence[int] = (),
    num_splits: int = 4,
    dropout: float = 0.2,
    in_channels: int = 3,
    num_classes: int = 1000,
    norm_eps: float = 1e-5,
) -> MobileNetV2:
    """A MobileNet v2, with ULSAM where it is asked for.

    width       factor of all numbers of channels, which are rounded to multiples of 8
    insert      blocks, counted from 1 to 17, behind which a ULSAM stands
    replace     blocks with a shortcut in whose place one stands: 8, 9, 10 (64 channels), 12, 13
                (96) and 15, 16 (160) keep their shape; among equals, costs do not tell which
    num_splits  subspaces of each ULSAM: 1, 2, 4, 8 and 16 are published
    """
    stem = dim = divisible(32 * width)
    plan = [
        (factor, divisible(w * width), s if n == 0 else 1)
        for factor, w, depth, s in STAGES
        for n in range(depth)
    ]
    check_places("replace", replace, len(plan))
    features: list[nn.Module] = [conv_norm_relu6(in_channels, stem, 3, 2, eps=norm_eps)]
    for place, (factor, out, stride) in enumerate(plan, 1):
        if place in replace:
            features.append(stand_in(place, dim, out, stride, num_splits))
        else:
            features.append(InvertedResidual(dim, out, stride, factor, norm_eps))
        dim = out
    last = divisible(1280 * max(1.0, width))
    features.append(conv_norm_relu6(dim, last, 1, eps=norm_eps))
    net = MobileNetV2(features, last=last, num_classes=num_classes, dropout=dropout)
    net.insert(insert, [out for _, out, _ in plan], num_splits)
    init_weights(net, nn.Conv2d, draw=partial(nn.init.kaiming_normal_, mode="fan_out"))
    init_weights(net, nn.Linear, draw=partial(nn.init.normal_, std=0.01))
    return net


CHOICE = "of equal blocks the last of its stage: published costs do not tell which"
INSERTED = "behind 160 channels at 7 x 7: there it costs the published 0.01 M; the last such block"


def published() -> dict[str, Source]:
    """torchvision's files of the network without ULSAM; the second trained for a resize to 232."""
    root = "https://download.pytorch.org/models/mobilenet_v2-"
    return {
        "imagenet": Source(f"{root}b0353104.pth", sha256="b0353104"),
        "imagenet_v2": Source(f"{root}7ebf99e0.pth", sha256="7ebf99e0", card={"resize": 232}),
    }


VARIANTS = (
    Variant(
        "mobilenet_v2",
        weights=published(),
        about="ImageNet top-1 71.878, V2 72.154 (torchvision)",
    ),
    Variant("mobilenet_v2_ulsam_after_16", build={"insert": (16,)}, about=INSERTED),
    Variant("mobilenet_v2_ulsam_for_13", build={"replace": (13,)}, about=CHOICE),
    Variant("mobilenet_v2_ulsam_for_16", build={"replace": (16,)}, about=CHOICE),
    Variant("mobilenet_v2_ulsam_for_10_13", build={"replace": (10, 13)}, about=CHOICE),
    Variant("mobilenet_v2_ulsam_for_15_16", build={"replace": (15, 16)}),
    Variant("mobilenet_v2_ulsam_for_13_16", build={"replace": (13, 16)}, about=CHOICE),
    Variant("mobilenet_v2_ulsam_for_12_13_15_16", build={"replace": (12, 13, 15, 16)}),
)
register(
    mobilenet_v2,
    Card(
        "MobileNet v2",
        "MobileNetV2, arXiv 1801.04381; ULSAM: ultra-lightweight subspace attention module for "
        "compact convolutional neural networks, arXiv 2006.15102",
        hidden=("features.*",),
        classifier="classifier.1",
        shows=SHOWS,
    ),
    VARIANTS,
)
