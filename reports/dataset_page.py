"""The page of a data set: scores over depth, their distributions, best and worst images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas

from ..methods.metric import list_metrics
from . import parts, score_table
from .baselines import NAMES
from .charts import Chart, Histogram, chart, histogram, ticks
from .data import page_data, photo_uri
from .page import SCRIPTS, fill
from .picks import MOST, Gallery, explanation_of, galleries, pool, rank
from .run import Run
from .run_plan import RunPlan
from .score import PAIRED
from .waterfall import number

_FAILED = 500
_ALIKE = "1: the map of the likeliest class is that of the least likely; near 0: another map"
_PAIRED = {
    "class_sensitivity": f"Spearman's rank correlation. {_ALIKE}.",
    "class_sensitivity_pearson": f"Pearson's correlation. {_ALIKE}.",
    "class_sensitivity_ssim": f"Structural similarity. {_ALIKE}.",
}


@dataclass(frozen=True)
class Cell:
    """A mean with its interval and what lies behind it."""

    mean: str
    between: str
    count: str
    histogram: Histogram


@dataclass(frozen=True)
class Panel:
    """One score for one target: a chart, a table, all numbers."""

    metric: str
    asked: str
    told: str
    better: str
    chart: Chart
    sites: tuple[str, ...]
    rows: tuple[tuple[str, int, tuple[Cell | None, ...]], ...]
    rivals: tuple[tuple[str, Cell], ...]
    numbers: tuple[tuple[str, ...], ...]
    left_out: str
    tall: bool


def render_run(run: Run) -> str:
    """The page of a run as text, to be written as UTF-8; without scores it shows maps alone."""
    plan, heads = run.plan, run.table(["index", "sample", "method", "site", "error"])
    scored = (run.folder / score_table.FILE).exists()
    scores = score_table.load(run.folder) if scored else pandas.DataFrame()
    means = score_table.summary(scores) if len(scores) else pandas.DataFrame()
    good = heads[heads["error"].isna()]
    methods, sites = list(good["method"].unique()), list(good["site"].unique())
    shown = galleries(scores, means, _smaller(means)) if len(means) else []
    places = pool(shown) or list(good["index"].unique()[:MOST])
    explanation, names = explanation_of(run, [int(p) for p in places])
    data = page_data(explanation)
    scripts = (*SCRIPTS, "dataset.js") if data["maps"] else ()
    failed = heads[heads["error"].notna()]
    return fill(
        "dataset.html",
        ("page.css", "dataset.css"),
        scripts,
        data,
        title=f"What {plan.model} looks at in {_count(heads['sample'].nunique(), 'sample')}",
        asked=_asked(plan, methods, sites),
        samples=data["samples"],
        photos={p.sample: photo_uri(p) for p in explanation.photos},
        methods=methods,
        panels=_panels(scores, means, sites, methods),
        galleries=_grouped(shown, names, data, plan.targets),
        failed=[(row.sample, row.error) for row in failed.head(_FAILED).itertuples()],
        more=max(0, len(failed) - _FAILED),
        provenance=_provenance(run, plan, heads, scores),
    )


def _count(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _asked(plan: RunPlan, methods: Sequence[str], sites: Sequence[str]) -> str:
    where = f"at {sites[0]}" if len(sites) == 1 else f"at {len(sites)} layers"
    return f"{_count(len(methods), 'method')} {where}, for the targets {', '.join(plan.targets)}."


def _smaller(means: pandas.DataFrame) -> list[str]:
    known = {m.name: m.better for m in list_metrics()}
    return [n for n in means["metric"].unique() if n in PAIRED or known.get(_bare(n)) == "smaller"]


def _bare(name: str) -> str:
    return name.partition(",")[0]


def _panels(
    scores: pandas.DataFrame, means: pandas.DataFrame, sites: list[str], methods: list[str]
) -> list[Panel]:
    if not len(means):
        return []
    groups = means[means["count"] > 0].groupby(["metric", "asked"], sort=False)
    return [
        _panel(str(metric), str(asked), scores, own, sites, methods)
        for (metric, asked), own in sorted(groups, key=lambda group: rank(group[0][0]))
    ]


def _panel(
    metric: str,
    asked: str,
    scores: pandas.DataFrame,
    means: pandas.DataFrame,
    sites: list[str],
    methods: list[str],
) -> Panel:
    own = scores[(scores["metric"] == metric) & (scores["asked"] == asked)]
    ends = _ends(metric, own["value"])
    values = {key: part["value"].dropna().tolist() for key, part in own.groupby(["method", "site"])}
    cells = {
        (row.method, row.site): _cell(row, values[row.method, row.site], ends)
        for row in means.itertuples()
    }
    used = [s for s in sites if any((m, s) in cells for m in methods)]
    rows = tuple(
        (name, n, tuple(cells.get((name, site)) for site in used))
        for n, name in enumerate(methods)
        if any((name, site) in cells for site in used)
    )
    rivals = tuple((m, cell) for (m, _), cell in cells.items() if m in NAMES and m not in methods)
    told, better = _told(metric)
    picture = chart(means, used, methods)
    numbers, out = _numbers(means), _left_out(own)
    tall = metric in PAIRED
    return Panel(
        metric, asked, told, better, picture, tuple(used), rows, rivals, numbers, out, tall
    )


def _ends(metric: str, values: pandas.Series) -> tuple[float, float]:
    """The ends of a score's histograms: 0 to 1 or -1 to 1 where all values lie there."""
    known = values.dropna()
    low, high = float(known.min()), float(known.max())
    if metric in PAIRED:
        return -1.0, 1.0
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    marks = ticks(low, high)
    return marks[0], marks[-1]


