"""SmoothGrad, SquareGrad and VarGrad: statistics of a map over noisy copies of the input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ...probe.attribution import Path, path_method
from ...probe.errors import OptionError


@dataclass(frozen=True)
class Noise:
    """`count` copies of a sample with Gaussian noise of `sigma` times its range of values."""

    count: int
    sigma: float

    def __post_init__(self) -> None:
        if self.count < 1 or self.sigma < 0:
            raise OptionError(
                f"noise takes n of 1 or more and sigma of 0 or more, not n={self.count}, "
                f"sigma={self.sigma}"
            )

    def __call__(self, x: Tensor, k: int, generator: Generator) -> Tensor:
        noise = torch.randn(x.shape, generator=generator, dtype=torch.float32)
        return x + noise.to(x) * (self.sigma * (x.max() - x.min()))


@path_method("smoothgrad")
def smoothgrad(*, base: str = "gradient", n: int = 16, sigma: float = 0.1) -> Path:
    """Mean of the map of `base` over n inputs x + noise, noise ~ N(0, (sigma (max x - min x))^2).

    base  any site method, or `raw`: the signed gradient is averaged, then max_c |.| is taken.
    Source: Smilkov et al., arXiv 1706.03825.
    """

    def fold(state: Tensor | None, reading: Tensor, k: int) -> Tensor:
        return reading if state is None else state + reading

    def finish(state: Tensor, count: int, x: Tensor) -> Tensor:
        return _channels(base, state / count)

    return Path(Noise(n, sigma), base, fold, finish)


@path_method("squaregrad")
def squaregrad(*, base: str = "gradient", n: int = 16, sigma: float = 0.1) -> Path:
    """Mean of the squared map of `base` over noisy inputs; options as in smoothgrad.

    Source: Hooker et al., arXiv 1806.10758.
    """

    def fold(state: Tensor | None, reading: Tensor, k: int) -> Tensor:
        return reading.square() if state is None else state + reading.square()

    def finish(state: Tensor, count: int, x: Tensor) -> Tensor:
        return _channels(base, state / count)

    return Path(Noise(n, sigma), base, fold, finish)


@path_method("vargrad")
def vargrad(*, base: str = "gradient", n: int = 16, sigma: float = 0.1) -> Path:
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

    def finish(state: tuple[int, Tensor, Tensor], count: int, x: Tensor) -> Tensor:
        return _channels(base, state[2] / count)

    return Path(Noise(n, sigma), base, fold, finish)


def _channels(base: str, values: Tensor) -> Tensor:
    return values.abs().amax(1) if base == "raw" else values
