"""Scores of maps by name: what each needs, its group, and how scores of images are averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from ...probe.attribution import Bound, Named, Registry, positional
from ...probe.errors import MethodError

MetricGroup = Literal["Localisation", "Complexity", "Faithfulness", "Randomisation", "Axiomatic"]
Better = Literal["larger", "smaller", ""]
NEEDS = ("saliency", "mask", "model")
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Metric(Named):
    """A registered score.

    group   Quantus' name of its kind
    better  whether a larger or a smaller score speaks for a map; "" where neither does
    needs   saliency, `b` and places; mask of that shape, where the object is; model, for scores
            by perturbation
    """

    group: MetricGroup
    better: Better
    needs: tuple[str, ...]

    noun: ClassVar[str] = "metric"
    decorator: ClassVar[str] = "metric"


@dataclass(frozen=True)
class BoundMetric(Bound[Metric]):
    """A score with its options set, under the name that tables carry."""

    @property
    def metric(self) -> Metric:
        return self.named

    def __call__(self, *args: Any) -> Any:
        """The scores. Raises MethodError where a metric of stacked maps gives not one a map."""
        values = super().__call__(*args)
        if "model" in self.metric.needs:
            return values
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        if shape != (len(args[0]),):
            raise MethodError(
                f"metric {self.name!r} must give one number for each of {len(args[0])} maps, but "
                f"gave {shape}"
            )
        return values


MetricSpec = str | Callable[..., Any] | Metric | BoundMetric

METRICS: Registry[Metric] = Registry(
    Metric, "limelight.methods", "limelight.metrics", hint="; limelight.list_metrics() has them all"
)


def metric(
    name: str, group: MetricGroup, *, better: Better = "larger"
) -> Callable[[Function], Function]:
    """Register a score of maps; its positional parameters say what it needs.

    saliency alone, or saliency and mask: maps, `b` and places such as `y x` (and where the object
    is), to scores `b`. saliency and model: one map and a `limelight.methods.metrics.Scorer` to
    one number.
    Keywords are its options. Raises MethodError.

        @limelight.metric("peak", "Complexity")
        def peak(saliency, *, power: float = 1.0): ...

    Example:
        >>> @ll.metric("peak", "Complexity")
        ... def peak(saliency):
        ...     "The largest value over the sum."
        ...     values = saliency.flatten(1).abs().double()
        ...     return values.amax(1) / values.sum(1)
        >>> "peak" in [m.name for m in ll.list_metrics()]
        True
    """

    def register(function: Function) -> Function:
        needs = positional(function)
        unknown = [n for n in needs if n not in NEEDS]
        if unknown or not needs:
            raise MethodError(
                f"metric {name!r} takes {', '.join(unknown) or 'nothing'}; a metric takes some of "
                f"{', '.join(NEEDS)} and keywords"
            )
        METRICS.add(Metric(name, function, group, better, needs))
        return function

    return register


def list_metrics(pattern: str = "*") -> tuple[Metric, ...]:
    """The registered scores whose names match, sorted by name.

    Example:
        >>> "sparseness" in [m.name for m in ll.list_metrics()]
        True
    """
    return METRICS.matching(pattern)


def use_metric(spec: MetricSpec, *, also: Iterable[str] = ()) -> BoundMetric:
    """Read `pointing`, `pointing:0`, `pointing,tolerance=0`. Raises MethodError, OptionError.

    also  names that an error may propose beside those of metrics
    """
    if isinstance(spec, BoundMetric):
        return spec
    chosen, given = METRICS.resolve(spec, {}, also=also)
    changed = chosen.changes(given)
    return BoundMetric(chosen, tuple(sorted(changed.items())), text=chosen.label(changed))


def flat(saliency: Tensor) -> Tensor:
    """Maps as rows in float64, `b n`; a constant map, or one with a hole, is all NaN."""
    rows = saliency.flatten(1).double()
    constant = rows.amax(1, keepdim=True) == rows.amin(1, keepdim=True)
    return rows.masked_fill(constant | ~rows.isfinite().all(1, keepdim=True), torch.nan)


def interval(
    values: Sequence[float], *, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """The mean and its bootstrap interval over images; NaNs are left out."""
    finite = torch.tensor([v for v in values if v == v], dtype=torch.float64)
    if not len(finite):
        return float("nan"), float("nan"), float("nan")
    draw = torch.Generator().manual_seed(seed)
    means = torch.stack(
        [
            finite[torch.randint(len(finite), (len(finite),), generator=draw)].mean()
            for _ in range(draws)
        ]
    )
    tail = (1 - level) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return float(finite.mean()), low, high
