"""A model as perturbation metrics ask it: one class, for many copies of one sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ...probe.attribution import Axes, Inputs
from ...probe.capture import guarded
from ...probe.engine import Batch, Runner, settled, told_apart
from ...probe.errors import OptionError
from ...probe.sites import adapt
from ...probe.targets import Target, label, picked
from ...probe.trace import exchange
from ..perturbation import OnCopies
from .neighbours import blurred

BASELINES = ("zero", "black", "mean", "blur", "uniform")
Baseline = str | Tensor


@dataclass(frozen=True, eq=False)
class Scorer:
    """One sample, `c` and its places, the class in question, and a model of such samples.

    A class has the probability that a target of the class has: a model that ends in a softmax or
    a sigmoid is not squashed again. Of dense outputs it is the mean over the places.

    explain   inputs `b c` and places -> maps `b` and places; for metrics of the method itself
    batch     copies in one forward; seed: of random perturbations
    axes      what the places are, where it is known: `y x`, `t`; `c` for features of a table
    """

    model: nn.Module
    x: Tensor
    of_class: int
    explain: Callable[[Tensor], Tensor] | None = None
    batch: int = 8
    seed: int = 0
    axes: str = ""

    @staticmethod
    def of(
        model: nn.Module,
        x: Inputs | Batch,
        of_class: int,
        *,
        explain: Callable[[Tensor], Tensor] | None = None,
        batch: int = 8,
        seed: int = 0,
        axes: Axes = None,
    ) -> Scorer:
        """A batch of one sample as the model takes it, its other inputs and its order included.

        axes  what dimensions mean where no op of the model tells, as in `limelight.maps`
        Raises OptionError for several samples, SiteError where the input's axes are not known.
        """
        whole = told_apart(model, Batch.of(x, axes, model))
        if len(whole) != 1:
            raise OptionError(f"a scorer asks about one sample, but was given {len(whole)}")
        adapter = adapt(model)
        adapter = replace(adapter, axes=(*(axes or {}).items(), *adapter.axes))
        plan = Runner(model, whole, known=adapter).layout
        sample = plan.canonical(whole.x)[0]
        asked = OnCopies(model, whole, plan)
        return Scorer(asked, sample, of_class, explain, batch, seed, plan.axes)

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

    def baseline(self, name: Baseline) -> Tensor:
        """What stands for nothing, `c` and the places; a tensor of that shape as it is.

        zero (the mean colour after normalisation), black (the least value of the sample), mean
        (of each channel), blur (Gaussian, 11 places wide, sigma 5), uniform noise over its range.
        Raises OptionError for another name, and for a mean or blur of features of a table.
        """
        x = self.x
        if isinstance(name, Tensor):
            return self._given(name)
        if name == "zero":
            return torch.zeros_like(x)
        if name == "black":
            return torch.full_like(x, float(x.min()))
        if name in ("mean", "blur"):
            self.check_places(f"baseline={name!r}")
        if name == "mean":
            return x.mean(tuple(range(1, x.ndim)), keepdim=True).expand_as(x).clone()
        if name == "blur":
            return blurred(x)
        if name == "uniform":
            noise = torch.rand(x.shape, generator=self.generator()).to(x)
            return x.min() + (x.max() - x.min()) * noise
        raise OptionError(f"baseline {name!r} is unknown: write one of {', '.join(BASELINES)}")

    def check_places(self, what: str) -> None:
        """Raise OptionError where the sample is a row of a table: its features lie in no order."""
        if self.axes == "c":
            raise OptionError(
                f"{what} reads what lies around a place, and features of a table lie in no order; "
                "take a metric and a baseline without neighbours: zero, black, uniform or a tensor"
            )

    def _given(self, baseline: Tensor) -> Tensor:
        try:
            return baseline.to(self.x).expand_as(self.x)
        except RuntimeError:
            raise OptionError(
                f"a baseline of shape {tuple(baseline.shape)} was given, but the sample is "
                f"{tuple(self.x.shape)}; give one of that shape, or one that broadcasts to it"
            ) from None


def _double(_: str, values: Tensor) -> Tensor:
    return values.double() if values.is_floating_point() else values
