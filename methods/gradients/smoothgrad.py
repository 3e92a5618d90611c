"""SmoothGrad, SquareGrad and VarGrad: statistics of a map over noisy copies of the input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from ...probe.attribution import Count, Path, Spread, path_method
from ...probe.errors import OptionError


@dataclass(frozen=True)
class Noise:
    """`count` copies of a sample with Gaussian noise of `sigma` times its range of values."""

    count: int
    sigma: float

    def __call__(self, x: Tensor, k: int, generator: Generator) -> Tensor:
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float32)
        return x + noise.to(x) * (self.sigma * (x.max() - x.min()))


@path_method("smoothgrad")
def smoothgrad(
    *, base: str = "gradient", n: Count = 16, sigma: Spread = 0.1, channels: bool = False
) -> Path:
    """Mean of the map of `base` over n inputs x + noise, noise ~ N(0, (sigma (max x - min x))^2).

    base      any site method, or `raw`: the signed gradient is averaged, then max_c |.| is taken
    channels  of `raw`, the average of each channel instead
    Source: Smilkov et al., arXiv 1706.03825.
    """

    def fold(state: Tensor | None, reading: Tensor, k: int) -> Tensor:
        return reading if state is None else state + reading

    return _noisy(base, n, sigma, channels, fold, lambda state, count: state / count)


@path_method("squaregrad")
def squaregrad(
    *, base: str = "gradient", n: Count = 16, sigma: Spread = 0.1, channels: bool = False
) -> Path:
    """Mean of the squared map of `base` over noisy inputs; options as in smoothgrad.

    Source: Hooker et al., arXiv 1806.10758.
    """

    def fold(state: Tensor | None, reading: Tensor, k: int) -> Tensor:
        return reading.square() if state is None else state + reading.square()

    return _noisy(base, n, sigma, channels, fold, lambda state, count: state / count)


@path_method("vargrad")
def vargrad(
    *, base: str = "gradient", n: Count = 16, sigma: Spread = 0.1, channels: bool = False
) -> Path:
    """Variance (over n) of the map of `base` over noisy inputs; options as in smoothgrad.

    Source: Adebayo et al., arXiv 1810.03307.
    """

    def fold(
        state: tuple[int, Tensor, Tensor] | None, reading: Tensor, k: int
    ) -> tuple[int, Tensor, Tensor]:
        seen, mean, spread = state or (0, torch.zeros_like(reading), torch.zeros_like(reading))
        step = reading - mean
        mean = mean + step / (seen + 1)
        return seen + 1, mean, spread + step * (reading - mean)

    return _noisy(base, n, sigma, channels, fold, lambda state, count: state[2] / count)


def _noisy(
    base: str,
    n: int,
    sigma: float,
    channels: bool,
    fold: Callable[[Any, Tensor, int], Any],
    statistic: Callable[[Any, int], Tensor],
) -> Path:
    if channels and base != "raw":
        raise OptionError(
            f"channels=true keeps the channels of the gradient, but base={base!r} has none; write "
            "base=raw"
        )

    def finish(state: Any, count: int, x: Tensor) -> Tensor:
        values = statistic(state, count)
        return values.abs().amax(1) if base == "raw" and not channels else values

    return Path(Noise(n, sigma), base, fold, finish)
