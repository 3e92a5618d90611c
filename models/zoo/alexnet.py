"""AlexNet in the one-tower form of arXiv 1404.5997, with torchvision's parameter names."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..card import Card, Source
from ..registry import Variant, register


class AlexNet(nn.Module):
    """Five convolutions, three linear layers; no normalisation, no groups."""

    def __init__(self, in_channels: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 64, 11, 4, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def alexnet(*, in_channels: int = 3, num_classes: int = 1000, dropout: float = 0.5) -> AlexNet:
    """AlexNet; any input of at least 63 pixels a side."""
    return AlexNet(in_channels, num_classes, dropout)


VARIANTS = (
    Variant(
        "alexnet",
        weights={
            "imagenet": Source(
                "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", sha256="7be5be79"
            )
        },
        about="ImageNet top-1 56.522 (torchvision)",
    ),
)
register(
    alexnet,
    Card(
        "AlexNet",
        "One weird trick for parallelizing convolutional neural networks, arXiv 1404.5997",
        hidden=tuple(f"features.{n}" for n in (1, 4, 7, 9, 11)),
        classifier="classifier.6",
    ),
    VARIANTS,
)
