"""Residual networks (arXiv 1512.03385; stride on the 3 x 3), with torchvision's parameter names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...probe.errors import OptionError
from ..card import Card, Source
from ..layers import BasicBlock, Bottleneck
from ..registry import Variant, register

BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
}


class ResNet(nn.Module):
    """Stem, stages of residual blocks of doubling width, global mean, one linear layer."""

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: Sequence[int],
        *,
        width: int,
        groups: int,
        width_per_group: int,
        in_channels: int,
        num_classes: int,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width, norm_eps)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        last, self.stages = width, len(layers)
        for n, count in enumerate(layers):
            inner = int((width << n) * (width_per_group / 64)) * groups
            out = (width << n) * block.expansion
            blocks = [block(last, out, 2 if n else 1, inner, groups, norm_eps)]
            blocks += [block(out, out, 1, inner, groups, norm_eps) for _ in range(count - 1)]
            self.add_module(f"layer{n + 1}", nn.Sequential(*blocks))
            last = out
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(last, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet(
    *,
    layers: Sequence[int] = (3, 4, 6, 3),
    block: str = "bottleneck",
    width: int = 64,
    groups: int = 1,
    width_per_group: int = 64,
    in_channels: int = 3,
    num_classes: int = 1000,
    norm_eps: float = 1e-5,
) -> ResNet:
    """A residual network: `layers` blocks a stage, stem of `width`, optional grouped 3 x 3."""
    kind = block.lower().partition(",")[0].removesuffix("block")
    if kind not in BLOCKS:
        raise OptionError(f"a ResNet has no block {block!r}: write 'basic' or 'bottleneck'")
    if kind == "basic" and (groups != 1 or width_per_group != 64):
        raise OptionError("basic blocks take no groups: use block='bottleneck' for grouped ones")
    return ResNet(
        BLOCKS[kind],
        layers,
        width=width,
        groups=groups,
        width_per_group=width_per_group,
        in_channels=in_channels,
        num_classes=num_classes,
        norm_eps=norm_eps,
    )


def published(*files: str) -> dict[str, Source]:
    """torchvision's files by tag; the second recipe was trained for a resize to 232."""
    root = "https://download.pytorch.org/models/"
    changes: tuple[dict[str, object], ...] = ({}, {"resize": 232})
    return {
        tag: Source(root + file, sha256=file[-12:-4], card=change)
        for tag, file, change in zip(("imagenet", "imagenet_v2"), files, changes, strict=False)
    }


VARIANTS = (
    Variant(
        "resnet18",
        build={"layers": (2, 2, 2, 2), "block": "basic"},
        weights=published("resnet18-f37072fd.pth"),
        about="ImageNet top-1 69.758 (torchvision)",
    ),
    Variant(
        "resnet34",
        build={"layers": (3, 4, 6, 3), "block": "basic"},
        weights=published("resnet34-b627a593.pth"),
        about="ImageNet top-1 73.314 (torchvision)",
    ),
    Variant(
        "resnet50",
        build={"layers": (3, 4, 6, 3), "block": "bottleneck"},
        weights=published("resnet50-0676ba61.pth", "resnet50-11ad3fa6.pth"),
        about="ImageNet top-1 76.130, V2 80.858 (torchvision)",
    ),
    Variant(
        "resnet101",
        build={"layers": (3, 4, 23, 3), "block": "bottleneck"},
        weights=published("resnet101-63fe2227.pth", "resnet101-cd907fc2.pth"),
        about="ImageNet top-1 77.374, V2 81.886 (torchvision)",
    ),
)
register(
    resnet,
    Card(
        "ResNet",
        "Deep residual learning for image recognition, arXiv 1512.03385",
        hidden=("layer?.*",),
        classifier="fc",
    ),
    VARIANTS,
)
