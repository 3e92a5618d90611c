"""A mean with its interval and the histogram behind it, as tables of the page show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .charts import Histogram, histogram


@dataclass(frozen=True)
class Cell:
    """A mean with its interval and what lies behind it."""

    mean: str
    between: str
    count: str
    histogram: Histogram


def cell_of(row: Any, values: list[float], ends: tuple[float, float]) -> Cell:
    """A row of the summary and its values, counted between two ends."""
    between = f"{three(row.low)} to {three(row.high)}"
    count = f"{row.count} samples" + (f", {row.left_out} left out" if row.left_out else "")
    return Cell(three(row.mean), between, count, histogram(values, *ends))


def three(value: float) -> str:
    """Three digits after the point, or three that count where there are more before it."""
    return (f"{value:.3f}" if abs(value) < 10 else f"{value:.3g}").replace("-", "−")


def counted(count: int, word: str) -> str:
    """A number of things in words: 1 sample, 2 samples."""
    return f"{count} {word}{'' if count == 1 else 's'}"
