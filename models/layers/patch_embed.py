"""Pictures as patches, and what classifies them by their mean."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from .checkpointing import Checkpointing


class PatchEmbed(nn.Module):
    """Non-overlapping patches as tokens, `b (y x) c`."""

    def __init__(self, patch_size: int, in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, patch_size, patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class PatchMean(Checkpointing, nn.Module):
    """Patches through blocks, then a linear layer on their mean: no positions and no last norm."""

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        *,
        patch_size: int,
        in_channels: int,
        dim: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.model = nn.Sequential(*blocks)
        self.patcher = nn.Conv2d(in_channels, dim, patch_size, patch_size)
        self.classifier = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patcher(x).flatten(2).transpose(1, 2)
        for block in self.model:
            x = self.through(block, x)
        return self.classifier(x.mean(1))
