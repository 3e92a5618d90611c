"""Context-aware saliency (Goferman, Zelnik-Manor, Tal, CVPR 2010; PAMI 34, 2012)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...probe.errors import ImageError, OptionError, near
from . import cielab
from .foci import distance, foci
from .patches import resized
from .rarity import SMALLEST, RarityRule, coarse, exact, full, refine

COLOURS = ("lab", "rgb", "gray")
NEIGHBOURS = ("exact", "fast")


@dataclass(frozen=True)
class Saliency:
    """A saliency map `y x`, and what it was made of, at the size the patches were taken at.

    That is the image's size, or the one with `longest` as its longer side where that is smaller.
    """

    values: Tensor
    mean: Tensor
    scales: Tensor
    foci: Tensor
    distance: Tensor


@torch.no_grad()
def context_aware(
    image: Tensor,
    *,
    c: float = 3.0,
    k: int = 64,
    scales: Sequence[float] = (1.0, 0.8, 0.5, 0.3),
    patch: int = 7,
    stride: int = 3,
    threshold: float = 0.8,
    longest: int = 250,
    colour: str = "lab",
    neighbours: str = "exact",
    focus: bool = True,
    device: torch.device | str | None = None,
) -> Saliency:
    """How unlike its most similar patches each patch of an image is, and how near to a focus.

    S_r = 1 - exp(-mean of the k smallest |p - q| / (1 + c |position|)), S = mean over scales r,
    values = S (1 - distance to the pixels with S > threshold max S), or S without `focus`.
    The image is in [0, 1]. "lab" compares L* a* b*, each stretched to [0, 1]; "gray", and an image
    of one channel (`y x`, `1 y x`), L* alone: a grey image in three channels keeps the trace that
    the rounded RGB matrix leaves in a* b*. "fast" ranks pixels almost as "exact" in a tenth of the
    time, float32. `device` moves the work; the maps stay there.
    Raises ImageError for an image that holds no patch or leaves [0, 1], OptionError for options.
    """
    _check(c, k, scales, patch, stride, threshold, longest)
    _check_word("colour", colour, COLOURS)
    _check_word("neighbours", neighbours, NEIGHBOURS)
    picture = _picture(image.detach().to(device or image.device), patch)
    planes = _working(_colours(picture, colour), longest)
    kept, rule = _usable(planes, scales, patch), RarityRule(c, k, patch, stride)
    maps = [(exact if neighbours == "exact" else coarse)(planes, r, rule) for r in kept]
    if neighbours == "fast" and focus:
        maps = refine(planes, kept, maps, rule, threshold)
    stack = torch.stack([full(m, planes) for m in maps])
    mean = stack.mean(0)
    mask = foci(mean, threshold)
    apart = distance(mask)
    return Saliency(mean * (1 - apart) if focus else mean, mean, stack, mask, apart)


def _colours(picture: Tensor, colour: str) -> Tensor:
    """The planes that patches are compared in, each stretched to [0, 1], `c y x` float32."""
    if colour != "rgb":
        picture = cielab.lab(picture.expand(3, -1, -1))[: 1 if colour == "gray" else len(picture)]
    return cielab.stretched(picture).float()


def _working(planes: Tensor, longest: int) -> Tensor:
    """The planes at the working size, without those that are 0 everywhere unless all are."""
    side = max(planes.shape[1:])
    if side > longest:
        planes = resized(planes, longest / side)
    informative = planes.flatten(1).any(1)
    return planes[informative] if informative.any() else planes[:1]


def _usable(planes: Tensor, scales: Sequence[float], patch: int) -> list[float]:
    """The scales at which the image still holds a patch."""
    shortest = min(planes.shape[1:])
    usable = [r for r in scales if round(r * shortest) >= patch]
    if not usable:
        raise ImageError(
            f"context_aware was asked for the scales {tuple(scales)} of an image whose shorter "
            f"side is {shortest} pixels where the longer is {max(planes.shape[1:])}; "
            f"give one at which a patch of {patch} pixels fits"
        )
    return usable


def _picture(image: Tensor, patch: int) -> Tensor:
    """The image as `1 y x` or `3 y x` in float64, or the sentence that says why it is none."""
    shape = tuple(image.shape)
    picture = image.double()[None] if image.ndim == 2 else image.double()
    if picture.ndim != 3 or len(picture) not in (1, 3):
        raise ImageError(
            f"context_aware was given a tensor of shape {shape}; give `y x`, `1 y x` or `3 y x`"
        )
    if min(picture.shape[1:]) < patch:
        raise ImageError(
            f"context_aware was given an image of {shape[-2]} x {shape[-1]} pixels; "
            f"give sides of at least one patch, {patch} pixels"
        )
    if not ((picture >= 0) & (picture <= 1)).all():
        low, high = float(picture.min()), float(picture.max())
        raise ImageError(
            f"context_aware was given values from {low:.3g} to {high:.3g}; give values in [0, 1]"
        )
    return picture


def _check(
    c: float,
    k: int,
    scales: Sequence[float],
    patch: int,
    stride: int,
    threshold: float,
    longest: int,
) -> None:
    """Refuse numbers that cannot work."""
    whole = all(SMALLEST <= r <= 1 for r in scales) and len(scales) > 0
    for name, value, good, wanted in (
        ("c", c, 0 <= c < math.inf, "a finite number from 0 up"),
        ("k", k, k >= 1, "a whole number from 1 up"),
        ("scales", tuple(scales), whole, f"one or more numbers from {SMALLEST} to 1"),
        ("patch", patch, patch >= 1 and patch % 2 == 1, "an odd number of pixels"),
        ("stride", stride, stride >= 1, "a whole number from 1 up"),
        ("threshold", threshold, 0 <= threshold < 1, "a share of the maximum, from 0 to below 1"),
        ("longest", longest, longest >= patch, f"at least the side of a patch, {patch} pixels"),
    ):
        if not good:
            raise OptionError(f"context_aware was asked for {name}={value!r}; give {wanted}")


def _check_word(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a word that is not among the known ones."""
    if value not in choices:
        raise OptionError(
            f"context_aware was asked for {name}={value!r}; "
            f"give one of {', '.join(choices)}{near(value, choices)}"
        )
