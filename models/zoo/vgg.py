"""VGG (arXiv 1409.1556), plain and with batch norm, with torchvision's parameter names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...probe.errors import OptionError, near
from ..card import Card, Source
from ..registry import model

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
        self.features, self.hidden, width = stages(cfg, in_channels, norm, norm_eps)
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


def stages(
    cfg: Sequence[int | str], width: int, norm: bool, norm_eps: float
) -> tuple[nn.Sequential, tuple[str, ...], int]:
    """The convolutions, the sites of the stages' last activations, and the last width."""
    parts: list[nn.Module] = []
    hidden: list[str] = []
    for entry in cfg:
        if isinstance(entry, str):
            hidden.append(f"features.{len(parts) - 1}")
            parts.append(nn.MaxPool2d(2, 2))
            continue
        parts.append(nn.Conv2d(width, entry, 3, padding=1))
        if norm:
            parts.append(nn.BatchNorm2d(entry, eps=norm_eps))
        parts.append(nn.ReLU())
        width = entry
    return nn.Sequential(*parts), tuple(hidden), width


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


VARIANTS = {  # name: configuration, published file, top-1 given by torchvision
    "vgg11": ("A", "vgg11-8a719046.pth", "69.020"),
    "vgg11_bn": ("A", "vgg11_bn-6002323d.pth", "70.370"),
    "vgg13": ("B", "vgg13-19584684.pth", "69.928"),
    "vgg13_bn": ("B", "vgg13_bn-abd245e5.pth", "71.586"),
    "vgg16": ("D", "vgg16-397923af.pth", "71.592"),
    "vgg16_bn": ("D", "vgg16_bn-6c64b313.pth", "73.360"),
    "vgg19": ("E", "vgg19-dcbb9e9d.pth", "72.376"),
    "vgg19_bn": ("E", "vgg19_bn-c79401a0.pth", "74.218"),
}

for _name, (_cfg, _file, _top1) in VARIANTS.items():
    _norm = _name.endswith("_bn")
    _url = f"https://download.pytorch.org/models/{_file}"
    _card = Card(
        _name,
        "Very deep convolutional networks for large-scale image recognition, arXiv 1409.1556",
        hidden=stages(CONFIGURATIONS[_cfg], 3, _norm, 1e-5)[1],
        classifier="classifier.6",
        weights={"imagenet": Source(_url, sha256=_file[-12:-4])},
        about=f"ImageNet top-1 {_top1} (torchvision)",
    )
    model(_name, card=_card, cfg=_cfg, norm=_norm)(vgg)
