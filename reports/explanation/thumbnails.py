"""Samples that are no photos as small pictures: lines of a series, a slice of a volume, words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...models.inputs import drawn
from ..html import significant
from .contents import Sample
from .page_data import picture_uri

WIDTH, HEIGHT, MARGIN = 64, 40, 4
_LINES, _POINTS, _SIDE, _FEATURES = 3, 32, 64, 3


@dataclass(frozen=True)
class Thumbnail:
    """What a button shows of a sample.

    lines    points of a line in a box of `WIDTH` x `HEIGHT`, one a channel
    picture  a data address, of a volume's middle slice
    words    of a table's first features
    """

    lines: tuple[str, ...] = ()
    picture: str = ""
    words: tuple[str, ...] = ()


def thumbnails(samples: Iterable[Sample]) -> dict[str, Thumbnail]:
    """A small picture of each, by its name."""
    forms = {"series": _series, "volume": _volume, "table": _table}
    return {sample.sample: forms[sample.kind](sample) for sample in samples}


def _series(sample: Sample) -> Thumbnail:
    """The first channels, each in its own range, as means over runs of steps."""
    return Thumbnail(lines=tuple(map(_line, sample.values[:_LINES].double().numpy())))


def _line(values: NDArray[np.float64]) -> str:
    runs = np.array_split(np.where(np.isfinite(values), values, 0.0), min(len(values), _POINTS))
    levels = np.array([run.mean() for run in runs])
    low, high = levels.min(), levels.max()
    shares = (levels - low) / (high - low) if high > low else np.full(len(levels), 0.5)
    x = np.linspace(MARGIN, WIDTH - MARGIN, len(levels))
    y = HEIGHT - MARGIN - shares * (HEIGHT - 2 * MARGIN)
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def _volume(sample: Sample) -> Thumbnail:
    slice_ = drawn(sample.values[:, sample.values.shape[1] // 2])
    slice_.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    return Thumbnail(picture=picture_uri(slice_))


def _table(sample: Sample) -> Thumbnail:
    values = sample.values.double().tolist()[:_FEATURES]
    names = sample.features or tuple(f"feature {i}" for i in range(len(values)))
    return Thumbnail(
        words=tuple(f"{n} {significant(v)}" for n, v in zip(names, values, strict=False))
    )
