"""How rare the patches of an image are at one scale: S_r, exact or from thinned patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from .nearest_patches import mean_nearest
from .patches import Patches, cut, grid, resized, sides

SMALLEST = 0.2
STEP = 3  # odd, so that the middle of a run is a pixel
ROOM = 12  # patches a side below which a scale is not thinned
BAND = 0.04  # of the largest mean, on either side of the threshold
SHARE = 8  # at most an eighth of the pixels are seen again


@dataclass(frozen=True)
class RarityRule:
    """Weight of the position, number of neighbours, side of a patch, stride of the candidates."""

    c: float
    k: int
    patch: int
    stride: int


def exact(planes: Tensor, r: float, rule: RarityRule) -> Tensor:
    """S_r at every pixel of the image at scale r, `y x`."""
    return _rarity(planes, r, rule, 1, exact=True)


def coarse(planes: Tensor, r: float, rule: RarityRule) -> Tensor:
    """S_r from every third row and column and a quarter of the candidates, `y x`.

    A scale too small to thin is done whole.
    """
    if not _thins(planes, r, rule):
        return _rarity(planes, r, rule, 1, exact=False)
    return _rarity(planes, r, thinned(rule), STEP, exact=False)


def thinned(rule: RarityRule) -> RarityRule:
    """The rule for a quarter of the candidates: twice the stride, a quarter of the neighbours."""
    return replace(rule, stride=2 * rule.stride, k=max(1, rule.k // 4))


def refine(
    planes: Tensor, scales: Sequence[float], maps: list[Tensor], rule: RarityRule, threshold: float
) -> list[Tensor]:
    """Coarse maps with the pixels that decide the foci seen again by the whole rule.

    They are those whose mean lies near the threshold or near the maximum: an error there moves
    a focus, and with it the distances of a whole region.
    """
    mean = torch.stack([full(m, planes) for m in maps]).mean(0)
    if mean.max() <= 0:
        return maps
    share = mean / mean.max()
    doubt = torch.minimum((share - threshold).abs(), 1 - share).flatten()
    limit = min(BAND, float(doubt.kthvalue(max(1, len(doubt) // SHARE)).values))
    near = (doubt < limit).view_as(mean).float()
    return [_again(planes, r, m, near, rule) for r, m in zip(scales, maps, strict=True)]


def full(saliency: Tensor, planes: Tensor) -> Tensor:
    """A map `y x` at the size of the planes, bilinear."""
    return F.interpolate(
        saliency[None, None], planes.shape[1:], mode="bilinear", align_corners=False
    )[0, 0]


def _rarity(planes: Tensor, r: float, rule: RarityRule, step: int, *, exact: bool) -> Tensor:
    """S_r from every `step`-th row and column of the image at scale r, `y x`."""
    small = resized(planes, r)
    h, w = small.shape[1:]
    rows, columns = (_middles(step, n, planes) for n in (h, w))
    queries = cut(small, rule.patch, *grid(rows, columns), sides(planes))
    rarity = _of(queries, planes, r, rule, exact=exact).view(len(rows), len(columns))
    if step == 1:
        return rarity
    smooth = F.interpolate(rarity[None, None], scale_factor=step, mode="bicubic")[0, 0]
    return smooth[:h, :w].clamp(0, 1)


def _again(planes: Tensor, r: float, coarse: Tensor, near: Tensor, rule: RarityRule) -> Tensor:
    """A coarse map with the pixels under the mask `near` computed anew."""
    if not _thins(planes, r, rule):
        return coarse
    mask = F.interpolate(near[None, None], coarse.shape, mode="bilinear", align_corners=False)
    rows, columns = mask[0, 0].nonzero(as_tuple=True)
    if not len(rows):
        return coarse
    queries = cut(resized(planes, r), rule.patch, rows, columns, sides(planes))
    return coarse.index_put((rows, columns), _of(queries, planes, r, rule, exact=False))


def _of(queries: Patches, planes: Tensor, r: float, rule: RarityRule, *, exact: bool) -> Tensor:
    """S_r of some patches of the image at scale r, `n`."""
    keys = _candidates(planes, r, rule)
    return -torch.expm1(-mean_nearest(queries, keys, rule.k, rule.c, exact=exact))


def _candidates(planes: Tensor, r: float, rule: RarityRule) -> Patches:
    """Whole patches on the stride grid of the image at r, r / 2 and r / 4."""
    patches = []
    half = rule.patch // 2
    for q in (r, r / 2, r / 4):
        if q < SMALLEST or round(q * min(planes.shape[1:])) < rule.patch:
            continue
        small = resized(planes, q)
        rows, columns = (
            torch.arange(half, n - half, rule.stride, device=planes.device) for n in small.shape[1:]
        )
        patches.append(cut(small, rule.patch, *grid(rows, columns), sides(planes)))
    return Patches(torch.cat([f.values for f in patches]), torch.cat([f.at for f in patches]))


def _thins(planes: Tensor, r: float, rule: RarityRule) -> bool:
    """Whether the image at scale r holds enough patches to leave most of them out."""
    return round(r * min(planes.shape[1:])) >= ROOM * rule.patch


def _middles(step: int, n: int, like: Tensor) -> Tensor:
    """The middle index of each run of `step` among n."""
    middles = torch.arange(math.ceil(n / step), device=like.device) * step + step // 2
    return middles.clamp(max=n - 1)
