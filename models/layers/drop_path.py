"""Stochastic depth (arXiv 1603.09382): residual branches left out at random in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def drop_rates(last: float, depths: Sequence[int]) -> Iterator[float]:
    """The share of dropped branches of each block in turn, growing from 0 to `last`."""
    total = sum(depths)
    return (last * number / max(total - 1, 1) for number in range(total))


def dropped(x: Tensor, share: float, training: bool) -> Tensor:
    """A branch `b ...`, left out for that share of the samples in training."""
    if not (training and share):
        return x
    kept = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) >= share
    return x * kept / (1 - share)
