"""What the heads of a run's model do: each metric averaged over samples, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...probe.errors import LimelightError
from ..runs import Run, part_paths, part_source

AXES = "h"
BOTH = ("trained", "initial")
_COLUMNS = ["method", "site", "values", "scale", "lo"]
_WIDE = 1.96  # standard errors on either side of a mean
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class LayerMeans:
    """One metric at one layer.

    heads  its mean over samples, a number a head; NaN for heads that it says nothing about
    mean   over heads and samples, `wide` its 95 % interval to either side
    """

    site: str
    heads: tuple[float, ...]
    mean: float
    wide: float
    count: int


@dataclass(frozen=True)
class ModelState:
    """A model in one state of its weights: layers in depth's order, by metric."""

    name: str
    metrics: dict[str, tuple[LayerMeans, ...]]


def states(run: Run, against: Run | None = None) -> list[ModelState]:
    """The heads of a run, beside those of another run of the same model with other weights.

    A run whose network holds the parts `trained` and `initial` gives both states by itself. States
    of two runs are called by their folders. Raises LimelightError where they do not compare.
    """
    states_of_run = _split(ModelState(_name(run), _means(run)))
    if against is None:
        return states_of_run
    _comparable(run, against)
    (other, *_) = _split(ModelState(_name(against), _means(against)))
    if not set(other.metrics) & set(states_of_run[0].metrics):
        metrics = ", ".join(states_of_run[0].metrics) or "none of attention heads"
        raise LimelightError(
            f"{str(against.folder)!r} has no metric of attention heads in common with "
            f"{str(run.folder)!r} ({metrics}): run both with nonlocality, gate, ..."
        )
    if other.name == states_of_run[0].name:
        states_of_run[0], other = (
            ModelState(_name(r, 2), s.metrics)
            for r, s in ((run, states_of_run[0]), (against, other))
        )
    return [*states_of_run, other]


def _comparable(run: Run, against: Run) -> None:
    plan, other = run.plan, against.plan
    if plan.model != other.model:
        raise LimelightError(
            f"{str(against.folder)!r} is a run of {other.model}, but {str(run.folder)!r} of "
            f"{plan.model}: compare two runs of one model"
        )
    if plan.weights == other.weights:
        raise LimelightError(
            f"{str(against.folder)!r} has the weights of {str(run.folder)!r}, so that there is "
            "nothing to compare: run the model with weights='none' there"
        )


def _name(run: Run, parts: int = 1) -> str:
    return "/".join(run.folder.resolve().parts[-parts:])


def _split(state: ModelState) -> list[ModelState]:
    """A state of a network that holds two, as two; else as it is."""
    heads = {layer.site.partition(".")[0] for rows in state.metrics.values() for layer in rows}
    if heads != set(BOTH):
        return [state]
    return [ModelState(name, dict(_under(state, name))) for name in BOTH]


def _under(state: ModelState, name: str) -> Iterator[tuple[str, tuple[LayerMeans, ...]]]:
    for metric, layers in state.metrics.items():
        parts = [(layer, *layer.site.partition(".")[::2]) for layer in layers]
        rows = tuple(
            LayerMeans(rest, layer.heads, layer.mean, layer.wide, layer.count)
            for layer, first, rest in parts
            if first == name
        )
        if rows:
            yield metric, rows


@dataclass(eq=False)
class _Sums:
    """Running sums over samples, so that memory does not grow with their number."""

    heads: Numbers
    seen: Numbers
    means: float = 0.0
    squares: float = 0.0
    count: int = 0

    def add(self, values: Numbers) -> None:
        finite = np.isfinite(values)
        self.heads += np.where(finite, values, 0.0)
        self.seen += finite
        if finite.any():
            mean = float(values[finite].mean())
            self.means += mean
            self.squares += mean * mean
            self.count += 1

    def layer(self, site: str) -> LayerMeans:
        heads = np.where(self.seen > 0, self.heads / np.maximum(self.seen, 1), np.nan)
        n = self.count
        mean = self.means / n if n else float("nan")
        spread = max(self.squares / n - mean * mean, 0.0) if n else 0.0
        wide = _WIDE * (spread / max(n - 1, 1)) ** 0.5
        return LayerMeans(site, tuple(heads.tolist()), mean, wide, n)


def _means(run: Run) -> dict[str, tuple[LayerMeans, ...]]:
    sums: dict[tuple[str, str], _Sums] = {}
    for method, site, values in _values(run):
        key = method, site
        if key not in sums:
            sums[key] = _Sums(np.zeros(len(values)), np.zeros(len(values)))
        sums[key].add(values)
    by_method: dict[str, list[LayerMeans]] = {}
    for (method, site), total in sums.items():
        by_method.setdefault(method, []).append(total.layer(site))
    return {method: tuple(layers) for method, layers in by_method.items()}


def _values(run: Run) -> Iterator[tuple[str, str, Numbers]]:
    """Every row of heads of a run, part by part."""
    from pyarrow import parquet

    plan = run.plan
    for path in part_paths(run.folder):
        source = part_source(path, plan)
        table = parquet.read_table(source, columns=_COLUMNS, filters=[("axes", "==", AXES)])
        for row in table.to_pylist():
            has_numbers = row["lo"] is not None  # a row without a single number is kept as zeros
            scale = row["scale"] if has_numbers else np.nan
            yield row["method"], row["site"], np.asarray(row["values"], np.float64) * scale
