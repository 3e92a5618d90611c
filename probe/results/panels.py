"""What a figure shows: numbers as colours, bars or lines, each panel with its words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from .colour_scales import Array, extremes, span

SERIES = ("#2f6f0a", "#2768b0", "#b5472f", "#7a4aa0", "#8a6d00", "#0f7b7b", "#a33a6f", "#4d4f57")


@dataclass(frozen=True)
class Heat:
    """Numbers over two axes as colours, each panel on a range of its own.

    note     what stands under the title; under, what stands below the panel
    values   rows from top to bottom, `rows columns`; NaN stays empty
    names    what rows, columns and values are called
    ticks    names of single rows and of single columns; empty where places are counted
    marks    cells that are outlined, (row, column)
    even     rows and columns on one scale
    """

    title: str
    values: Array
    names: tuple[str, str, str] = ("y", "x", "value")
    ticks: tuple[Sequence[str], Sequence[str]] = ((), ())
    marks: Sequence[tuple[int, int]] = ()
    note: str = ""
    under: str = ""
    even: bool = True

    @property
    def range(self) -> tuple[float, float, str]:
        """Lowest and highest colour, and the scale; centred on zero where a value is negative."""
        return span(*(extremes(self.values) or (0.0, 0.0)))


@dataclass(frozen=True)
class Bars:
    """A bar for each name; several series stack."""

    title: str
    names: Sequence[str]
    series: Mapping[str, Sequence[float]]
    unit: str = ""
    note: str = ""

    @property
    def shown(self) -> dict[str, Sequence[float]]:
        """The series that can be seen beside the longest bar."""
        most = {name: max(map(abs, values), default=0.0) for name, values in self.series.items()}
        least = 1e-3 * max(most.values(), default=0.0)
        kept = {name: values for name, values in self.series.items() if most[name] > least}
        return kept or dict(self.series)


@dataclass(frozen=True)
class Lines:
    """A line for each series over the same places, with an interval where there is one."""

    title: str
    at: Sequence[str | float]
    series: Mapping[str, Sequence[float]]
    intervals: Mapping[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)
    names: tuple[str, str] = ("", "")
    note: str = ""


Panel = Heat | Bars | Lines


def limited(panels: Sequence[Panel], most: int) -> list[Panel]:
    """The first panels; the last of them says how many are left out."""
    kept = list(panels[:most])
    if len(panels) > most:
        left = f"{len(panels) - most} of {len(panels)} panels are left out"
        kept[-1] = replace(kept[-1], note=f"{kept[-1].note}; {left}" if kept[-1].note else left)
    return kept
