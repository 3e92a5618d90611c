"""The scores of a run as panels of its page: a chart over depth, a table, all numbers."""

from __future__ import annotations

from dataclasses import dataclass

import pandas

from ...methods.metrics import list_metrics
from ...probe.attribution import bare_name
from ..html import Cell, Chart, cell_of, chart, or_dash, plural, significant, ticks
from ..scoring import NAMES, PAIRED
from .galleries import rank
from .meta_step import MetaComparison, meta_comparisons

_ALIKE = "1: the map of the likeliest class is that of the least likely; near 0: another map"
_PAIRED = {
    "class_sensitivity": f"Spearman's rank correlation. {_ALIKE}.",
    "class_sensitivity_pearson": f"Pearson's correlation. {_ALIKE}.",
    "class_sensitivity_ssim": f"Structural similarity. {_ALIKE}.",
}


@dataclass(frozen=True)
class Panel:
    """One score for one target: a chart, a table, all numbers.

    comparisons  methods beside themselves after the meta step, where class sensitivity is scored
    """

    metric: str
    asked: str
    meaning: str
    better: str
    chart: Chart
    sites: tuple[str, ...]
    rows: tuple[tuple[str, int, tuple[Cell | None, ...]], ...]
    rivals: tuple[tuple[str, Cell], ...]
    numbers: tuple[tuple[str, ...], ...]
    left_out: str
    tall: bool
    comparisons: tuple[MetaComparison, ...]


def smaller(means: pandas.DataFrame) -> list[str]:
    """The scores of which less is better."""
    better = {m.name: m.better for m in list_metrics()}
    return [
        n for n in means["metric"].unique() if n in PAIRED or better.get(bare_name(n)) == "smaller"
    ]


def panels(
    scores: pandas.DataFrame, means: pandas.DataFrame, sites: list[str], methods: list[str]
) -> list[Panel]:
    """One for each score and target, localisation first."""
    if not len(means):
        return []
    groups = means[means["count"] > 0].groupby(["metric", "asked"], sort=False)
    return [
        _panel(str(metric), str(asked), scores, rows, sites, methods)
        for (metric, asked), rows in sorted(groups, key=lambda item: rank(item[0][0]))
    ]


def _panel(
    metric: str,
    asked: str,
    scores: pandas.DataFrame,
    means: pandas.DataFrame,
    sites: list[str],
    methods: list[str],
) -> Panel:
    of_panel = scores[(scores["metric"] == metric) & (scores["asked"] == asked)]
    cells = _cells(metric, of_panel, means)
    used = [s for s in sites if any((m, s) in cells for m in methods)]
    rows = tuple(
        (name, n, tuple(cells.get((name, site)) for site in used))
        for n, name in enumerate(methods)
        if any((name, site) in cells for site in used)
    )
    rivals = tuple((m, cell) for (m, _), cell in cells.items() if m in NAMES and m not in methods)
    meaning, better = _meaning(metric)
    return Panel(
        metric,
        asked,
        meaning,
        better,
        chart(means, used, methods, NAMES),
        tuple(used),
        rows,
        rivals,
        _numbers(means),
        _left_out(of_panel),
        tall=metric in PAIRED,
        comparisons=meta_comparisons(of_panel, cells, used) if metric in PAIRED else (),
    )


def _cells(
    metric: str, scores: pandas.DataFrame, means: pandas.DataFrame
) -> dict[tuple[str, str], Cell]:
    """The cells of a table by method and site."""
    ends = _ends(metric, scores["value"])
    values = {
        key: part["value"].dropna().tolist() for key, part in scores.groupby(["method", "site"])
    }
    return {
        (row.method, row.site): cell_of(row, values[row.method, row.site], ends)
        for row in means.itertuples()
    }


def _ends(metric: str, values: pandas.Series) -> tuple[float, float]:
    """The ends of a score's histograms: 0 to 1 or -1 to 1 where all values lie there."""
    numbers = values.dropna()
    low, high = float(numbers.min()), float(numbers.max())
    if metric in PAIRED:
        return -1.0, 1.0
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    marks = ticks(low, high)
    return marks[0], marks[-1]


def _meaning(metric: str) -> tuple[str, str]:
    if metric in _PAIRED:
        return _PAIRED[metric], ""
    listed = list_metrics(bare_name(metric))
    if not listed:
        return "", ""
    better = f"{listed[0].better} is better" if listed[0].better else ""
    return listed[0].summary, f"{listed[0].group}, {better}".strip(", ")


def _numbers(means: pandas.DataFrame) -> tuple[tuple[str, ...], ...]:
    names = ("mean", "low", "high", "count", "left_out", "class_mean", "hard_mean", "hard_count")
    rows = []
    for row in means.itertuples():
        numbers = (or_dash(getattr(row, name), significant) for name in names)
        rows.append((row.method, row.site, *numbers))
    return tuple(rows)


def _left_out(scores: pandas.DataFrame) -> str:
    """How many samples have no score for any reason, by reason."""
    notes = scores[scores["value"].isna() & ~scores["method"].isin(NAMES)]
    counts = notes.groupby("note")["index"].nunique()
    return "; ".join(f"{note}: {plural(int(n), 'sample')}" for note, n in counts.items())
