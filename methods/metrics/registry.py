"""Scores of maps by name: what each needs, its group, and how scores of images are averaged."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import Tensor

from ...probe.attribution import convert
from ...probe.errors import MethodError, OptionError, near

Group = Literal["Localisation", "Complexity", "Faithfulness", "Randomisation", "Axiomatic"]
NEEDS = ("saliency", "mask", "model")


@dataclass(frozen=True)
class Metric:
    """A registered score.

    group   Quantus' name of its kind
    better  whether a larger or a smaller score speaks for a map; "" where neither does
    needs   saliency `b y x`; mask `b y x`, where the object is; model, for scores by perturbation
    """

    name: str
    function: Callable[..., Any]
    group: Group
    better: Literal["larger", "smaller", ""]
    needs: tuple[str, ...]

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        found = inspect.signature(self.function, eval_str=True).parameters
        return {n: p for n, p in found.items() if p.kind is p.KEYWORD_ONLY}

    @property
    def summary(self) -> str:
        return (inspect.getdoc(self.function) or "").partition("\n")[0]


_metrics: dict[str, Metric] = {}


def metric(
    name: str, group: Group, *, better: Literal["larger", "smaller", ""] = "larger"
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a score; its positional parameters say what it needs."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        parameters = inspect.signature(function).parameters.values()
        needs = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
        unknown = [n for n in needs if n not in NEEDS]
        if unknown:
            raise MethodError(f"metric {name!r} takes {unknown[0]}; there are {', '.join(NEEDS)}")
        held = _metrics.get(name)
        if held is not None and held.function.__module__ != function.__module__:
            raise MethodError(f"metric {name!r} is registered twice; rename one of them")
        _metrics[name] = Metric(name, function, group, better, needs)
        return function

    return register


def list_metrics(pattern: str = "*") -> tuple[Metric, ...]:
    """The registered scores whose names match, sorted by name."""
    return tuple(m for n, m in sorted(_metrics.items()) if fnmatchcase(n, pattern))


@dataclass(frozen=True)
class Asked:
    """A score with its options, under the name that tables carry."""

    metric: Metric
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        return self.metric.name + "".join(f",{k}={v}" for k, v in self.options)

    def __call__(self, *args: Any) -> Any:
        return self.metric.function(*args, **dict(self.options))


def use_metric(spec: str | Asked) -> Asked:
    """Read `pointing`, `pointing,tolerance=0`. Raises MethodError, OptionError."""
    if isinstance(spec, Asked):
        return spec
    name, *words = [word.strip() for word in spec.split(",")]
    if name not in _metrics:
        raise MethodError(f"metric {name!r} is unknown{near(name, _metrics)}")
    found = _metrics[name]
    values = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or key not in found.options:
            known = ", ".join(found.options) or "none"
            raise OptionError(f"metric {name!r} has no option {key!r} (it has: {known})")
        values[key] = convert(name, key, text, found.options[key].annotation)
    return Asked(found, tuple(sorted(values.items())))


def flat(saliency: Tensor) -> Tensor:
    """Maps as rows in float64, `b n`; a constant map, or one with a hole, is all NaN."""
    rows = saliency.flatten(1).double()
    constant = rows.amax(1, keepdim=True) == rows.amin(1, keepdim=True)
    return rows.masked_fill(constant | ~rows.isfinite().all(1, keepdim=True), torch.nan)


def interval(
    values: Sequence[float], *, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """The mean and its bootstrap interval over images; NaNs are left out."""
    known = torch.tensor([v for v in values if v == v], dtype=torch.float64)
    if not len(known):
        return float("nan"), float("nan"), float("nan")
    draw = torch.Generator().manual_seed(seed)
    means = torch.stack(
        [
            known[torch.randint(len(known), (len(known),), generator=draw)].mean()
            for _ in range(draws)
        ]
    )
    tail = (1 - level) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return float(known.mean()), low, high
