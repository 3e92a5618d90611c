"""Whether a map lies on the object: pointing games, shares of mass, ranks, overlap (Quantus)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .registry import flat, metric

Part = Literal["signed", "positive", "absolute"]


def _part(rows: Tensor, part: Part) -> Tensor:
    if part == "positive":
        return rows.clamp(min=0)
    return rows.abs() if part == "absolute" else rows


@metric("pointing", "Localisation")
def pointing(saliency: Tensor, mask: Tensor, *, tolerance: float = 15.0) -> Tensor:
    """Whether the largest value lies on the object, or closer to it than a tolerance in places.

    saliency `b` and places, at the size of the mask -> `b`, 1 or 0, NaN for a constant map.
    tolerance=0 asks for the object itself. Ties: the first place. TorchRay's rule is strict (< 15
    pixels).
    """
    rows = flat(saliency)
    place = rows.nan_to_num(-torch.inf).argmax(1)
    if tolerance <= 0:
        hit = mask.flatten(1).gather(1, place[:, None])[:, 0]
    else:
        away = torch.zeros((), dtype=torch.long, device=mask.device)  # squared
        count = mask.ndim - 1
        for axis, at in enumerate(torch.unravel_index(place, mask.shape[1:])):
            steps = torch.arange(mask.shape[axis + 1], device=mask.device) - at[:, None]
            shape = [-1, *(steps.shape[1] if i == axis else 1 for i in range(count))]
            away = away + (steps**2).reshape(shape)
        hit = ((away < tolerance**2) & mask).flatten(1).any(1)
    return hit.double().masked_fill(rows.isnan().any(1), torch.nan)


@metric("energy_pointing", "Localisation")
def energy_pointing(saliency: Tensor, mask: Tensor) -> Tensor:
    """The share of the positive mass that lies on the object (Score-CAM, arXiv 1910.01279)."""
    return relevance_mass(saliency, mask, part="positive")


@metric("relevance_mass", "Localisation")
def relevance_mass(saliency: Tensor, mask: Tensor, *, part: Part = "positive") -> Tensor:
    """Mass on the object over all mass (arXiv 2003.07258); a signed map may leave 0..1."""
    rows = _part(flat(saliency), part)
    return _ratio((rows * mask.flatten(1)).sum(1), rows.sum(1))


@metric("relevance_rank", "Localisation")
def relevance_rank(saliency: Tensor, mask: Tensor) -> Tensor:
    """Of the K largest values, K the object's pixels, the share on the object."""
    rows, object_ = flat(saliency), mask.flatten(1)
    order = rows.argsort(dim=1, descending=True, stable=True)
    count = object_.sum(1, keepdim=True)
    first = torch.arange(rows.shape[1], device=rows.device) < count
    inside = object_.gather(1, order) & first
    return _nan_as(_ratio(inside.sum(1).double(), count[:, 0].double()), rows)


@metric("top_k", "Localisation")
def top_k(saliency: Tensor, mask: Tensor, *, k: int = 1000) -> Tensor:
    """The share of the k largest values that lies on the object."""
    rows = flat(saliency)
    k = min(k, rows.shape[1])
    order = rows.argsort(dim=1, descending=True, stable=True)[:, :k]
    return _nan_as(mask.flatten(1).gather(1, order).double().mean(1), rows)


@metric("iou", "Localisation")
def iou(saliency: Tensor, mask: Tensor, *, threshold: float = 0.5) -> Tensor:
    """Overlap of the object and what exceeds a share of the map's range, over their union."""
    rows, object_ = flat(saliency), mask.flatten(1)
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    above = rows > low + threshold * (high - low)
    union = (above | object_).sum(1).double()
    return _nan_as(_ratio((above & object_).sum(1).double(), union), rows)


@metric("auc", "Localisation")
def auc(saliency: Tensor, mask: Tensor) -> Tensor:
    """Area under the ROC curve of the map as a detector of the object's pixels; ties count half."""
    rows, object_ = flat(saliency), mask.flatten(1)
    ranks = average_ranks(rows)
    inside = object_.sum(1).double()
    outside = object_.shape[1] - inside
    total = (ranks * object_).sum(1) - inside * (inside + 1) / 2
    return _nan_as(_ratio(total, inside * outside), rows)


def average_ranks(rows: Tensor) -> Tensor:
    """Ranks from 1, ties averaged, `b n` in float64."""
    rank_rows = torch.empty_like(rows, dtype=torch.float64)
    for row, ranks in zip(rows, rank_rows, strict=True):
        _, inverse, counts = row.unique(return_inverse=True, return_counts=True)
        last = counts.cumsum(0).double()
        ranks.copy_((last - (counts - 1) / 2)[inverse])
    return rank_rows


def _ratio(top: Tensor, below: Tensor) -> Tensor:
    return torch.where(below == 0, torch.nan, top / below)


def _nan_as(values: Tensor, rows: Tensor) -> Tensor:
    return values.masked_fill(rows.isnan().any(1), torch.nan)
