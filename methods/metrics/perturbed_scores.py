"""A model as perturbation metrics ask it: one target, for many copies of one sample."""

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
from ...probe.targets import Given, Target, by_name, label
from ...probe.trace import exchange
from ..perturbation import OnCopies
from .neighbours import blurred

BASELINES = ("zero", "black", "mean", "blur", "uniform")
Baseline = str | Tensor


@dataclass(frozen=True, eq=False)
class Scorer:
    """One sample, `c` and its places, what is asked of it, and a model of such samples.

    asked     a class, or a target: `limelight.label(3, at="up5")`. Its classes have the
              probability that a target of probabilities has: a model that ends in a softmax or a
              sigmoid is not squashed again. Of classes over places it is the mean over these. A
              target of the most probable class is held to the one of the sample itself. What
              reads no classes, a difference say, scores as it is
    explain   inputs `b c` and places -> maps `b` and places; for metrics of the method itself
    batch     copies in one forward; seed: of random perturbations
    axes      what the places are, where it is known: `y x`, `t`; `c` for features of a table
    """

    model: nn.Module
    x: Tensor
    asked: int | Target
    explain: Callable[[Tensor], Tensor] | None = None
    batch: int = 8
    seed: int = 0
    axes: str = ""

    @staticmethod
    def of(
        model: nn.Module,
        x: Inputs | Batch,
        asked: int | Target,
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
        said = {**whole.axes, **(axes or {})}
        adapter = replace(adapter, axes=(*said.items(), *adapter.axes))
        plan = Runner(model, whole, known=adapter).layout
        sample = plan.canonical(whole.x)[0]
        wanted = asked if isinstance(asked, Target) else label(asked)
        wanted = wanted.resolve(by_name(adapter.labels))
        copies = OnCopies(model, whole, plan)
        return Scorer(copies, sample, wanted, explain, batch, seed, plan.axes)

    @cached_property
    def target(self) -> Target:
        """What is asked, as a probability where it reads classes, settled and held."""
        asked = self.asked if isinstance(self.asked, Target) else label(self.asked)
        if asked.words:
            asked = asked.resolve(by_name(adapt(self.model).labels))
        if asked.reading is not None and asked.reading.form != "part":
            asked = replace(asked, reading=replace(asked.reading, of="probability"))
        target = settled(self.model, Batch.of(self.x[None]), [asked])[0]
        if target.pick is None or target.rows is not None:
            return target
        with torch.no_grad(), guarded(self.model, grad=False, evaluate=True):
            return target.fix(exchange(self.model(self.x[None]), _double), Given(1))

    @torch.no_grad()
    def __call__(self, copies: Tensor, *, logits: bool = False) -> Tensor:
        """The probability (or the logit) of what is asked for each copy, in float64."""
        target = self.target
        if logits and target.reading is not None and target.reading.form != "part":
            target = replace(target, reading=replace(target.reading, of="logit"))
        copy_scores = []
        with guarded(self.model, grad=False, evaluate=True):
            for part in copies.split(self.batch):
                output = exchange(self.model(part), _double)
                copy_scores.append(_scores(target, output, len(part)))
        return torch.cat(copy_scores)

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


def _scores(target: Target, output: Any, copies: int) -> Tensor:
    """A number a copy; of classes over places the mean over these, where the target sums."""
    if target.reading is not None and target.reading.form == "classes":
        places = target.reading.places(output, copies)
        if places.ndim > 2:
            return target.read(places.flatten(2).mean(2), target.rows)
    return target(output, copies)


def _double(_: str, values: Tensor) -> Tensor:
    return values.double() if values.is_floating_point() else values
