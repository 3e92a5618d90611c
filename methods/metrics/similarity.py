"""How alike two maps are: Spearman, Pearson, SSIM; and class sensitivity by them."""

from __future__ import annotations

import torch
from torch import Tensor

from .localisation import average_ranks
from .neighbours import patch_means
from .registry import flat


def spearman(one: Tensor, other: Tensor) -> Tensor:
    """Rank correlation of maps `b ...` in float64, ties averaged; NaN where one is constant.

    Between the map of the likeliest and that of the least likely class this is the class
    sensitivity of NormGrad (arXiv 2001.04983): near 1, the map ignores the class.
    """
    a, b = flat(one), flat(other)
    bad = a.isnan().any(1) | b.isnan().any(1)
    correlations = _correlation(average_ranks(a.nan_to_num()), average_ranks(b.nan_to_num()))
    return correlations.masked_fill(bad, torch.nan)


def pearson(one: Tensor, other: Tensor) -> Tensor:
    """Correlation of maps `b ...` in float64; NaN where one is constant."""
    return _correlation(flat(one), flat(other))


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
    below = a.norm(dim=1) * b.norm(dim=1)
    return torch.where(below == 0, torch.nan, (a * b).sum(1) / below)


def ssim(one: Tensor, other: Tensor, *, side: int = 7) -> Tensor:
    """Structural similarity of maps `b` and places, each scaled to 0..1 (Wang et al. 2004).

    Uniform windows of `side`, smaller maps with the largest odd one that fits; sample variances,
    K1 = 0.01, K2 = 0.03. NaN where a map is constant.
    """
    a, b = (_scaled(x) for x in (one, other))
    places = a.shape[1:]
    side = min(side, *(n if n % 2 else n - 1 for n in places))
    count = side ** len(places)

    def mean(x: Tensor) -> Tensor:
        return patch_means(x, side, step=1)

    ma, mb = mean(a), mean(b)
    bias = count / max(count - 1, 1)
    va, vb, both = (
        (mean(p) - q) * bias for p, q in ((a * a, ma**2), (b * b, mb**2), (a * b, ma * mb))
    )
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * ma * mb + c1) * (2 * both + c2)
    return (top / ((ma**2 + mb**2 + c1) * (va + vb + c2))).flatten(1).mean(1)


def _scaled(x: Tensor) -> Tensor:
    rows = flat(x)
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    return ((rows - low) / (high - low)).reshape(x.shape)
