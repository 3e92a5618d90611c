"""The picture of an object as a vector: two convolutions, pooled once or in a pyramid."""

from __future__ import annotations

from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....probe.errors import ModelError, OptionError

PYRAMIDS = (0, 2, 3, 4)


class ObjectEncoder(nn.Module):
    """Objects `b n y x c` to vectors `b n d`.

    spp   0 pools once more and fixes the size of an object's picture; n pools the whole plane into
          1, 2, ... 2^(n-1) cells a side, each level by its largest values, for pictures of any size
    """

    def __init__(self, patch: tuple[int, int], in_channels: int, width: int, spp: int) -> None:
        super().__init__()
        if spp not in PYRAMIDS:
            raise OptionError(f"spp={spp!r} is no pyramid of OAT: give 0 for none, or 2, 3 or 4")
        self.patch, self.in_channels, self.spp = patch, in_channels, spp
        first, second = nn.Conv2d(in_channels, 16, 5), nn.Conv2d(16, 32, 3)
        self.cnn1 = nn.Sequential(first, nn.ReLU(), nn.MaxPool2d(5))
        pooled = [] if spp else [nn.MaxPool2d(3)]
        self.cnn2 = nn.Sequential(second, nn.ReLU(), *pooled)
        plane = self.plane(patch)
        cells = sum(4**level for level in range(spp)) if spp else prod(plane)
        self.fc = nn.Linear(32 * cells, width)

    def plane(self, patch: tuple[int, int]) -> tuple[int, ...]:
        """Rows and columns that the convolutions leave of a picture. Raises OptionError for none.

        A pyramid needs a plane of one, no pyramid one that its last pooling leaves a place of.
        """
        sides = tuple(((side - 4) // 5 - 2) // (1 if self.spp else 3) for side in patch)
        if min(sides) < 1:
            least = 19 if self.spp else 29
            raise OptionError(
                f"an object's picture of {patch[0]} x {patch[1]} is too small for two convolutions "
                f"with pooling: give sides of {least} and more"
            )
        return sides

    def check(self, shelf: Tensor) -> None:
        """Raise ModelError for pictures of objects of another size or with other channels."""
        height, width, channels = shelf.shape[2:]
        if channels != self.in_channels:
            raise ModelError(
                f"objects of {height} x {width} x {channels} were given, but their last dimension "
                f"must be {self.in_channels} channels: give a shelf b objects y x channels"
            )
        if not self.spp and (height, width) != self.patch:
            raise ModelError(
                f"objects of {height} x {width} were given, but without a pyramid the model's "
                f"weights are for {self.patch[0]} x {self.patch[1]}: give those, or build the "
                f"model with patch=({height}, {width}) or spp=2"
            )
        self.plane((height, width))

    def forward(self, shelf: Tensor) -> Tensor:
        x = shelf.flatten(0, 1).permute(0, 3, 1, 2)
        x = self.cnn2(self.cnn1(x))
        x = pyramid(x, self.spp) if self.spp else x.flatten(1)
        return self.fc(x).unflatten(0, shelf.shape[:2])


def pyramid(x: Tensor, levels: int) -> Tensor:
    """The largest values in 1, 2, ... 2^(levels-1) cells a side, `b c y x` -> `b d`.

    Zeros around the plane make the cells of a level equal; they count as values.
    """
    found = []
    for side in (2**level for level in range(levels)):
        cell = [-(-size // side) for size in x.shape[2:]]
        spare = [side * c - size for c, size in zip(cell, x.shape[2:], strict=True)]
        (top, left), (bottom, right) = ([s // 2 for s in spare], [s - s // 2 for s in spare])
        found.append(F.max_pool2d(F.pad(x, (left, right, top, bottom)), cell).flatten(1))
    return torch.cat(found, 1)
