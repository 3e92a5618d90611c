"""Scores that ask the model again: what happens to the score when what a map marks is changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from ...methods.metrics import BoundMetric, Scorer
from ...methods.perturbation import OnCopies
from ...models.inputs import PreprocessingOptions
from ...models.weights import fingerprint
from ...probe.engine import Batch, maps
from ...probe.errors import LimelightError, OptionError, TargetError
from ...probe.targets import Target, label, target_in
from ..datasets import Preparation, preparation, with_embeddings
from ..runs import Row, Run, RunPlan, as_dtype, describe_preparation, describe_target
from .annotations import Annotations
from .maps_on_input import InputMap

_HEADS = "h"  # numbers of heads, which are no maps


@dataclass(frozen=True, eq=False)
class ModelScores:
    """The model of a run, its plan, its data, and the scores to compute with all of them."""

    net: nn.Module
    plan: RunPlan
    preparation: Preparation
    annotations: Annotations
    metrics: Sequence[BoundMetric]

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
        plan = run.plan
        net = _of_type(net, as_dtype(plan.dtype or None)).eval()
        if fingerprint(net) != plan.weights:
            raise OptionError(
                f"{names} asks the model of the run, whose weights are {plan.weights}, but "
                f"those of the model given are {fingerprint(net)}: load the same weights"
            )
        used = _preparation(net, plan, annotations, names)
        return ModelScores(net, plan, used, annotations, metrics)

    def rows(self, place: int, sample_maps: Sequence[InputMap]) -> Iterator[Row]:
        """The scores of one sample's maps; NaN with a note where one cannot be had."""
        usable = [m for m in sample_maps if m.source["axes"] != _HEADS]
        if not usable:
            return
        try:
            inputs = self._inputs(place, usable[0].source)
        except LimelightError as error:
            for m in usable:
                yield from self._none(m, str(error))
            return
        for m in usable:
            try:
                batch = self.preparation.batch(self.net, [inputs], explained=m.argument)
                scorer = self._scorer(m, batch, self.target(m))
            except LimelightError as error:
                yield from self._none(m, str(error))
                continue
            yield from self._scored(m, scorer)

    def _none(self, m: InputMap, note: str) -> Iterator[Row]:
        yield from (m.row(bound.name, note=note) for bound in self.metrics)

    def _scored(self, m: InputMap, scorer: Scorer) -> Iterator[Row]:
        axes = m.source["axes"]
        if not m.flat and axes != scorer.axes:
            yield from self._none(
                m, f"a map over {axes!r}, where the input is over {scorer.axes!r}"
            )
            return
        if m.values.shape != scorer.x.shape[1:]:
            yield from self._none(m, "the map covers a part of the input only")
            return
        for bound in self.metrics:
            try:
                value = float(bound(m.values, scorer))
            except TargetError as error:  # a class of another part, or of places
                yield m.row(bound.name, note=str(error))
                continue
            except OptionError as error:  # a metric of neighbours, of which features have none
                if m.flat:
                    raise
                yield m.row(bound.name, note=str(error))
                continue
            note = "" if value == value else "a constant map, or undefined here"
            yield m.row(bound.name, value, note=note)

    def target(self, m: InputMap) -> Target:
        """What a map explains, its class read as the plan's target reads it.

        Raises TargetError for a target of Python that names no class.
        """
        plan = self.plan
        place = plan.targets.index(m.asked) if m.asked in plan.targets else None
        readings = plan.told.get("readings") or [{}] * len(plan.targets)
        if m.source["class"] is not None and (place is not None or not any(readings)):
            return label(int(m.source["class"]), **({} if place is None else readings[place]))
        text = m.asked.rpartition("#")[0] or m.asked
        if place is not None and plan.told.get("worded", [False] * len(readings))[place]:
            with suppress(LimelightError):  # its file is gone
                made = target_in(text) if describe_target(text) == m.asked else None
                if isinstance(made, Target):
                    return with_embeddings(self.net, [made], self.preparation.photos)[0]
        raise TargetError(
            f"the target {m.asked!r} cannot be made again of what the run keeps: run it with a "
            "target in words, such as region:mask.png,2, and leave its file as it is"
        )

    def _inputs(self, place: int, row: Row) -> dict[str, Tensor]:
        sample = self.annotations.sample(place, row)
        if sample is None:
            raise LimelightError("the data hold no such sample")
        item, _ = self.annotations.samples.open(place, sample)
        return self.preparation(item).inputs

    def _scorer(self, m: InputMap, batch: Batch, target: Target) -> Scorer:
        seed = self.plan.seed
        if m.flat and not self.preparation.kinds:
            scorer = Scorer(self.net, batch.x[0], target, seed=seed)
        else:
            scorer = Scorer.of(self.net, batch, target, seed=seed, axes=self.preparation.sites)
        return replace(scorer, explain=partial(self._again, m, target, scorer.model))

    def _again(self, m: InputMap, target: Target, model: nn.Module, x: Tensor) -> Tensor:
        """The map's method at its site for other inputs, at their size."""
        site, axes = m.source["site"], dict(self.preparation.sites)
        again: Batch | Tensor = model.given(x) if isinstance(model, OnCopies) else x
        made = maps(self.net, again, m.source["method"], sites=site, target=target, axes=axes)
        return torch.stack([other.values for other in made.resize()])


def _preparation(
    net: nn.Module, plan: RunPlan, annotations: Annotations, names: str
) -> Preparation:
    """The preparation of the run. Raises OptionError where it cannot be had again."""
    told = plan.told
    options = PreprocessingOptions(**told.get("options", {}))
    used = preparation(net, annotations.samples, options, told.get("axes"))
    if describe_preparation(used) != plan.preprocessing:
        raise OptionError(
            f"{names} asks the model about the samples of the run, which were prepared by "
            f"{plan.preprocessing!r}; now they would be by {describe_preparation(used)!r}: "
            "such a run can be scored by its maps alone"
        )
    return used


def _of_type(net: nn.Module, dtype: torch.dtype | None) -> nn.Module:
    """A network in the precision of a run: itself, or a copy."""
    held = {p.dtype for p in net.parameters() if p.is_floating_point()}
    return net if dtype is None or held <= {dtype} else deepcopy(net).to(dtype)
