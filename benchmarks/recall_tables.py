"""The study of recall as tables, and as a chart of accuracy over bytes of state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from figures import markdown

Found = Mapping[Any, Mapping[str, Any]]
WIDE, HIGH, LEFT, TOP, RIGHT, BOTTOM = 760, 400, 52, 16, 200, 44
HUES = ("#1b6ca8", "#c0392b", "#2e8b57", "#8e44ad", "#d68910", "#16a2a2", "#7f5539", "#555555",
        "#c2408a")  # fmt: skip


def document(found: Found, total: int) -> tuple[str, str]:
    """All tables of what is there, and the chart as SVG."""
    parts = {
        "Accuracy and state": recall_tables,
        "Accuracy by gap": gap_table,
        "Does the map point where the effect is?": pointing_table,
        "Sigmoid scores on digits": sigmoid_table,
        "SeerAttention's gates on stories260k": gate_tables,
        "Orchid against BaseConv": last_table,
    }
    spent = sum(told.get("cpu_seconds", 0) for told in found.values())
    text = [
        f"{len(found)} of {total} trainings, {spent / 60:.0f} CPU minutes. Figures are means over "
        "seeds, least to largest in brackets; without brackets there is one seed."
    ]
    text += [f"## {title}\n\n{part}" for title, make in parts.items() if (part := make(found))]
    return "\n\n".join(text), chart(found)


def of_part(found: Found, part: str) -> dict[Any, Mapping[str, Any]]:
    return {job: told for job, told in found.items() if job.part == part}


def spread(values: Iterable[float | None], digits: int = 2) -> str:
    """Mean, and least to largest behind it where there are several seeds."""
    there = [value for value in values if value is not None]
    if not there:
        return "–"
    text = f"{fmean(there):.{digits}f}"
    if len(there) == 1:
        return text
    return f"{text} ({min(there):.{digits}f} to {max(there):.{digits}f})"


def grouped(found: Found, key: Callable[[Any], Any]) -> dict[Any, list[Mapping[str, Any]]]:
    """What was told, gathered by something of the jobs, in their order."""
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for job, told in found.items():
        groups.setdefault(key(job), []).append(told)
    return groups


def recall_tables(found: Found) -> str:
    """A table for each length: mixers by widths, accuracy and bytes."""
    text = []
    own = of_part(found, "recall")
    for length, pairs in sorted({(job.length, job.pairs) for job in own}):
        cells = grouped(
            {job: told for job, told in own.items() if job.length == length},
            lambda job: (job.model, job.width),
        )
        widths = sorted({width for _, width in cells})
        rows = []
        for model in dict.fromkeys(model for model, _ in cells):
            row = [cells.get((model, width)) for width in widths]
            rows.append([model, *("–" if told is None else _cell(told) for told in row)])
        heads = ["mixers", *(f"d {width}" for width in widths)]
        chance = f"chance among the values of a sequence {1 / pairs:.3g}"
        told = f"{length} tokens, {pairs} pairs ({chance}); behind the accuracy bytes of state."
        text.append(f"{told}\n\n{markdown(heads, rows)}")
    return "\n\n".join(text)


def _cell(told: Sequence[Mapping[str, Any]]) -> str:
    state = told[0]["state"]
    size = "no figure" if state is None else f"{state:,} B"
    return f"{spread(one['accuracy'] for one in told)}; {size}"


def gap_table(found: Found) -> str:
    """Accuracy by the tokens between a value and its query, at the most frequent width."""
    cells = _frequent(found)
    every = [one for told in cells.values() for one in told]
    gaps = list(dict.fromkeys(gap for one in every for gap in one["gaps"]))
    if not gaps:
        return ""
    rows = [
        [model, *(spread(one["gaps"].get(gap) for one in told) for gap in gaps)]
        for model, told in cells.items()
    ]
    return f"{_where(found)}\n\n{markdown(['mixers', *gaps], rows)}"


POINTING = {
    "mass": "mass on the value",
    "mass_other": "on another place",
    "effect": "effect of the value (nats)",
    "effect_other": "of another place",
    "rank": "rank correlation over queries",
    "rank_other": "control",
    "places": "over places",
    "places_other": "control",
    "places_same": "same peak",
    "places_other_same": "control",
}


def pointing_table(found: Found) -> str:
    """Mass and effect, the means over queries, and their rank correlation."""
    rows = [
        [model, *(spread(one[column] for one in told) for column in POINTING)]
        for model, told in _frequent(found).items()
    ]
    return f"{_where(found)}\n\n{markdown(['mixers', *POINTING.values()], rows)}" if rows else ""


def _width(found: Found) -> int:
    """The widest of the shortest length that has most seeds."""
    own = _shortest(found)
    counts = grouped(own, lambda job: job.width)
    return max(counts, key=lambda width: (len(counts[width]), width), default=0)


def _shortest(found: Found) -> Found:
    own = of_part(found, "recall")
    length = min((job.length for job in own), default=0)
    return {job: told for job, told in own.items() if job.length == length}


def _frequent(found: Found) -> dict[str, list[Mapping[str, Any]]]:
    width = _width(found)
    own = {job: told for job, told in _shortest(found).items() if job.width == width}
    return grouped(own, lambda job: job.model)


def _where(found: Found) -> str:
    lengths = [f"{job.length} tokens, {job.pairs} pairs" for job in _shortest(found)]
    return f"Width {_width(found)}, {lengths[0]}." if lengths else ""


def sigmoid_table(found: Found) -> str:
    rows = []
    for model, told in grouped(of_part(found, "sigmoid"), lambda job: job.model).items():
        sums = (
            " / ".join(f"{fmean(layer):.1f}" for layer in zip(*layers, strict=True))
            for layers in ([one[when] for one in told] for when in ("before", "after"))
        )
        rows.append([model, spread((one["accuracy"] for one in told), 3), *sums])
    heads = ["scores", "accuracy", "row sums of the layers, untrained", "trained"]
    return markdown(heads, rows) if rows else ""


def gate_tables(found: Found) -> str:
    """Mass kept, then perplexity, by density; a sentence where the model was not there."""
    told = [one for one in of_part(found, "gates").values() if "kept" in one]
    if not told:
        return "Skipped: the folder of the 260 K story model is absent; LIMELIGHT_SHARED names it."
    densities = [name.removeprefix("gate ") for name in told[0]["kept"] if name.startswith("gate ")]
    rows = [_mass(told, density) for density in densities]
    heads = ["asked density", "density", "untrained gate", "gate", "local", "random", "oracle"]
    mass = markdown(heads, rows)
    names = ("untrained gate", "gate", "local", "random", "oracle")
    rows = [
        [density, *(spread(x["perplexity"][f"{name} {density}"] for x in told) for name in names)]
        for density in densities
    ]
    dense = spread(one["perplexity"]["dense"] for one in told)
    curve = markdown(["asked density", *names], rows)
    loss = "Loss {:.4f} to {:.4f}. Mass of dense attention kept:".format(*told[0]["losses"])
    return f"{loss}\n\n{mass}\n\nPerplexity, dense {dense}:\n\n{curve}"


def _mass(told: Sequence[Mapping[str, Any]], density: str) -> list[str]:
    gate, untrained = ([one["kept"][f"{n} {density}"] for one in told] for n in _GATES)
    columns = [[x["density"] for x in gate], [x["kept"] for x in untrained]]
    columns += [[x[name] for x in gate] for name in ("kept", "local", "random", "oracle")]
    return [density, *(spread(column) for column in columns)]


_GATES = ("gate", "untrained gate")


def last_table(found: Found) -> str:
    rows = [
        [
            f"{model}, d {told[0]['width']}",
            f"{told[0]['parameters']:,}",
            spread(one["last"] for one in told),
            spread(one["accuracy"] for one in told),
        ]
        for model, told in grouped(of_part(found, "last query"), lambda job: job.model).items()
    ]
    return markdown(["model", "parameters", "last query", "all queries"], rows) if rows else ""


def chart(found: Found) -> str:
    """Accuracy over bytes of state, a line a mixer and length, through its widths."""
    own = {j: t for j, t in of_part(found, "recall").items() if t["state"] is not None}
    sizes = [told["state"] for told in own.values()] or [1]
    low, high = math.floor(math.log2(min(sizes))), math.ceil(math.log2(max(sizes)))
    models = list(dict.fromkeys(job.model for job in own))
    hues = {model: HUES[n % len(HUES)] for n, model in enumerate(models)}

    def across(size: float) -> float:
        share = (math.log2(size) - low) / ((high - low) or 1)
        return round(LEFT + share * (WIDE - LEFT - RIGHT), 1)

    drawn = _axes(range(low, high + 1), lambda power: across(2.0**power))
    for (model, length), jobs in grouped({j: {"job": j} for j in own}, _line).items():
        cells = grouped({x["job"]: own[x["job"]] for x in jobs}, lambda job: job.width)
        points = [
            (across(told[0]["state"]), _down(fmean(one["accuracy"] for one in told)))
            for _, told in sorted(cells.items())
        ]
        drawn += _drawn(points, hues[model], length > 32, f"{model}, {length} tokens")
    drawn += _legend(hues)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {HIGH}" '
        'font-family="sans-serif" font-size="12"><title>Accuracy over bytes of state</title>'
        f'<rect width="{WIDE}" height="{HIGH}" fill="#fff"/>'
    )
    return "\n".join([head, *drawn, "</svg>"]) + "\n"


def _line(job: Any) -> tuple[str, int]:
    return job.model, job.length


def _down(accuracy: float) -> float:
    return round(TOP + (1 - accuracy) * (HIGH - TOP - BOTTOM), 1)


def _axes(powers: Iterable[int], across: Callable[[int], float]) -> list[str]:
    drawn = []
    for tenths in range(0, 11, 2):
        y = _down(tenths / 10)
        drawn.append(f'<path d="M{LEFT} {y}H{WIDE - RIGHT}" stroke="#ddd"/>')
        drawn.append(f'<text x="{LEFT - 8}" y="{y + 4}" text-anchor="end">{tenths / 10:g}</text>')
    for power in powers:
        words = f"{2**power} B" if power < 10 else f"{2 ** (power - 10)} KiB"
        place = f'x="{across(power)}" y="{HIGH - BOTTOM + 18}" text-anchor="middle"'
        drawn.append(f"<text {place}>{words}</text>")
    middle = (LEFT + WIDE - RIGHT) / 2
    under = f'x="{middle}" y="{HIGH - 8}" text-anchor="middle"'
    return [*drawn, f"<text {under}>state; circles 32 tokens, dashes and squares 64</text>"]


def _drawn(points: Sequence[tuple[float, float]], hue: str, long: bool, title: str) -> list[str]:
    path = "M" + " L".join(f"{x} {y}" for x, y in points)
    dashes = ' stroke-dasharray="4 3"' if long else ""
    drawn = [f'<path d="{path}" fill="none" stroke="{hue}"{dashes}><title>{title}</title></path>']
    for x, y in points:
        if long:
            drawn.append(f'<rect x="{x - 3}" y="{y - 3}" width="6" height="6" fill="{hue}"/>')
        else:
            drawn.append(f'<circle cx="{x}" cy="{y}" r="3.5" fill="{hue}"/>')
    return drawn


def _legend(hues: Mapping[str, str]) -> list[str]:
    x, drawn = WIDE - RIGHT + 16, []
    for n, (model, hue) in enumerate(hues.items()):
        y = TOP + 14 + 18 * n
        drawn.append(f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{hue}"/>')
        drawn.append(f'<text x="{x + 16}" y="{y}">{model}</text>')
    return drawn
