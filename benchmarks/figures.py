"""Tables of figures that were measured once a seed: means, with the least and the largest."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence

from torch import Tensor


class Figures:
    """Values by row and column, one a seed."""

    def __init__(self, corner: str) -> None:
        self.corner = corner
        self.values: defaultdict[tuple[str, str], list[float]] = defaultdict(list)

    def add(self, row: str, column: str, value: float | Tensor) -> None:
        self.values[row, column].append(float(value))

    def mean(self, row: str, column: str) -> float:
        return statistics.fmean(self.values[row, column])

    def markdown(self, order: str = "") -> str:
        """A table; its rows as they came, or by a column, the largest first."""
        rows, columns = (list(dict.fromkeys(pair[side] for pair in self.values)) for side in (0, 1))
        if order:
            rows.sort(key=lambda row: -self.mean(row, order))
        cells = [[row, *(self._cell(row, column) for column in columns)] for row in rows]
        return markdown([self.corner, *columns], cells)

    def _cell(self, row: str, column: str) -> str:
        values = self.values.get((row, column))
        if values is None:
            return "–"
        if column == "CPU seconds":
            return f"{statistics.fmean(values):.2f}"
        mean, low, high = (f"{x:.3f}" for x in (statistics.fmean(values), min(values), max(values)))
        return mean if low == high else f"{mean} ({low} to {high})"


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
