"""A network in which ULSAM (arXiv 2006.15102) stands behind some blocks, or in their place."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ....probe.errors import OptionError
from ...layers import ULSAM


class Hosted(nn.Module):
    """A network some of whose numbered blocks a ULSAM follows, or stands in for."""

    def __init__(self) -> None:
        super().__init__()
        self.ulsam = nn.ModuleDict()

    def insert(self, places: Sequence[int], widths: Sequence[int], num_splits: int) -> None:
        """A ULSAM behind each of these blocks, counted from 1, of so many channels."""
        check_places("insert", places, len(widths))
        for place in places:
            self.ulsam[str(place)] = ULSAM(widths[place - 1], num_splits=num_splits)

    def after(self, place: int, x: Tensor) -> Tensor:
        """What leaves a block, through the ULSAM behind it if there is one."""
        return self.ulsam[str(place)](x) if str(place) in self.ulsam else x


def check_places(word: str, places: Sequence[int], blocks: int) -> None:
    """Raise OptionError for a block that is not there, or named twice."""
    for place in places:
        if not 1 <= place <= blocks:
            raise OptionError(
                f"{word}={tuple(places)} names block {place}, but the network has blocks 1 to "
                f"{blocks}: give some of those"
            )
    if len(set(places)) != len(places):
        raise OptionError(f"{word}={tuple(places)} names a block twice: give each once")


def stand_in(place: int, dim: int, out: int, stride: int, num_splits: int) -> ULSAM:
    """A ULSAM in the place of a block. Raises OptionError where the block changes the shape."""
    if dim != out or stride != 1:
        raise OptionError(
            f"block {place} was to be replaced by a ULSAM, but it leads from {dim} to {out} "
            f"channels with stride {stride}: give a block that keeps both"
        )
    return ULSAM(dim, num_splits=num_splits)
