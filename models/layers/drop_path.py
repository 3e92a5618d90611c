"""Stochastic depth: residual branches left out at random in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def drop_rates(last: float, depth: Sequence[int]) -> Iterator[float]:
    """The share of dropped branches of each block in turn, growing from 0."""
    return iter(torch.linspace(0, last, sum(depth), device="cpu").tolist())


def dropped(x: Tensor, share: float, training: bool) -> Tensor:
    """A branch, left out for that share of the samples in training."""
    if not (training and share):
        return x
    kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= share
    return x * kept / (1 - share)
