"""A model as perturbation metrics ask it: one class, for many copies of one sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...probe.capture import guarded
from ...probe.engine import Batch, settled
from ...probe.errors import OptionError
from ...probe.targets import Target, label, picked
from ...probe.trace import exchange

BASELINES = ("zero", "black", "mean", "blur", "uniform")


@dataclass(frozen=True, eq=False)
class Scorer:
    """One sample `c y x`, the class in question, and the model.

    A class has the probability that a target of the class has: a model that ends in a softmax or
    a sigmoid is not squashed again. Of dense outputs it is the mean over the places.

    explain   inputs `b c y x` -> maps `b y x` at their size; for metrics of the method itself
    batch     copies in one forward; seed: of random perturbations
    """

    model: nn.Module
    x: Tensor
    of_class: int
    explain: Callable[[Tensor], Tensor] | None = None
    batch: int = 8
    seed: int = 0

    @cached_property
    def target(self) -> Target:
        """The probability of the class, as the model's output holds it."""
        asked = label(self.of_class, of="probability")
        return settled(self.model, Batch.of(self.x[None]), [asked])[0]

    @torch.no_grad()
    def __call__(self, copies: Tensor, *, logits: bool = False) -> Tensor:
        """The probability (or the logit) of the class for each copy, in float64."""
        reading: Any = self.target.reading
        reading = replace(reading, of="logit") if logits else reading
        class_scores = []
        with guarded(self.model, grad=False, evaluate=True):
            for part in copies.split(self.batch):
                output = exchange(self.model(part), _double)
                places = reading.places(output, len(part))
                class_scores.append(places.flatten(2).mean(2) if places.ndim > 2 else places)
        return picked(torch.cat(class_scores), torch.tensor([self.of_class]))

    def generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def baseline(self, name: str) -> Tensor:
        """What stands for nothing, `c y x`.

        zero (the mean colour after normalisation), black (the least value of the sample), mean
        (of each channel), blur (Gaussian, 11 pixels wide, sigma 5), uniform noise over its range.
        """
        x = self.x
        if name == "zero":
            return torch.zeros_like(x)
        if name == "black":
            return torch.full_like(x, float(x.min()))
        if name == "mean":
            return x.mean((1, 2), keepdim=True).expand_as(x).clone()
        if name == "blur":
            return blurred(x)
        if name == "uniform":
            noise = torch.rand(x.shape, generator=self.generator()).to(x)
            return x.min() + (x.max() - x.min()) * noise
        raise OptionError(f"baseline {name!r} is unknown: write one of {', '.join(BASELINES)}")


def _double(_: str, values: Tensor) -> Tensor:
    return values.double() if values.is_floating_point() else values


def blurred(x: Tensor, side: int = 11, sigma: float = 5.0) -> Tensor:
    """A Gaussian blur of `c y x`, zeros outside."""
    steps = torch.arange(side, dtype=x.dtype, device=x.device) - side // 2
    line = (-(steps**2) / (2 * sigma**2)).exp()
    line = (line / line.sum()).expand(len(x), 1, -1)
    wide = F.conv2d(x[None], line[:, :, None], padding=(0, side // 2), groups=len(x))
    return F.conv2d(wide, line[..., None], padding=(side // 2, 0), groups=len(x))[0]
