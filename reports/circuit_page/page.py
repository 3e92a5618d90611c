"""The page of a circuit: which heads do a task, by which method, and how far that is to be trusted.

circuit_report(ll.circuit(model, "ioi"), "ioi.html")
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from torch import Tensor

from ...methods.circuits.circuit import Circuit
from ...methods.circuits.interventions import By
from ...methods.circuits.judging import CircuitCheck
from ...models.weights import fingerprint
from ...probe.attribution import list_methods
from ...probe.errors import LimelightError, OptionError
from ...probe.results import cautions_in, replaceable, write
from ..html import (
    fill,
    interval_text,
    nonempty,
    or_dash,
    significant_or_zero,
    three_digits,
)
from . import text as words
from .attention_maps import Seen
from .charts import Growth, curve_plots, forests, grid, growth, hues, parts
from .graph import graph
from .heads import head_pages

COLUMNS = {
    "auc": "AUC",
    "auc_null": "its null",
    "precision_k": "Precision at k",
    "spearman": "Spearman",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "bal_f1": "Balanced F1",
}
CHECKED = 8


def circuit_report(
    circuit: Circuit,
    path: str | Path,
    *,
    heads: int = 8,
    prompts: int = 3,
    by: By = "resample",
    methods: Sequence[str] | None = None,
    checked: int = CHECKED,
    force: bool = False,
) -> Path:
    """Write the page of a circuit; its path.

    heads    how many of the first method's top heads get a section of their own
    prompts  how many prompts their attention is drawn on
    by       what stands for heads outside a circuit: zero, mean over corrupt inputs, resample
    methods  the methods to be shown, the first being the one that is verified; all by default
    checked  pairs that faithfulness is measured on, 0 for all
    force    also over a file that was not written here
    Raises OptionError, MethodError.

    Example:
        >>> found = ll.circuit(lm, "induction", ["attribution"], count=4)
        >>> ll.circuit_report(found, "circuit.html").name
        'circuit.html'
    """
    check_sizes(heads, prompts, checked)
    target = Path(path).expanduser()
    replaceable(target, force)
    page = render_circuit(chosen(circuit, methods), heads, prompts, by, checked)
    return write(target, page.encode("utf-8"))


def check_sizes(heads: int, prompts: int, checked: int) -> None:
    """Raise OptionError for numbers that no page can have."""
    if min(heads, prompts, checked) < 0:
        raise OptionError(
            f"a page has 0 heads, prompts and checked pairs or more, not {heads}, {prompts} and "
            f"{checked}"
        )


def chosen(circuit: Circuit, methods: Sequence[str] | None) -> Circuit:
    """The circuit with only some of its methods, in that order. Raises MethodError."""
    from dataclasses import replace

    if methods is None:
        return circuit
    scores = {name: circuit.score(name) for name in methods}
    table = circuit.evaluation.set_index("method").loc[list(scores)].reset_index()
    return replace(circuit, scores=scores, evaluation=table, _kept={})


def render_circuit(
    circuit: Circuit, heads: int = 8, prompts: int = 3, by: By = "resample", checked: int = CHECKED
) -> str:
    """The page as text, to be written as UTF-8."""
    colours = hues(list(circuit.scores))
    pages, maps = head_pages(circuit, heads, prompts)
    return fill(
        "circuit.html",
        ("page.css", "charts.css", "dataset.css", "circuit.css"),
        ("circuit.js",),
        _data(circuit, maps),
        title=words.title(circuit),
        asked=words.asked(circuit),
        cautions=cautions_in(circuit.notes),
        circuit=circuit,
        example=words.example(circuit),
        facts=[words.metric(circuit), words.truth(circuit)],
        verdicts=words.verdicts(circuit),
        caveats=words.caveats(circuit),
        hues=colours,
        table=_table(circuit),
        summaries=_summaries(circuit),
        grid=grid(circuit),
        plots=curve_plots(circuit, colours),
        graph=graph(circuit),
        sections={page.place for page in pages},
        pages=pages,
        prompts=maps.prompts,
        first=next(iter(circuit.scores)),
        times=_times(circuit),
        provenance=provenance(circuit),
        three_digits=three_digits,
        **_verification(circuit, by, checked, colours),
    )


_BY = {
    "mean": "their mean over the corrupt inputs",
    "zero": "zeros",
    "resample": "their output on the corrupt input of the same pair",
}


def _verification(
    circuit: Circuit, by: By, checked: int, colours: dict[str, int]
) -> dict[str, object]:
    """What the page says of how far the top heads do the task alone."""
    check, curves, missing = _verified(circuit, by, checked, colours)
    places = {name: place for place, name in enumerate(circuit.names)}
    bars, zero = parts(check, places) if check else ([], 0.0)
    return {
        "check": check,
        "size": len(bars),
        "by": _BY[by],
        "checked": min(checked or len(circuit.pairs), len(circuit.pairs)),
        "bars": bars,
        "zero": zero,
        "growth": curves,
        "missing": missing,
    }


def _verified(
    circuit: Circuit, by: By, checked: int, colours: dict[str, int]
) -> tuple[CircuitCheck | None, Growth | None, str]:
    """The check of the first method's top heads and the curves, or why there are none."""
    truth = circuit.truth
    size = int(truth.inside.sum()) if truth is not None else 10
    size = min(size or 10, len(circuit.names) - 1)
    names = list(circuit.scores)
    published = [name for name in names[1:] if words.is_published(name)]
    lines = [names[0], *published[:1]]
    try:
        check = circuit.verify(size, by=by, pairs=checked)
        tables = {name: circuit.curve(name, by=by, pairs=checked) for name in lines}
    except LimelightError as error:
        return None, None, str(error)
    return check, growth(tables, len(circuit.names), colours), ""


