"""The section of the page that shows what a token mixer does: tiles and charts as coordinates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ....probe.results import extremes, plane
from ...html import LEFT, Dot, Scale, plural, significant, ticks
from ..contents import Curve, FigureRow, Mixer, MixerFigure
from ..page_data import picture_uri

if TYPE_CHECKING:
    from PIL.Image import Image

_RIGHT, _HUES, _NAMED = 99.0, 8, 8


@dataclass(frozen=True)
class Tile:
    """A small map: its number among those of the page, its words, a range where it has its own."""

    number: int
    words: str
    range: str
    summary: str


@dataclass(frozen=True)
class Shown:
    """A picture in its own colours: its data address, its words."""

    address: str
    words: str
    summary: str


@dataclass(frozen=True)
class Line:
    """A curve as the path of an SVG, x in percent and y in pixels."""

    name: str
    hue: int
    path: str


@dataclass(frozen=True)
class CurveChart:
    """Curves on one pair of scales; levels (y, words) and places (x, words) name them."""

    summary: str
    x: str
    y: str
    lines: tuple[Line, ...]
    dots: tuple[Dot, ...]
    heads: str
    levels: tuple[tuple[float, str], ...]
    places: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Row:
    """A row of the section: tiles, pictures, or a chart. Few rows of many columns are `wide`."""

    label: str
    range: str = ""
    tiles: tuple[Tile, ...] = ()
    wide: bool = False
    chart: CurveChart | None = None
    images: tuple[Shown, ...] = ()


@dataclass(frozen=True)
class Article:
    """A figure of the section."""

    title: str
    about: str
    note: str
    rows: tuple[Row, ...]
    charts: bool


@dataclass(frozen=True)
class Section:
    """The whole section."""

    sample: str
    figures: tuple[Article, ...]
    undrawn: tuple[tuple[str, str], ...]


def section(mixer: Mixer) -> Section:
    """What the page writes of a mixer; tiles are numbered in the order of the page's maps."""
    articles, number = [], 0
    for figure in mixer.figures:
        rows = []
        for row in figure.rows:
            rows.append(_row(figure, row, number))
            number += len(row.maps)
        charts = any(row.chart for row in rows)
        articles.append(Article(figure.title, figure.about, figure.note, tuple(rows), charts))
    return Section(mixer.sample, tuple(articles), mixer.undrawn)


def _row(figure: MixerFigure, row: FigureRow, number: int) -> Row:
    if row.curves:
        return Row(row.label, chart=_chart(figure, row))
    if row.images:
        return Row(row.label, images=tuple(_shown(figure, row, *image) for image in row.images))
    ends = [extremes(plane(m)) for _, m in row.maps]
    known = [e for e in ends if e]
    shared = ""
    if row.alike and known and row.ends is None:
        shared = _range(min(low for low, _ in known), max(high for _, high in known))
    tiles = []
    for i, (words, _) in enumerate(row.maps):
        own = _range(*end) if (end := ends[i]) else "no number"
        summary = ", ".join(filter(None, [figure.title, row.label, words, own]))
        tiles.append(Tile(number + i, words, "" if row.alike else own, summary))
    wide = row.large or _is_strip(row)
    return Row(row.label, shared, tuple(tiles), wide)


def _shown(figure: MixerFigure, row: FigureRow, words: str, image: Image) -> Shown:
    summary = ", ".join(filter(None, [figure.title, row.label, words]))
    return Shown(picture_uri(image), words, summary)


def _is_strip(row: FigureRow) -> bool:
    """Whether there is one picture of few rows and many columns."""
    if len(row.maps) != 1:
        return False
    rows, columns = plane(row.maps[0][1]).shape
    return bool(columns > 2 * rows)


def _range(low: float, high: float) -> str:
    return f"{significant(low, 3)} .. {significant(high, 3)}"


def _chart(figure: MixerFigure, row: FigureRow) -> CurveChart:
    xs = np.concatenate([c.x.double().numpy() for c in row.curves])
    ys = np.concatenate([c.y.double().numpy() for c in row.curves])
    ys = ys[np.isfinite(ys)]
    shares = not ys.size or (ys.min() >= 0 and ys.max() <= 1)
    levels = ticks(0.0, 1.0) if shares else ticks(float(ys.min()), float(ys.max()))
    scale, (start, stop) = Scale(levels[0], levels[-1]), (float(xs.min()), float(xs.max()))
    room = (_RIGHT - LEFT) / ((stop - start) or 1.0)

    def across(x: float) -> float:
        return round(LEFT + (x - start) * room if stop > start else (LEFT + _RIGHT) / 2, 2)

    joined, among = ([c for c in row.curves if c.among is dots] for dots in (False, True))
    dots = [
        Dot(across(x), scale.at(y), f"{c.name}: {significant(y)} at {row.x} {significant(x)}")
        for c in among
        for x, y in _points(c)
    ]
    return CurveChart(
        f"{figure.title}: {'; '.join(map(_summary, joined))}",
        row.x,
        row.y,
        tuple(Line(c.name, n % _HUES, _path(c, across, scale)) for n, c in enumerate(joined)),
        tuple(dots),
        plural(len(among), "head") if among else "",
        tuple((scale.at(v), significant(v)) for v in levels),
        tuple((across(v), significant(v)) for v in _places(xs)),
    )


def _places(xs: NDArray[np.float64]) -> list[float]:
    """What is written below: whole numbers where all are whole, else round ones."""
    start, stop = float(xs.min()), float(xs.max())
    if (xs % 1 == 0).all():
        step = max(1, round((stop - start) / _NAMED))
        return [float(v) for v in np.arange(start, stop + 1, step)]
    return [v for v in ticks(start, stop) if start <= v <= stop]


def _points(curve: Curve) -> list[tuple[float, float]]:
    pairs = zip(curve.x.tolist(), curve.y.tolist(), strict=True)
    return [(x, y) for x, y in pairs if isfinite(y)]


def _summary(curve: Curve) -> str:
    ys = [y for _, y in _points(curve)]
    return f"{curve.name} {_range(min(ys), max(ys))}" if ys else f"{curve.name} without numbers"


def _path(curve: Curve, across: Callable[[float], float], scale: Scale) -> str:
    """The curve, with a gap where it has no number; a point alone is a stroke without length."""
    parts, before = [], False
    for x, y in zip(curve.x.tolist(), curve.y.tolist(), strict=True):
        known = isfinite(y)
        if known:
            at = f"{across(x)} {scale.at(y)}"
            parts.append(f"L{at}" if before else f"M{at}h0")
        before = known
    return "".join(parts)