def _cell(row: Any, values: list[float], ends: tuple[float, float]) -> Cell:
    between = f"{_three(row.low)} to {_three(row.high)}"
    count = f"{row.count} samples" + (f", {row.left_out} left out" if row.left_out else "")
    return Cell(_three(row.mean), between, count, histogram(values, *ends))


def _three(value: float) -> str:
    """Three digits after the point, or three that count where there are more before it."""
    return (f"{value:.3f}" if abs(value) < 10 else f"{value:.3g}").replace("-", "−")


def _told(metric: str) -> tuple[str, str]:
    if metric in _PAIRED:
        return _PAIRED[metric], ""
    found = list_metrics(_bare(metric))
    if not found:
        return "", ""
    better = f"{found[0].better} is better" if found[0].better else ""
    return found[0].summary, f"{found[0].group}, {better}".strip(", ")


def _numbers(means: pandas.DataFrame) -> tuple[tuple[str, ...], ...]:
    names = ("mean", "low", "high", "count", "left_out", "class_mean", "hard_mean", "hard_count")
    rows = []
    for row in means.itertuples():
        values = [getattr(row, name) for name in names]
        rows.append((row.method, row.site, *("–" if v != v else number(v) for v in values)))
    return tuple(rows)


def _left_out(own: pandas.DataFrame) -> str:
    """How many samples have no score for any reason, by reason."""
    notes = own[own["value"].isna() & ~own["method"].isin(NAMES)]
    counts = notes.groupby("note")["index"].nunique()
    return "; ".join(f"{note}: {_count(int(n), 'sample')}" for note, n in counts.items())


def _grouped(
    shown: list[Gallery], names: dict[int, str], data: dict[str, Any], targets: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Galleries by score, with the numbers that the script knows maps by."""
    found: dict[str, list[dict[str, Any]]] = {}
    for gallery in shown:
        sides = [(word, _shown(gallery, word, names, data, targets)) for word in ("best", "worst")]
        if any(side for _, side in sides):
            row = {"method": gallery.method, "site": gallery.site, "sides": sides}
            found.setdefault(gallery.metric, []).append(row)
    return found


def _shown(
    gallery: Gallery,
    side: str,
    names: dict[int, str],
    data: dict[str, Any],
    targets: Sequence[str],
) -> list[dict[str, Any]]:
    places = {tuple(m["at"]): n for n, m in enumerate(data["maps"])}
    known = [s["name"] for s in data["samples"]]
    found = []
    for pick in getattr(gallery, side):
        if pick.place not in names:
            continue
        sample = known.index(names[pick.place])
        site, method = data["sites"].index(gallery.site), data["methods"].index(gallery.method)
        maps = [n for at, n in places.items() if (at[0], at[2], at[3]) == (sample, site, method)]
        if not maps:
            continue
        number_of = _wanted(maps, targets, gallery.asked)
        found.append({"map": number_of, "name": known[sample], "value": number(pick.value)})
    return found


def _wanted(maps: list[int], targets: Sequence[str], asked: str) -> int:
    """Of one sample's maps for the plan's targets, the one that the score is about."""
    first = asked.partition(",")[0]
    whole = len(maps) == len(targets) and first in targets
    return maps[targets.index(first)] if whole else maps[0]


def _provenance(
    run: Run, plan: RunPlan, heads: pandas.DataFrame, scores: pandas.DataFrame
) -> list[tuple[str, list[str]]]:
    done, failed = heads["index"].nunique(), int(heads["error"].notna().sum())
    told = [_count(done, "sample"), f"{failed} failed" if failed else ""]
    told.append(f"{run.missing} still to be computed" if run.missing else "")
    versions = plan.told.get("versions") or {}
    rows = {
        "Model": [plan.model],
        "Weights": [plan.weights],
        "Preprocessing": [plan.preprocessing],
        "Data": [*plan.told.get("data", ()), f"digest {plan.data}"],
        "Samples": [", ".join(filter(None, told))],
        "Methods": list(plan.methods),
        "Sites": list(plan.sites),
        "Targets": list(plan.targets),
        "Scores": list(scores["metric"].unique()) if len(scores) else [],
        "Seed": [str(plan.seed)],
        "Type": [plan.dtype],
        "Versions": [f"{name} {value}" for name, value in versions.items()],
        "Computed": [plan.told.get("created", "")],
        "Run": [f"{run.folder.name}, hash {plan.hash}, parts in {parts.FOLDER}/"],
        "Notes": list(plan.told.get("notes", ())),
    }
    return [(name, kept) for name, words in rows.items() if (kept := [w for w in words if w])]
