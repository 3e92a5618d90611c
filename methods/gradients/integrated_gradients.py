"""Integrated gradients: the gradient averaged along the line from a baseline to the input."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Generator, Tensor

from ...probe.attribution import Path, path_method
from ...probe.errors import MethodError, OptionError

Baseline = Literal["zero", "mean"]
QuadratureRule = Literal["gausslegendre", "trapezoid", "midpoint", "left", "right"]


@dataclass(frozen=True)
class StraightPath:
    """Points from the baseline to the input at the nodes of a quadrature rule."""

    count: int
    baseline: Baseline
    rule: QuadratureRule

    def __post_init__(self) -> None:
        least = 2 if self.rule == "trapezoid" else 1
        if self.count < least:
            raise OptionError(f"rule {self.rule!r} needs n of {least} or more, not {self.count}")

    def __call__(self, x: Tensor, k: int, generator: Generator) -> Tensor:
        start = reference(x, self.baseline)
        return start + quadrature(self.count, self.rule)[0][k] * (x - start)


def reference(x: Tensor, baseline: Baseline) -> Tensor:
    """What stands for nothing: zeros, or the mean of each channel; x is `c y x` or `n c`."""
    if baseline == "zero":
        return torch.zeros_like(x)
    axes = (-2, -1) if x.ndim >= 3 else (-1,)
    return x.mean(axes, keepdim=True).expand_as(x)


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
    *, n: int = 50, baseline: Baseline = "zero", rule: QuadratureRule = "gausslegendre"
) -> Path:
    """sum_c (x - x') times the integral of the gradient from x' to x, by n points; signed.

    Its sum approaches score(x) - score(x'). Source: Sundararajan et al., arXiv 1703.01365.
    """
    points = StraightPath(n, baseline, rule)
    weights = quadrature(n, rule)[1]

    def fold(state: Tensor | None, reading: Tensor, k: int) -> Tensor:
        return weights[k] * reading if state is None else state + weights[k] * reading

    def finish(state: Tensor, count: int, x: Tensor) -> Tensor:
        if state.shape != x.shape:
            raise MethodError(
                f"integrated_gradients was read where the gradient is {tuple(state.shape)}, but it "
                f"runs along the input, {tuple(x.shape)}; give sites='input'"
            )
        starts = torch.stack([reference(sample, baseline) for sample in x])
        return ((x - starts).to(state) * state).sum(1)

    return Path(points, "raw", fold, finish)
