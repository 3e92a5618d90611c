"""Metrics of attention heads over depth: heads as points, the means of layers as lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from ...probe.attribution import list_methods
from ..html import LEFT, Dot, Scale, across, or_dash, significant, spread, ticks
from .head_means import LayerMeans, ModelState

_LABELS, _RIGHT = 12, 100.0
_ROOM = 0.7  # of a layer's width, over which its states and their heads stand side by side


@dataclass(frozen=True)
class Series:
    """One state of a model: its heads, and the means that a line joins, x in percent."""

    name: str
    hue: int
    heads: tuple[Dot, ...]
    means: tuple[Dot, ...]

    @property
    def links(self) -> tuple[tuple[Dot, Dot], ...]:
        return tuple(zip(self.means, self.means[1:], strict=False))


@dataclass(frozen=True)
class Depth:
    """One metric, ready to be drawn.

    where  what the layers have in common, as `blocks.*.attn`
    sites  (x, words, whole name) of those that are named below; ticks (y, words)
    rows   layer by layer: its name, and for each state mean, interval, heads
    """

    metric: str
    meaning: str
    where: str
    summary: str
    series: tuple[Series, ...]
    ticks: tuple[tuple[float, str], ...]
    sites: tuple[tuple[float, str, str], ...]
    rows: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...]


@dataclass(frozen=True)
class GatePanel:
    """The gates of one state: layers by heads, each with its words and how dark it is."""

    name: str
    heads: int
    rows: tuple[tuple[str, tuple[tuple[str, float], ...]], ...]


def depths(states: Sequence[ModelState]) -> tuple[list[Depth], list[str]]:
    """One picture for each metric that has values, and the names of those that have none."""
    metrics = dict.fromkeys(metric for state in states for metric in state.metrics)
    some = [m for m in metrics if any(_finite(state.metrics.get(m, ())) for state in states)]
    return [_depth(metric, states) for metric in some], [m for m in metrics if m not in some]


def _depth(metric: str, states: Sequence[ModelState]) -> Depth:
    per_state = [
        (s.name, [x for x in s.metrics.get(metric, ()) if isfinite(x.mean)]) for s in states
    ]
    sites = list(dict.fromkeys(layer.site for _, layers in per_state for layer in layers))
    labels, where = short_names(sites)
    values = [v for _, layers in per_state for layer in layers for v in layer.heads if isfinite(v)]
    marks = ticks(0.0, 1.0) if min(values) >= 0 and max(values) <= 1 else _marks(values)
    scale = Scale(marks[0], marks[-1])
    series = tuple(
        _series(name, n, len(per_state), layers, sites, scale)
        for n, (name, layers) in enumerate(per_state)
        if layers
    )
    named = spread(sites, _LABELS)
    return Depth(
        metric,
        _meaning(metric),
        where,
        "; ".join(f"{s.name}: {', '.join(dot.title for dot in s.means)}" for s in series),
        series,
        tuple((scale.at(v), significant(v)) for v in marks),
        tuple((across(sites.index(s), len(sites), _RIGHT), labels[s], s) for s in named),
        tuple(_row(site, labels[site], [layers for _, layers in per_state]) for site in sites),
    )


def _marks(values: Sequence[float]) -> list[float]:
    """From 0 where that leaves room for the values, else around them."""
    low, high = min(values), max(values)
    return ticks(0.0 if 0 <= low < high / 2 else low, high)


def _series(
    name: str,
    hue: int,
    count: int,
    layers: Sequence[LayerMeans],
    sites: Sequence[str],
    scale: Scale,
) -> Series:
    heads, means = [], []
    part = _ROOM * (_RIGHT - LEFT) / len(sites) / count
    for layer in layers:
        x = across(sites.index(layer.site), len(sites), _RIGHT) + part * (hue - (count - 1) / 2)
        title = f"{significant(layer.mean)} at {layer.site}"
        means.append(Dot(round(x, 3), scale.at(layer.mean), title))
        for n, value in enumerate(layer.heads):
            if isfinite(value):
                aside = part * ((n + 0.5) / len(layer.heads) - 0.5)
                title = f"head {n}: {significant(value)} at {layer.site}"
                heads.append(Dot(round(x + aside, 3), scale.at(value), title))
    return Series(name, hue, tuple(heads), tuple(means))


def _row(
    site: str, label: str, states: Sequence[Sequence[LayerMeans]]
) -> tuple[str, tuple[tuple[str, str, str], ...]]:
    cells = []
    for layers in states:
        here = next((layer for layer in layers if layer.site == site), None)
        if here is None:
            cells.append(("–", "", ""))
            continue
        wide = f"± {significant(here.wide)}" if here.wide > 0 else ""
        cells.append((significant(here.mean), wide, ", ".join(_value(v) for v in here.heads)))
    return label, tuple(cells)


def gates(states: Sequence[ModelState]) -> list[GatePanel]:
    """The gates of every state that has some."""
    drawn = []
    for state in states:
        layers = [x for x in state.metrics.get("gate", ()) if isfinite(x.mean)]
        labels, _ = short_names([layer.site for layer in layers])
        rows = tuple(
            (labels[layer.site], tuple((_value(v), _dark(v)) for v in layer.heads))
            for layer in layers
        )
        if rows:
            drawn.append(GatePanel(state.name, max(len(cells) for _, cells in rows), rows))
    return drawn


def _value(value: float) -> str:
    return or_dash(value, lambda v: significant(v, 3))


def _dark(value: float) -> float:
    return round(min(max(value, 0.0), 1.0), 3) if isfinite(value) else 0.0


def _finite(layers: Sequence[LayerMeans]) -> bool:
    return any(isfinite(layer.mean) for layer in layers)


def _meaning(metric: str) -> str:
    listed = list_methods(metric.partition(",")[0].partition(":")[0])
    return listed[0].summary if listed else ""


def short_names(sites: Sequence[str]) -> tuple[dict[str, str], str]:
    """Sites by what tells them apart, and what they have in common: 0, 1 of `blocks.*.attn`."""
    bare = [site.removesuffix(":map") for site in sites]
    parts = [site.split(".") for site in bare]
    if len(set(bare)) < 2 or len(set(bare)) < len(sites):
        return {site: site for site in sites}, ""
    least = min(len(w) for w in parts) - 1
    start = _alike(parts, least)
    end = _alike([w[::-1] for w in parts], least - start)
    labels = [".".join(w[start : len(w) - end]) for w in parts]
    common = ".".join([*parts[0][:start], "*", *parts[0][len(parts[0]) - end :]])
    return dict(zip(sites, labels, strict=True)), common if common != "*" else ""


def _alike(names: Sequence[Sequence[str]], most: int) -> int:
    """How many first words all have in common."""
    count = 0
    while count < most and len({w[count] for w in names}) == 1:
        count += 1
    return count
