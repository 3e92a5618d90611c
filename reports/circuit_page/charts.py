"""The pictures of a circuit's page: the grid of heads, curves, intervals, as coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, log

import pandas

from ...methods.circuits.circuit import Circuit
from ...methods.circuits.judging import CircuitCheck, curves
from ..html import Dot, interval_text, significant, three_digits, ticks
from .text import head_name, is_control

LEFT, TOP, SIDE = 44, 10, 260  # a square plot of `SIDE` pixels
WIDE = 560


@dataclass(frozen=True)
class HeadCell:
    """A head in the grid."""

    place: int
    name: str
    x: float
    y: float
    inside: bool


@dataclass(frozen=True)
class HeadGrid:
    """Layers by heads: cells, and the names of rows and columns at their places."""

    size: int
    width: int
    height: int
    cells: tuple[HeadCell, ...]
    rows: tuple[tuple[float, int], ...]
    columns: tuple[tuple[float, int], ...]


def grid(circuit: Circuit) -> HeadGrid:
    heads = max(o.heads for o in circuit.evidence.outputs.layers)
    layers = len(circuit.evidence.outputs.layers)
    size = max(20, min(54, 620 // heads, 760 // layers))
    inside = [False] * len(circuit.names)
    if circuit.truth is not None:
        inside = circuit.truth.inside.tolist()
    cells = tuple(
        HeadCell(place, head_name(name), 34 + name[1] * size, 22 + name[0] * size, inside[place])
        for place, name in enumerate(circuit.names)
    )
    rows = tuple((22 + (i + 0.5) * size, i) for i in range(layers))
    columns = tuple((34 + (i + 0.5) * size, i) for i in range(heads))
    return HeadGrid(size, 36 + heads * size, 24 + layers * size, cells, rows, columns)


@dataclass(frozen=True)
class Curve:
    """A method's ROC and precision-recall curve as paths, with its hue, -1 for a control."""

    name: str
    hue: int
    roc: str
    recall: str
    auc: str
    ap: str


def curve_plots(circuit: Circuit, hues: Mapping[str, int]) -> list[Curve]:
    """One for every method; none where nothing is known of the circuit."""
    if circuit.truth is None or "ap" not in circuit.evaluation:
        return []
    figures = circuit.evaluation.set_index("method")
    plots = []
    for name, score in circuit.scores.items():
        points = curves(score, circuit.truth)
        roc = _line(zip(points["fpr"], points["tpr"], strict=True))
        recall = _steps(points["recall"][::-1], points["precision"][::-1])
        areas = three_digits(figures.loc[name, "auc"]), three_digits(figures.loc[name, "ap"])
        plots.append(Curve(name, hues[name], roc, recall, *areas))
    return plots


def hues(methods: Sequence[str]) -> dict[str, int]:
    """A hue for each method, -1 for controls."""
    by_method: dict[str, int] = {}
    for name in methods:
        by_method[name] = -1 if is_control(name) else sum(hue >= 0 for hue in by_method.values())
    return by_method


def _line(points: object) -> str:
    return "M" + " L".join(f"{_x(x)} {_y(y)}" for x, y in points)  # type: ignore[attr-defined]


def _steps(recall: Sequence[float], precision: Sequence[float]) -> str:
    """Precision as average precision sums it: a step at every head found."""
    path, last = "", 0.0
    for x, y in zip(recall, precision, strict=True):
        if x > last:
            path += f"{'V' if path else f'M{LEFT} '}{_y(y)} H{_x(x)} "
            last = x
    return path.rstrip()


def _x(value: float) -> float:
    return round(LEFT + value * SIDE, 1)


def _y(value: float) -> float:
    return round(TOP + (1 - value) * SIDE, 1)


@dataclass(frozen=True)
class Forest:
    """A figure minus its null with its interval, as places in percent of the width."""

    low: float
    middle: float
    high: float
    zero: float
    title: str


