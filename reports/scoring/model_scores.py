"""Scores that ask the model again: what happens to the class when what a map marks is changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from ...methods.metrics import BoundMetric, Scorer
from ...models.inputs import (
    Preprocessing,
    PreprocessingOptions,
    fitted,
    input_for,
    prepare,
    read,
)
from ...models.weights import fingerprint
from ...probe.engine import maps
from ...probe.errors import LimelightError, OptionError, TargetError
from ...probe.targets import label
from ..runs import Row, Run, RunPlan, describe_preprocessing, is_ready
from .annotations import Annotations
from .maps_on_input import InputMap


@dataclass(frozen=True, eq=False)
class ModelScores:
    """The model of a run, its data, and the scores to compute with both."""

    net: nn.Module
    preprocessing: Preprocessing
    annotations: Annotations
    metrics: Sequence[BoundMetric]
    seed: int

    @staticmethod
    def of(
        net: nn.Module | None, run: Run, annotations: Annotations, metrics: Sequence[BoundMetric]
    ) -> ModelScores:
        """Raises OptionError without a model, or with one of other weights than the run's."""
        names = ", ".join(bound.name for bound in metrics)
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
        used = _preprocessing(net, run.plan, names)
        return ModelScores(net, used, annotations, metrics, run.plan.seed)

    def rows(self, place: int, sample_maps: Sequence[InputMap]) -> Iterator[Row]:
        """The scores of one sample's maps; NaN with a note where one cannot be had."""
        usable = [m for m in sample_maps if m.flat and m.source["class"] is not None]
        if not usable:
            return
        try:
            x = self._input(place, usable[0].source)
        except LimelightError as error:
            for m in usable:
                yield from (m.row(bound.name, note=str(error)) for bound in self.metrics)
            return
        for m in usable:
            scorer = Scorer(self.net, x, int(m.source["class"]), seed=self.seed)
            scorer = replace(scorer, explain=partial(self._again, m))
            for bound in self.metrics:
                if m.values.shape != x.shape[1:]:
                    yield m.row(bound.name, note="the map covers a part of the input only")
                    continue
                try:
                    value = float(bound(m.values, scorer))
                except TargetError as error:  # a class of another part, or of places
                    yield m.row(bound.name, note=str(error))
                    continue
                note = "" if value == value else "a constant map, or undefined here"
                yield m.row(bound.name, value, note=note)

    def _input(self, place: int, row: Row) -> Tensor:
        sample = self.annotations.sample(place, row)
        if sample is None:
            raise LimelightError("the data hold no such sample")
        item, _ = self.annotations.samples.open(place, sample)
        x = item if is_ready(item) else prepare(self.preprocessing, read(item)).tensor
        return input_for(self.net, x[None])[0]

    def _again(self, m: InputMap, x: Tensor) -> Tensor:
        """The map's method at its site for other inputs, at their size."""
        target = label(int(m.source["class"]))
        site = m.source["site"]
        again = maps(self.net, x, m.source["method"], sites=site, target=target)
        return torch.stack([other.values for other in again.resize()])


def _preprocessing(net: nn.Module, plan: RunPlan, names: str) -> Preprocessing:
    """The preprocessing of the run. Raises OptionError where it cannot be had again."""
    used = fitted(net, PreprocessingOptions(**plan.told.get("options", {})))
    if describe_preprocessing(used) != plan.preprocessing:
        raise OptionError(
            f"{names} asks the model about the pictures of the run, which were prepared by "
            f"{plan.preprocessing!r}; now they would be by {describe_preprocessing(used)!r}: "
            "such a run can be scored by its maps alone"
        )
    return used
