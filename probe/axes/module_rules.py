"""What a module says of its own result, where there is no graph to read."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..sites import Site
from .axis import USUAL_PLACES

_PLACES = {
    1: (nn.Conv1d, nn.ConvTranspose1d, nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d,
        nn.AdaptiveMaxPool1d),
    2: (nn.Conv2d, nn.ConvTranspose2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d,
        nn.AdaptiveMaxPool2d, nn.BatchNorm2d, nn.InstanceNorm2d, nn.PixelShuffle),
    3: (nn.Conv3d, nn.ConvTranspose3d, nn.MaxPool3d, nn.AvgPool3d, nn.AdaptiveAvgPool3d,
        nn.AdaptiveMaxPool3d, nn.BatchNorm3d, nn.InstanceNorm3d),
}  # fmt: skip
_LAST = (nn.Linear, nn.Embedding)


def tells_axes(module: nn.Module | None) -> bool:
    """Whether a module's type says what its result is."""
    return isinstance(module, tuple(kind for kinds in _PLACES.values() for kind in kinds))


def axes_of_module(
    module: nn.Module | None, site: Site, shape: Sequence[int]
) -> tuple[str, ...] | None:
    """The axes of what a module of torch returns; None where its type does not tell.

    A layer that works on the last dimension, given three, has tokens in the middle.
    """
    if module is None or site.port != "out":
        return None
    for count, kinds in _PLACES.items():
        if isinstance(module, kinds):
            return ("b", "c", *USUAL_PLACES[count]) if len(shape) == count + 2 else None
    if isinstance(module, nn.RNNBase) and len(shape) == 3:
        return ("b", "t", "c") if module.batch_first else ("t", "b", "c")
    if isinstance(module, _LAST):
        return {2: ("b", "c"), 3: ("b", "n", "c")}.get(len(shape))
    return None
