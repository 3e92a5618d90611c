"""Values over places at another size, for any number of axes."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}
_ALIGNED = (*_LINEAR.values(), "bicubic")  # modes that ask where the corners lie


def interpolate(values: Tensor, size: Sequence[int], mode: str = "linear") -> Tensor:
    """`b c` and the places, as many as `size` has, at that size.

    mode  `linear` along each axis (or `bilinear`, `trilinear`, which mean the same), or another
          of torch.nn.functional.interpolate
    """
    count = len(size)
    if count > 3:  # the first axis by itself, with the others as channels
        b, c, _, *rest = values.shape
        values = interpolate(values.movedim(2, -1).flatten(1, -2), size[:1], mode)
        values = values.unflatten(1, (c, *rest)).movedim(-1, 1).flatten(0, 1)
        result: Tensor = interpolate(values, size[1:], mode).unflatten(0, (b, size[0]))
        return result.movedim(1, 2)
    chosen = _LINEAR[count] if mode in _LINEAR.values() else mode
    corners = False if chosen in _ALIGNED else None
    return F.interpolate(values, tuple(size), mode=chosen, align_corners=corners)
