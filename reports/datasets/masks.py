"""Where the annotations of a sample lie in the model's input: boxes, outlines, mask pictures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ...models.inputs import imagenet_names
from ...probe.errors import ImageError
from .samples import Annotation, Sample

Size = tuple[int, int]
Bools = NDArray[np.bool_]
_NAMED = re.compile(r"(?:top \d+: )?(.*) \((\d+)\)$")


def mask_of(annotations: Iterable[Annotation], crop: Sequence[float], size: Size) -> Tensor:
    """The union of some annotations as `y x` at the input's size (rows, columns).

    crop   the part of the picture that is the input: left, top, right, bottom; empty where the
           input is the picture itself
    A pixel belongs to an annotation when its centre lies in it. A mask picture goes before
    outlines, and these before a box. Raises ImageError for a mask picture that cannot be read or
    is smaller than the part it is to cover.
    """
    y, x = _centres(crop, size)
    union = np.zeros(size, bool)
    for annotation in annotations:
        if annotation.mask:
            union |= _pictured(annotation, y, x)
        elif annotation.polygons:
            for outline in annotation.polygons:
                union |= _inside(outline, y, x)
        elif annotation.box is not None:
            left, top, right, bottom = annotation.box
            union |= ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))
    return torch.from_numpy(union)


def _centres(crop: Sequence[float], size: Size) -> tuple[NDArray[np.float64], ...]:
    """The middles of the input's rows and columns, in pixels of the picture."""
    rows, columns = size
    left, top, right, bottom = crop if len(crop) == 4 else (0.0, 0.0, columns, rows)
    y = top + (np.arange(rows) + 0.5) * (bottom - top) / rows
    x = left + (np.arange(columns) + 0.5) * (right - left) / columns
    return y, x


def _pictured(annotation: Annotation, y: NDArray[np.float64], x: NDArray[np.float64]) -> Bools:
    pixels = _picture(annotation.mask)
    height, width = pixels.shape
    if y[-1] > height + 1 or x[-1] > width + 1:
        raise ImageError(
            f"mask {annotation.mask!r} has {width} x {height} pixels, but its picture goes on to "
            f"{x[-1]:.0f} x {y[-1]:.0f}; give a mask of the picture's size"
        )
    wanted = pixels != 0 if annotation.value is None else pixels == annotation.value
    rows, columns = (np.floor(v).astype(int).clip(0, n - 1) for v, n in ((y, height), (x, width)))
    covered = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))
    return wanted[np.ix_(rows, columns)] & covered


@lru_cache(maxsize=8)
def _picture(path: str) -> NDArray[np.generic]:
    """The values of a mask picture, one channel: palette and grey values as they are stored."""
    try:
        with Image.open(path) as image:
            image.load()
            plain = image if image.mode in ("1", "L", "P", "I", "I;16") else image.convert("L")
            return np.asarray(plain)
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"mask {path!r} cannot be read: {error}") from error


def _inside(outline: Sequence[float], y: NDArray[np.float64], x: NDArray[np.float64]) -> Bools:
    """The even-odd rule at the pixels' centres, one edge after another."""
    corners = np.asarray(outline, float).reshape(-1, 2)
    inside = np.zeros((len(y), len(x)), bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y0 == y1:
            continue
        crossed = (y0 > y) != (y1 > y)
        at = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
        inside ^= crossed[:, None] & (x < at[:, None])
    return inside


def annotations_of(sample: Sample, of_class: int, target: str) -> tuple[Annotation, ...]:
    """The annotations of a class, named by number or by any of its names.

    target  the map's target in words, which carries the class name where the model has one
    What has no label bears its sample's; where neither has one, it counts always.
    """
    words = _words(of_class, target)
    return tuple(a for a in sample.annotations if _means(_label(a, sample), words))


def others(sample: Sample, of_class: int, target: str) -> bool:
    """Whether another class is to be seen too; one object may bear several labels."""
    of_target = [replace(a, label=None) for a in annotations_of(sample, of_class, target)]
    return any(replace(a, label=None) not in of_target for a in sample.annotations)


def _label(annotation: Annotation, sample: Sample) -> int | str | None:
    return sample.label if annotation.label is None else annotation.label


def _means(label: int | str | None, words: set[str]) -> bool:
    return label is None or str(label).strip().lower() in words


def _words(of_class: int, target: str) -> set[str]:
    """A class by number, by the name its map tells, and by that name's synonyms in ImageNet."""
    numbered = {str(of_class), f"class {of_class}"}
    named = _NAMED.match(target)
    if named is None:
        return numbered
    name = named[1].strip().lower()
    names = imagenet_names()
    whole = names[of_class].lower() if of_class < len(names) else ""
    synonyms = {word.strip() for word in whole.split(",")}
    return numbered | {name} | ({whole} | synonyms if name in synonyms else set())
