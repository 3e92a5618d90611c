"""What sequence models share: padding taken out and put back, what decoding keeps."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

Memory = dict[str, Tensor]


@dataclass
class Cache:
    """What decoding carries from one call to the next; every forward that gets it moves it on.

    layers   of each layer, by number: the recurrent `state` (`b h d e`), the last inputs of short
             convolutions, or the keys and values of attention
    length   tokens seen, padding included
    """

    layers: dict[int, Memory] = field(default_factory=dict)
    length: int = 0

    def memory(self, layer: int) -> Memory:
        """What one layer keeps; empty before the first call."""
        return self.layers.setdefault(layer, {})


def pads_first(x: Tensor, keep: Tensor) -> Tensor:
    """Tokens `b n c` with padding moved to the front, the others in their order: as if removed.

    keep   `b n`, False at padding. Left-padded sequences stay as they are.
    """
    return torch.take_along_dim(x, _order(keep)[..., None], 1)


def pads_back(x: Tensor, keep: Tensor) -> Tensor:
    """The inverse of `pads_first`, with zeros at padding."""
    back = torch.take_along_dim(x, _order(keep).argsort(1)[..., None], 1)
    return back.masked_fill(~keep[..., None], 0)


def _order(keep: Tensor) -> Tensor:
    return keep.to(torch.uint8).argsort(dim=1, stable=True)
