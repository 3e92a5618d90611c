"""Scores that ask the model again: what happens to the class when what a map marks is changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from ...methods.metrics import BoundMetric, Scorer
from ...models.inputs import Recipe, make_ready, read, recipe
from ...models.weights import fingerprint
from ...probe.engine import maps
from ...probe.errors import LimelightError, OptionError
from ...probe.targets import label
from ..runs import Row, Run, input_of
from .annotations import Truth
from .maps_on_input import Plane


@dataclass(frozen=True, eq=False)
class Asker:
    """The model of a run, its data, and the scores to compute with both."""

    net: nn.Module
    how: Recipe
    truth: Truth
    metrics: Sequence[BoundMetric]
    seed: int

    @staticmethod
    def of(net: nn.Module | None, run: Run, truth: Truth, metrics: Sequence[BoundMetric]) -> Asker:
        """Raises OptionError without a model, or with one of other weights than the run's."""
        names = ", ".join(one.name for one in metrics)
        if net is None:
            raise OptionError(
                f"{names} asks the model again, and a run holds maps alone: give model=, the "
                "network that the run was made with"
            )
        if fingerprint(net.eval()) != run.plan.weights:
            raise OptionError(
                f"{names} asks the model of the run, whose weights are {run.plan.weights}, but "
                f"those of the model given are {fingerprint(net)}: load the same weights"
            )
        return Asker(net, recipe(net), truth, metrics, run.plan.seed)

    def rows(self, place: int, found: Sequence[Plane]) -> Iterator[Row]:
        """The scores of one sample's maps; NaN with a note where one cannot be had."""
        usable = [plane for plane in found if plane.flat and plane.source["class"] is not None]
        if not usable:
            return
        try:
            x = self._input(place, usable[0].source)
        except LimelightError as error:
            for plane in usable:
                yield from (plane.row(one.name, note=str(error)) for one in self.metrics)
            return
        for plane in usable:
            scorer = Scorer(self.net, x, int(plane.source["class"]), seed=self.seed)
            scorer = replace(scorer, explain=partial(self._again, plane))
            for one in self.metrics:
                if plane.values.shape != x.shape[1:]:
                    yield plane.row(one.name, note="the map covers a part of the input only")
                    continue
                value = float(one(plane.values, scorer))
                note = "" if value == value else "a constant map, or undefined here"
                yield plane.row(one.name, value, note=note)

    def _input(self, place: int, row: Row) -> Tensor:
        sample = self.truth.sample(place, row)
        if sample is None:
            raise LimelightError("the data hold no such sample")
        item, _ = self.truth.samples.open(place, sample)
        ready = isinstance(item, Tensor) and item.dtype != torch.uint8
        x = item if ready else make_ready(self.how, read(item))[0]
        return input_of(x[None], self.net)[0]

    def _again(self, plane: Plane, x: Tensor) -> Tensor:
        """The plane's method at its site for other inputs, at their size."""
        target = label(int(plane.source["class"]))
        site = plane.source["site"]
        made = maps(self.net, x, plane.source["method"], sites=site, target=target)
        return torch.stack([m.values for m in made.resize()])
