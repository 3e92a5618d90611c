"""VGG (arXiv 1409.1556), plain and with batch norm, with torchvision's parameter names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...probe.errors import OptionError, near
from ..card import Card, Source
from ..registry import Variant, register

# Widths of the 3 x 3 convolutions; "M" is a max pool of 2.
CONFIGURATIONS: dict[str, tuple[int | str, ...]] = {
    "A": (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"),
    "B": (64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"),
    "D": (
        *(64, 64, "M", 128, 128, "M", 256, 256, 256, "M"),
        *(512, 512, 512, "M", 512, 512, 512, "M"),
    ),
    "E": (
        *(64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M"),
        *(512, 512, 512, 512, "M", 512, 512, 512, 512, "M"),
    ),
}


class VGG(nn.Module):
    """Stages of 3 x 3 convolutions, a 7 x 7 pool and three linear layers.

    hidden   the last activation of each stage
    """

    def __init__(
        self,
        cfg: Sequence[int | str],
        *,
        norm: bool,
        in_channels: int,
        num_classes: int,
        dropout: float,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.hidden = stage_ends(cfg, norm=norm)
        self.features = convolutions(cfg, in_channels, norm, norm_eps)
        width = next(entry for entry in reversed(cfg) if isinstance(entry, int))
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(width * 7 * 7, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def convolutions(
    cfg: Sequence[int | str], width: int, norm: bool, norm_eps: float
) -> nn.Sequential:
    """The convolutions of all stages with their norms and activations, and the pools."""
    parts: list[nn.Module] = []
    for entry in cfg:
        if isinstance(entry, str):
            parts.append(nn.MaxPool2d(2, 2))
            continue
        parts.append(nn.Conv2d(width, entry, 3, padding=1))
        if norm:
            parts.append(nn.BatchNorm2d(entry, eps=norm_eps))
        parts.append(nn.ReLU())
        width = entry
    return nn.Sequential(*parts)


def stage_ends(cfg: Sequence[int | str], *, norm: bool) -> tuple[str, ...]:
    """The sites of the stages' last activations."""
    place, ends = 0, []
    for entry in cfg:
        if isinstance(entry, str):
            ends.append(f"features.{place - 1}")
        place += 1 if isinstance(entry, str) else 3 if norm else 2
    return tuple(ends)


def configuration(cfg: str | Sequence[int | str]) -> tuple[int | str, ...]:
    """A configuration by its letter or as a list of widths and "M"; OptionError otherwise."""
    if isinstance(cfg, str):
        if cfg not in CONFIGURATIONS:
            raise OptionError(
                f"VGG has no configuration {cfg!r}{near(cfg, CONFIGURATIONS)}; there are A B D E"
            )
        return CONFIGURATIONS[cfg]
    wrong = [entry for entry in cfg if not (entry == "M" or (isinstance(entry, int) and entry > 0))]
    if wrong or not cfg or cfg[0] == "M":
        raise OptionError(
            f"VGG cannot use the configuration {cfg!r}: list widths and 'M' for pools"
        )
    return tuple(cfg)


def vgg(
    *,
    cfg: str | Sequence[int | str] = "D",
    norm: bool = False,
    in_channels: int = 3,
    num_classes: int = 1000,
    dropout: float = 0.5,
    norm_eps: float = 1e-5,
) -> VGG:
    """A VGG by configuration, with or without batch norm."""
    return VGG(
        configuration(cfg),
        norm=norm,
        in_channels=in_channels,
        num_classes=num_classes,
        dropout=dropout,
        norm_eps=norm_eps,
    )


def variant(name: str, cfg: str, *, norm: bool = False, file: str, top1: str) -> Variant:
    """A row: torchvision's file, and the sites that the configuration gives."""
    url = f"https://download.pytorch.org/models/{file}"
    return Variant(
        name,
        build={"cfg": cfg, "norm": norm},
        weights={"imagenet": Source(url, sha256=file[-12:-4])},
        about=f"ImageNet top-1 {top1} (torchvision)",
        card={"hidden": stage_ends(CONFIGURATIONS[cfg], norm=norm)},
    )


VARIANTS = (
    variant("vgg11", "A", file="vgg11-8a719046.pth", top1="69.020"),
    variant("vgg11_bn", "A", norm=True, file="vgg11_bn-6002323d.pth", top1="70.370"),
    variant("vgg13", "B", file="vgg13-19584684.pth", top1="69.928"),
    variant("vgg13_bn", "B", norm=True, file="vgg13_bn-abd245e5.pth", top1="71.586"),
    variant("vgg16", "D", file="vgg16-397923af.pth", top1="71.592"),
    variant("vgg16_bn", "D", norm=True, file="vgg16_bn-6c64b313.pth", top1="73.360"),
    variant("vgg19", "E", file="vgg19-dcbb9e9d.pth", top1="72.376"),
    variant("vgg19_bn", "E", norm=True, file="vgg19_bn-c79401a0.pth", top1="74.218"),
)
register(
    vgg,
    Card(
        "VGG",
        "Very deep convolutional networks for large-scale image recognition, arXiv 1409.1556",
        classifier="classifier.6",
    ),
    VARIANTS,
)
