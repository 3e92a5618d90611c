"""Scores as small pictures: means over depth with their intervals, and histograms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, isfinite, log10

import pandas

from .formatting import significant

HEIGHT, BINS = 240, 12
LEFT, RIGHT = 7.0, 86.0  # percent of the width between which the sites stand
_TOP, _BOTTOM = 14, 28  # pixels above the highest and below the lowest value
_LABELS = 6
_APART = 3.0  # percent of the width over which the methods of one site stand side by side
_CLOSE = 13  # pixels below which two names would overlap


@dataclass(frozen=True)
class Dot:
    """A place on a plot, and its words."""

    x: float
    y: float
    title: str


@dataclass(frozen=True)
class Point:
    """A mean at a site: where it stands, its interval, and its words."""

    x: float
    y: float
    low: float
    high: float
    title: str


@dataclass(frozen=True)
class Line:
    """A method over depth; `hue` numbers its colour, -1 for a baseline."""

    name: str
    hue: int
    points: tuple[Point, ...]

    @property
    def links(self) -> tuple[tuple[Point, Point], ...]:
        return tuple(zip(self.points, self.points[1:], strict=False))


@dataclass(frozen=True)
class Chart:
    """All methods of one score, ready to be drawn; x in percent, y in pixels.

    ticks   (y, words) of the scale; sites (x, words, whole name) below; names of the baselines
            (y, words), one for those that lie together
    """

    summary: str
    lines: tuple[Line, ...]
    rivals: tuple[Line, ...]
    ticks: tuple[tuple[float, str], ...]
    sites: tuple[tuple[float, str, str], ...]
    names: tuple[tuple[float, str], ...]


def chart(
    means: pandas.DataFrame,
    sites: Sequence[str],
    methods: Sequence[str],
    baselines: Sequence[str] = (),
) -> Chart:
    """One score for one target: its rows of the summary, sites in depth's order.

    baselines   names that are drawn as level lines where they are no method
    """
    counted_rows = means[means["count"] > 0]
    levels = pandas.concat([counted_rows["low"], counted_rows["high"]]).tolist()
    marks = ticks(min(levels), max(levels))
    scale = Scale(min(*levels, marks[0]), max(*levels, marks[-1]))
    places = {site: across(n, len(sites)) for n, site in enumerate(sites)}
    lines, rivals = [], []
    for name, rows in counted_rows.groupby("method", sort=False):
        points = tuple(_point(row, places, scale) for row in rows.itertuples())
        if name in baselines and name not in methods:
            rivals.append(Line(str(name), -1, points))
        else:
            n = methods.index(name)
            aside = _APART * (n - (len(methods) - 1) / 2) / max(len(methods) - 1, 1)
            moved = sorted((replace(p, x=round(p.x + aside, 3)) for p in points), key=lambda p: p.x)
            lines.append(Line(str(name), n, tuple(moved)))
    below = tuple((places[site], _short(site), site) for site in spread(sites))
    summary = "; ".join(f"{line.name}: {line.points[-1].title}" for line in (*lines, *rivals))
    named_ticks = tuple((scale.at(v), significant(v)) for v in marks)
    return Chart(summary, tuple(lines), tuple(rivals), named_ticks, below, _named(rivals))


def _named(rivals: Sequence[Line]) -> tuple[tuple[float, str], ...]:
    """The names of baselines beside their lines; neighbours share one place."""
    names: list[tuple[float, str]] = []
    for y, name in sorted((line.points[0].y, line.name) for line in rivals):
        if names and y - names[-1][0] < _CLOSE:
            names[-1] = (names[-1][0], f"{names[-1][1]}, {name}")
        else:
            names.append((y, name))
    return tuple(names)


@dataclass(frozen=True)
class Scale:
    """From values to pixels below the upper edge of a chart."""

    low: float
    high: float

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low or 1)
        return round(HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM), 2)


def _point(row: object, places: dict[str, float], scale: Scale) -> Point:
    mean, low, high, site = (getattr(row, name) for name in ("mean", "low", "high", "site"))
    title = f"{significant(mean)} [{significant(low)}, {significant(high)}] at {site}"
    return Point(places.get(site, LEFT), scale.at(mean), scale.at(low), scale.at(high), title)


def across(place: int, count: int, right: float = RIGHT) -> float:
    """Where the n-th of some sites stands, in percent of the width."""
    return round(LEFT + (right - LEFT) * (place + 0.5) / max(count, 1), 3)


def spread(sites: Sequence[str], labels: int = _LABELS) -> list[str]:
    """A few sites to be named below the picture, the last among them."""
    step = ceil(len(sites) / labels)
    return list(sites)[::-1][::step][::-1] if sites else []


def _short(site: str) -> str:
    return site if len(site) < 15 else f"…{site[-13:]}"


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from below `low` to above `high`, three to six of them."""
    width = high - low
    if not (isfinite(width) and width > 0):
        return [low - 0.5, low, low + 0.5] if isfinite(low) else [0.0, 1.0]
    rough = width / 4
    unit = 10.0 ** floor(log10(rough))
    step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= rough)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


@dataclass(frozen=True)
class Histogram:
    """Shares of the samples: bars as (left in percent, height in percent), and its words."""

    bars: tuple[tuple[float, float], ...]
    mean: float
    title: str

    @property
    def width(self) -> float:
        return 100 / BINS


def histogram(values: Sequence[float], low: float, high: float) -> Histogram:
    """How the values of one cell of a table are distributed between two ends."""
    span = high - low or 1.0
    counts = [0] * BINS
    for value in values:
        counts[min(max(int((value - low) / span * BINS), 0), BINS - 1)] += 1
    most = max(counts) or 1
    bars = tuple(
        (round(100 * n / BINS, 3), round(100 * c / most, 2)) for n, c in enumerate(counts) if c
    )
    middle = sum(values) / len(values) if values else low
    title = f"{len(values)} samples between {significant(low)} and {significant(high)}"
    return Histogram(bars, round(100 * (middle - low) / span, 2), title)
