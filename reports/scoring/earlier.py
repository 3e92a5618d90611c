"""Scores that a run's folder holds of fewer maps than it has now: which are computed again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from ...methods.metrics import BoundMetric, use_metric
from ...probe.errors import LimelightError
from ..runs import Run
from .annotations import annotations_for
from .table import FILE, stale


@dataclass(frozen=True, eq=False)
class Earlier:
    """Metrics whose scores are out of date.

    single   those of single maps that can be computed again
    paired   whether pairs are to be compared again
    dropped  names of those that cannot: they ask the model, or for marks that are not at hand
    """

    single: tuple[BoundMetric, ...]
    paired: bool
    dropped: tuple[str, ...]

    @property
    def told(self) -> str:
        """What is said of those that are dropped."""
        names = ", ".join(self.dropped)
        return f"{FILE} holds scores of an earlier state of the run, which are left out ({names}): "


def earlier_of(
    run: Run, asked: Collection[str], pairs: Collection[str], data: Any, *, model: bool
) -> Earlier:
    """The metrics out of date in a run's folder but for those asked for now.

    pairs  names of metrics that compare maps of two targets
    """
    names = [name for name in stale(run) if name not in asked]
    bounds = [bound for name in names if (bound := _bound(name)) is not None]
    asking = [bound for bound in bounds if set(bound.metric.needs) & {"mask", "model"}]
    read = {mark: bool(asking) and _is_at_hand(run, data, marked=mark) for mark in (True, False)}
    single = tuple(
        bound
        for bound in bounds
        if ("mask" not in bound.metric.needs or read[True])
        and ("model" not in bound.metric.needs or (model and read[False]))
    )
    known = {*pairs, *(bound.name for bound in single)}
    return Earlier(single, bool(set(pairs) & set(names)), tuple(n for n in names if n not in known))


def _bound(name: str) -> BoundMetric | None:
    """A metric by the name that a table carries; None where none has it, as pairs of maps."""
    try:
        return use_metric(name)
    except LimelightError:
        return None


def _is_at_hand(run: Run, data: Any, *, marked: bool) -> bool:
    """Whether the data of a run can be read, and mark objects."""
    try:
        annotations_for(run, data, marked=marked)
    except LimelightError:
        return False
    return True
