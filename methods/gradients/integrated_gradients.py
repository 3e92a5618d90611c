"""Integrated gradients: the gradient averaged along the line from a baseline to the input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from torch import Generator, Tensor

from ...probe.attribution import (
    Count,
    Line,
    Path,
    TensorOption,
    path_method,
)
from ...probe.axes import Layout
from ...probe.errors import OptionError
from .baseline import Baseline, laid_out, reference

QuadratureRule = Literal["gausslegendre", "trapezoid", "midpoint", "left", "right"]


@dataclass(frozen=True)
class StraightPath:
    """Points from the baseline to the input at the nodes of a quadrature rule."""

    count: int
    baseline: Literal["zero", "mean"] | TensorOption
    rule: QuadratureRule

    def __post_init__(self) -> None:
        least = 2 if self.rule == "trapezoid" else 1
        if self.count < least:
            raise OptionError(f"rule {self.rule!r} needs n of {least} or more, not {self.count}")

    def __call__(self, x: Tensor, k: int, generator: Generator) -> Tensor:
        baseline = self.baseline
        start = reference(x, baseline.tensor if isinstance(baseline, TensorOption) else baseline)
        return start + quadrature(self.count, self.rule)[0][k] * (x - start)


@lru_cache(maxsize=64)
def quadrature(n: int, rule: QuadratureRule) -> tuple[list[float], list[float]]:
    """Nodes and weights of a rule with n points on [0, 1]; the weights sum to 1."""
    if rule == "gausslegendre":
        nodes, weights = np.polynomial.legendre.leggauss(n)
        return ((nodes + 1) / 2).tolist(), (weights / 2).tolist()
    if rule == "trapezoid":
        inner = [1 / (n - 1)] * n
        inner[0] = inner[-1] = 0.5 / (n - 1)
        return [k / (n - 1) for k in range(n)], inner
    shift = {"left": 0.0, "midpoint": 0.5, "right": 1.0}[rule]
    return [(k + shift) / n for k in range(n)], [1 / n] * n


@path_method("integrated_gradients")
def integrated_gradients(
    *,
    n: Count = 50,
    baseline: Baseline = "zero",
    rule: QuadratureRule = "gausslegendre",
    channels: bool = False,
) -> Path:
    """sum_c (x - x') times the integral of the gradient from x' to x, by n points; signed.

    baseline  x': zero, the mean of each channel over its places, or a tensor of one sample's shape
    channels  a map of each channel instead of their sum
    Its sum approaches score(x) - score(x'). At a layer the line runs from the layer's value at x'
    to its value at x, while what goes around the layer stays as it is at x; the map of a channel,
    `sites="stem:out[3]"`, is its part of the layer's.
    Source: Sundararajan et al., arXiv 1703.01365.
    """

    def at(layout: Layout, x: Tensor) -> Path:
        return _line(n, laid_out(baseline, layout, x), rule, channels)

    return replace(_line(n, baseline, rule, channels), at=at)


def _line(n: int, baseline: Baseline, rule: QuadratureRule, channels: bool) -> Path:
    start = TensorOption.of(baseline) if isinstance(baseline, Tensor) else baseline
    points = StraightPath(n, start, rule)
    weights = quadrature(n, rule)[1]

    def fold(state: Tensor | None, reading: Tensor, k: int) -> Tensor:
        return weights[k] * reading if state is None else state + weights[k] * reading

    def finish(state: Tensor, count: int, change: Tensor) -> Tensor:
        shares = change.to(state) * state
        return shares if channels else shares.sum(1)

    line = Line(lambda sample: reference(sample, baseline), tuple(quadrature(n, rule)[0]))
    return Path(points, "raw", fold, finish, line=line)
