"""The page of a data set: scores over depth, their distributions, best and worst images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas

from ...probe.results import cautions_in
from ..explanation import SCRIPTS, page_data, photo_uri, place_of, seen_beside, thumbnails
from ..html import fill, nonempty, plural, significant
from ..runs import FOLDER, Run, RunPlan
from ..scoring import NAMES, refresh
from ..scoring import table as score_table
from .depth import depths, gates
from .galleries import MOST, Gallery, explanation_of, galleries, pool
from .head_means import AXES, ModelState, states
from .panels import panels, smaller

_FAILED = 500


def render_run(run: Run, against: Run | None = None) -> str:
    """The page of a run as text, to be written as UTF-8; without scores it shows maps alone.

    against  a run of the same model with other weights, random ones say: metrics of attention
             heads are drawn beside its own. Raises LimelightError where the two do not compare.
    """
    run.check()
    plan, rows = run.plan, run.table(["index", "sample", "method", "site", "axes", "error"])
    good = rows[rows["error"].isna() & (rows["axes"] != AXES)]
    methods, sites = list(good["method"].unique()), list(good["site"].unique())
    model_states = states(run, against)
    pictures, empty = depths(model_states)
    scores = _scores(run, methods)
    means = score_table.summary(scores) if len(scores) else pandas.DataFrame()
    shown = galleries(scores, means, smaller(means)) if len(means) else []
    places = pool(shown) or list(good["index"].unique()[:MOST])
    explanation, names = explanation_of(run, [int(p) for p in places])
    data = page_data(explanation)
    scripts = (*SCRIPTS, "dataset.js") if data["maps"] else ()
    failed = rows[rows["error"].notna()]
    return fill(
        "dataset.html",
        ("page.css", "charts.css", "dataset.css"),
        scripts,
        data,
        title=f"What {plan.model} looks at in {plural(rows['sample'].nunique(), 'sample')}",
        asked=_asked(plan, methods, sites, model_states),
        cautions=cautions_in(plan.told.get("notes", ())),
        samples=data["samples"],
        partners=seen_beside(data),
        thumbnails=thumbnails(explanation.samples),
        photos={p.sample: photo_uri(p) for p in explanation.photos},
        methods=methods,
        panels=panels(scores, means, sites, methods),
        depths=pictures,
        states=[state.name for state in model_states],
        empty=empty,
        gates=gates(model_states),
        galleries=_grouped(shown, names, data, plan.targets),
        failed=[(row.sample, row.error) for row in failed.head(_FAILED).itertuples()],
        more=max(0, len(failed) - _FAILED),
        provenance=_provenance(run, plan, rows, scores, against),
    )


def _scores(run: Run, methods: Sequence[str]) -> pandas.DataFrame:
    """The scores of a run's maps and of baselines; numbers of heads are no maps."""
    if not (run.folder / score_table.FILE).exists():
        return pandas.DataFrame()
    scores = score_table.load(run.folder)
    if score_table.stale(run):
        scores = score_table.load(run.folder) if refresh(run) else scores[:0]
    return scores[scores["method"].isin([*methods, *NAMES])]


def _asked(
    plan: RunPlan, methods: Sequence[str], sites: Sequence[str], model_states: Sequence[ModelState]
) -> str:
    """The question in words: methods and where they read, metrics of heads."""
    phrases = []
    if methods:
        where = f"at {sites[0]}" if len(sites) == 1 else f"at {len(sites)} layers"
        what = f"{plural(len(methods), 'method')} {where}"
        phrases.append(f"{what}, for the targets {', '.join(plan.targets)}")
    metrics = list(model_states[0].metrics.values())
    if metrics:
        layers = max(len(rows) for rows in metrics)
        heads = plural(len(metrics), "metric") + " of attention heads"
        phrases.append(f"{heads} in {plural(layers, 'layer')}")
    return "; ".join(phrases) + "."


def _grouped(
    shown: list[Gallery], names: dict[int, str], data: dict[str, Any], targets: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Galleries by score, with the numbers that the script knows maps by."""
    by_metric: dict[str, list[dict[str, Any]]] = {}
    for gallery in shown:
        sides = [(word, _shown(gallery, word, names, data, targets)) for word in ("best", "worst")]
        if any(side for _, side in sides):
            row = {"method": gallery.method, "site": gallery.site, "sides": sides}
            by_metric.setdefault(gallery.metric, []).append(row)
    return by_metric


def _shown(
    gallery: Gallery,
    side: str,
    names: dict[int, str],
    data: dict[str, Any],
    targets: Sequence[str],
) -> list[dict[str, Any]]:
    places = {tuple(m["at"]): n for n, m in enumerate(data["maps"])}
    samples = [s["name"] for s in data["samples"]]
    shown = []
    for pick in getattr(gallery, side):
        if pick.place not in names:
            continue
        place = place_of(names[pick.place], gallery.site)
        if place not in samples:
            continue
        sample = samples.index(place)
        site, method = data["sites"].index(gallery.site), data["methods"].index(gallery.method)
        maps = [n for at, n in places.items() if (at[0], at[2], at[3]) == (sample, site, method)]
        if not maps:
            continue
        number_of = _wanted(maps, targets, gallery.asked)
        shown.append({"map": number_of, "name": samples[sample], "value": significant(pick.value)})
    return shown


def _wanted(maps: list[int], targets: Sequence[str], asked: str) -> int:
    """Of one sample's maps for the plan's targets, the one that the score is about."""
    first = asked.partition(",")[0]
    whole = len(maps) == len(targets) and first in targets
    return maps[targets.index(first)] if whole else maps[0]


def _provenance(
    run: Run,
    plan: RunPlan,
    table: pandas.DataFrame,
    scores: pandas.DataFrame,
    against: Run | None,
) -> list[tuple[str, list[str]]]:
    done, failed = table["index"].nunique(), int(table["error"].notna().sum())
    counts = [plural(done, "sample"), f"{failed} failed" if failed else ""]
    counts.append(f"{run.missing} still to be computed" if run.missing else "")
    versions = plan.told.get("versions") or {}
    rows = {
        "Model": [plan.model],
        "Weights": [plan.weights],
        "Preprocessing": [plan.preprocessing],
        "Data": [*plan.told.get("data", ()), f"digest {plan.data}"],
        "Samples": [", ".join(filter(None, counts))],
        "Methods": list(plan.methods),
        "Sites": list(plan.sites),
        "Targets": list(plan.targets),
        "Scores": list(scores["metric"].unique()) if len(scores) else [],
        "Seed": [str(plan.seed)],
        "Type": [plan.dtype],
        "Versions": [f"{name} {value}" for name, value in versions.items()],
        "Computed": [plan.told.get("created", "")],
        "Run": [f"{run.folder.name}, hash {plan.hash}, parts in {FOLDER}/"],
        "Beside it": [] if against is None else _beside(against, plan),
        "Notes": list(plan.told.get("notes", ())),
    }
    return nonempty(rows)


def _beside(against: Run, plan: RunPlan) -> list[str]:
    """What the other run is, and what it does not share."""
    other = against.plan
    facts = [f"{against.folder.name}, hash {other.hash}, weights {other.weights}"]
    facts.append("" if other.data == plan.data else f"it saw other data: digest {other.data}")
    return facts
