"""How concentrated a map is: Gini sparseness, entropy, effective count (Quantus)."""

from __future__ import annotations

import torch
from torch import Tensor

from .registry import flat, metric


@metric("sparseness", "Complexity")
def sparseness(saliency: Tensor) -> Tensor:
    """The Gini index of |a|: 0 for equal values, near 1 where few hold everything."""
    rows = (flat(saliency).abs() + 1e-7).sort(1).values
    n = rows.shape[1]
    weight = 2 * torch.arange(1, n + 1, device=rows.device, dtype=rows.dtype) - n - 1
    return (weight * rows).sum(1) / (n * rows.sum(1))


@metric("complexity", "Complexity", better="smaller")
def complexity(saliency: Tensor) -> Tensor:
    """The entropy of |a| over its sum, in nats."""
    rows = flat(saliency).abs()
    share = rows / rows.sum(1, keepdim=True)
    return torch.special.entr(share).sum(1)


@metric("effective_complexity", "Complexity", better="smaller")
def effective_complexity(saliency: Tensor, *, eps: float = 1e-5) -> Tensor:
    """How many values exceed eps in size."""
    rows = flat(saliency)
    counts = (rows.abs() > eps).sum(1).double()
    return counts.masked_fill(rows.isnan().any(1), torch.nan)