def _summaries(circuit: Circuit) -> dict[str, str]:
    summaries = {}
    for name in circuit.scores:
        listed = list_methods(words.bare(name))
        chance = circuit.scores[name].chance
        null = f" Null: {chance}." if chance else ""
        summaries[name] = (listed[0].summary if listed else "") + null
    return summaries


def _table(circuit: Circuit) -> list[dict[str, Any]]:
    """The evaluation, row by row, as it is shown."""
    table = circuit.evaluation
    if "ap" not in table:
        return []
    intervals = forests(table)
    rows = []
    for row in table.to_dict("records"):
        null = row.get("ap_null", float("nan"))
        gain = row["ap"] - null
        beats = isfinite(gain) and row["ap_low"] > 0
        rows.append(
            {
                "method": row["method"],
                "ap": row["ap"],
                "null": null if isfinite(null) else None,
                "gain": three_digits(gain) if isfinite(gain) else "",
                "between": interval_text(row["ap_low"], row["ap_high"]) if isfinite(gain) else "",
                "beats": beats,
                "forest": intervals.get(row["method"]),
                "cells": [or_dash(row.get(key), three_digits) for key in COLUMNS],
                "seconds": _seconds(row["seconds"]),
            }
        )
    return rows


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value >= 1 else f"{significant_or_zero(1000 * value)} ms"


def _times(circuit: Circuit) -> list[tuple[str, str, float]]:
    """What took how long, and its share of the longest in percent."""
    shared = [(f"{name} of all pairs, shared", s) for name, s in circuit.evidence.seconds.items()]
    rows = [*shared, *((name, circuit.seconds[name]) for name in circuit.scores)]
    most = max(seconds for _, seconds in rows) or 1.0
    return [(name, _seconds(s), round(max(100 * s / most, 0.3), 1)) for name, s in rows]


def _data(circuit: Circuit, maps: Seen) -> dict[str, Any]:
    """What the script draws from."""
    truth = circuit.truth
    effects = None if truth is None or truth.effects is None else truth.effects
    return {
        "methods": [
            {
                "name": name,
                "values": _plain(score.values),
                "null": None if score.null is None else _plain(score.null.mean(0)),
                "p": _plain(score.p),
                "q": _plain(score.q),
                "signed": _plain(score.signed),
            }
            for name, score in circuit.scores.items()
        ],
        "heads": [words.head_name(head) for head in circuit.names],
        "inside": None if truth is None else truth.inside.tolist(),
        "effects": _plain(effects),
        "prompts": list(maps.prompts),
        "maps": {str(place): rows for place, rows in maps.maps.items()},
    }


def _plain(values: Tensor | None) -> list[float | None] | None:
    """Numbers of four digits; null for those that are none."""
    if values is None:
        return None
    return [float(f"{v:.4g}") if isfinite(v) else None for v in values.tolist()]


def provenance(circuit: Circuit) -> list[tuple[str, list[str]]]:
    """Rows of the table that says how to compute the page again; empty rows are dropped."""
    about, truth = circuit.about, circuit.truth
    rows = {
        "Model": [about.model],
        "Weights": [about.weights or fingerprint(circuit.evidence.model)],
        "Inputs": [f"{circuit.pairs.name}: {circuit.pairs.about}", _count(circuit)],
        "Truth": [] if truth is None else [truth.name, truth.version],
        "Methods": list(circuit.scores),
        "Heads read at": [str(o.site) for o in circuit.evidence.outputs.layers[:_SITES]],
        "Seed": [str(about.seed)],
        "Type": [about.dtype],
        "Versions": [f"{name} {number}" for name, number in about.versions],
        "Computed": [about.created],
        "Notes": list(circuit.notes),
    }
    if len(circuit.evidence.outputs.layers) > _SITES:
        rows["Heads read at"].append(f"and {len(circuit.evidence.outputs.layers) - _SITES} more")
    return nonempty(rows)


_SITES = 3


def _count(circuit: Circuit) -> str:
    return f"{len(circuit.pairs)} pairs, {int(circuit.evidence.clean.lengths.sum())} tokens a side"
