"""Colour scales: a few anchors joined by lines in OKLab (Ottosson 2020), 255 steps each."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
STEPS = 255  # odd: a diverging scale has one colour for zero, and byte 255 means "no number"
NO_NUMBER = (134, 136, 142)
_ANCHORS = {
    "sequential": ("0a0912", "2b1650", "67217a", "ac326f", "e35f4b", "f7a540", "fdf3b8"),
    "diverging": ("123a7a", "2f78c0", "94c2e6", "f7f7f7", "f3ac8d", "d04f3f", "821527"),
    "grey": ("0c0c0c", "f7f7f7"),
}
_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


@cache
def table(scale: str) -> NDArray[np.uint8]:
    """The colours of `sequential`, `diverging` or `grey`, `255 3`."""
    anchors = np.array([list(bytes.fromhex(word)) for word in _ANCHORS[scale]])
    lab = oklab(anchors)
    at = np.linspace(0, len(anchors) - 1, STEPS)
    mixed = np.stack([np.interp(at, np.arange(len(anchors)), lab[:, i]) for i in range(3)], axis=1)
    return _rgb(mixed)


def oklab(rgb: NDArray[np.generic]) -> Array:
    """Bytes `n 3` of sRGB as lightness and two opponent colours, `n 3`."""
    c = rgb.astype(np.float64) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    lab: Array = np.cbrt(linear @ _TO_LMS.T) @ _TO_LAB.T
    return lab


def _rgb(lab: Array) -> NDArray[np.uint8]:
    linear = (lab @ np.linalg.inv(_TO_LAB).T) ** 3 @ np.linalg.inv(_TO_LMS).T
    linear = linear.clip(0, 1)
    c = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    rgb: NDArray[np.uint8] = np.rint(c * 255).astype(np.uint8)
    return rgb


def extremes(values: Array) -> tuple[float, float] | None:
    """Smallest and largest finite value, or None when there is none."""
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else None


def span(lo: float, hi: float) -> tuple[float, float, str]:
    """The range to colour and the scale for it: centred on zero as soon as a value is negative."""
    if lo < 0:
        most = max(-lo, hi)
        return -most, most, "diverging"
    return lo, hi, "sequential"


def steps(values: Array, lo: float, hi: float) -> NDArray[np.uint8]:
    """Values as steps 0 to 254 between `lo` and `hi`, 255 where there is no finite number."""
    finite = np.isfinite(values)
    safe = np.where(finite, values, lo)
    width = hi / 2 - lo / 2  # halves, so that the widest doubles do not overflow
    part = (safe / 2 - lo / 2) / width if width > 0 else np.zeros_like(safe)
    index = np.rint(part.clip(0, 1) * (STEPS - 1)).astype(np.uint8)
    return np.where(finite, index, np.uint8(STEPS))


def paint(values: Array, ends: tuple[float, float] | None = None) -> NDArray[np.uint8]:
    """A map in colours of a range, by default its own, `y x 3`; what is no number is grey."""
    ends = ends or extremes(values)
    lo, hi, scale = span(*ends) if ends else (0.0, 0.0, "sequential")
    palette = np.concatenate([table(scale), np.array([NO_NUMBER], dtype=np.uint8)])
    return palette[steps(values, lo, hi)]