def forests(table: pandas.DataFrame) -> dict[str, Forest]:
    """Average precision minus null of every method that has one, on one scale."""
    if "ap_null" not in table:
        return {}
    rows = table[table["ap_null"].notna()]
    least = min(0.0, *rows["ap_low"], -0.05)
    span = max(0.0, *rows["ap_high"], 0.05) - least

    def at(value: float) -> float:
        return round(4 + 92 * (value - least) / span, 2)

    by_method = {}
    for row in rows.itertuples():
        gain = row.ap - row.ap_null
        title = f"{three_digits(gain)}, 95 % interval {interval_text(row.ap_low, row.ap_high)}"
        by_method[row.method] = Forest(at(row.ap_low), at(gain), at(row.ap_high), at(0.0), title)
    return by_method


@dataclass(frozen=True)
class FaithfulnessLine:
    """A line of the faithfulness chart."""

    name: str
    kind: str
    hue: int
    dots: tuple[Dot, ...]

    @property
    def path(self) -> str:
        return "M" + " L".join(f"{d.x} {d.y}" for d in self.dots)


@dataclass(frozen=True)
class Growth:
    """Faithfulness and completeness as circuits grow."""

    series: tuple[FaithfulnessLine, ...]
    ticks: tuple[tuple[float, str], ...]
    sizes: tuple[tuple[float, int], ...]
    heads: tuple[int, ...]
    rows: tuple[tuple[str, str, tuple[str, ...]], ...]


def growth(tables: Mapping[str, pandas.DataFrame], total: int, hues: Mapping[str, int]) -> Growth:
    """The curves of some methods; the random circuits are those of the first."""
    first = next(iter(tables.values()))
    columns = [(m, kind, t[kind]) for m, t in tables.items() for kind in _KINDS]
    columns.append(("random circuits", "faithfulness", first["random"]))
    values = [v for _, _, column in columns for v in column if isfinite(v)]
    low, high = min(0.0, *values), max(1.0, *values)
    marks = [v for v in ticks(low, high) if low <= v <= high]
    sizes = [*first["heads"], total]

    def across(k: float) -> float:
        return round(LEFT + (WIDE - LEFT - 20) * log(k) / (log(total) or 1), 1)

    def down(v: float) -> float:
        return round(TOP + SIDE * (high - v) / (high - low), 1)

    def line(name: str, kind: str, column: pandas.Series) -> FaithfulnessLine:
        ends = [*column, 0.0 if kind == "completeness" else 1.0]
        dots = tuple(
            Dot(across(k), down(v), f"{name}, {k} heads: {kind} {three_digits(v)}")
            for k, v in zip(sizes, ends, strict=True)
        )
        return FaithfulnessLine(name, kind, hues.get(name, -1), dots)

    series = tuple(line(*column) for column in columns)
    rows = tuple((n, kind, tuple(three_digits(v) for v in column)) for n, kind, column in columns)
    named = tuple((across(k), k) for k in _apart(sizes, across))
    return Growth(
        series, tuple((down(v), significant(v)) for v in marks), named, tuple(sizes[:-1]), rows
    )


_KINDS = ("faithfulness", "completeness")


def _apart(sizes: Sequence[int], across: object) -> list[int]:
    """Sizes whose names do not overlap, the last among them."""
    kept: list[int] = []
    for k in reversed(sizes):
        if not kept or across(kept[-1]) - across(k) > 24:  # type: ignore[operator]
            kept.append(k)
    return kept


@dataclass(frozen=True)
class Part:
    """What a head adds to the circuit: a bar from `left`, in percent."""

    place: int
    name: str
    value: str
    left: float
    width: float
    helps: bool


def parts(check: CircuitCheck, places: Mapping[tuple[int, int], int]) -> tuple[list[Part], float]:
    """Minimality, the largest first, and where zero lies."""
    least = min(0.0, *check.minimality.values())
    span = (max(0.0, *check.minimality.values()) - least) or 1.0
    zero = round(-100 * least / span, 2)
    bars = []
    for head, value in sorted(check.minimality.items(), key=lambda item: -item[1]):
        width = round(max(100 * abs(value) / span, 0.4), 2)
        left = zero if value >= 0 else zero - width
        bars.append(
            Part(
                places[head],
                head_name(head),
                three_digits(round(value, 3) + 0.0),
                round(left, 2),
                width,
                value >= 0,
            )
        )
    return bars, zero
