"""A mean with its interval and the histogram behind it, as tables of the page show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .charts import Histogram, histogram
from .formatting import interval_text, three_digits


@dataclass(frozen=True)
class Cell:
    """A mean with its interval and what lies behind it."""

    mean: str
    between: str
    count: str
    histogram: Histogram


def cell_of(row: Any, values: list[float], ends: tuple[float, float]) -> Cell:
    """A row of the summary and its values, counted between two ends."""
    between = interval_text(row.low, row.high)
    count = f"{row.count} samples" + (f", {row.left_out} left out" if row.left_out else "")
    return Cell(three_digits(row.mean), between, count, histogram(values, *ends))
