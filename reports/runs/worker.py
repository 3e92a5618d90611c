"""What an engine does with a shard: rows of maps, and rows that say what failed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...models.inputs import Recipe
from ...probe.attribution import BoundMethod
from ...probe.engine import Batch, Sites, about_model, maps_and_output
from ...probe.errors import LimelightError, TargetError
from ..datasets import Samples
from . import store as parts
from .loader import Loaded, feed
from .plan import LABEL, RunPlan, target_of
from .store import Row, error_row, row_of

_TOGETHER = 16


@dataclass(frozen=True, eq=False)
class Work:
    """All that an engine needs to compute any shard of a plan.

    proven  holds something as soon as one sample has come through
    """

    plan: RunPlan
    net: nn.Module
    how: Recipe
    samples: Samples
    bounds: tuple[BoundMethod, ...]
    sites: Sites
    targets: tuple[Any, ...]
    batch: int | str
    proven: list[bool] = field(default_factory=list)

    def rows(self, loaded: Sequence[Loaded]) -> list[Row]:
        """The rows of some samples; those that cannot be read or run become rows that say so."""
        found: dict[int, list[Row]] = {
            one.place: [error_row(one, one.error)] for one in loaded if one.tensor is None
        }
        for group in _alike([one for one in loaded if one.tensor is not None]):
            found.update(self._group(group))
        return [row for one in loaded for row in found[one.place]]

    def _group(self, group: Sequence[Loaded]) -> dict[int, list[Row]]:
        """Samples of one shape together; when that fails, one by one, to find the culprit."""
        if LABEL in self.targets:
            bare = [one for one in group if one.sample.label is None]
            told = "the run's target is the label, but this sample has none"
            found = {one.place: [error_row(one, told)] for one in bare}
            group = [one for one in group if one.sample.label is not None]
            return {**found, **(self._tried(group) if group else {})}
        return self._tried(group)

    def _tried(self, group: Sequence[Loaded]) -> dict[int, list[Row]]:
        try:
            found = self._computed(group)
            self.proven.append(True)
            return found
        except Exception as error:
            if self._is_mistake(error):
                raise
            if len(group) == 1:
                text = f"{type(error).__name__}: {error}"
                return {group[0].place: [error_row(group[0], text)]}
        return {place: rows for one in group for place, rows in self._tried([one]).items()}

    def _is_mistake(self, error: Exception) -> bool:
        """Whether the plan itself is wrong, and not one sample: nothing has come of it so far."""
        own = isinstance(error, TargetError) and LABEL in self.targets
        return isinstance(error, LimelightError) and not own and not self.proven

    def _computed(self, group: Sequence[Loaded]) -> dict[int, list[Row]]:
        places = tuple(one.place for one in group)
        x = input_of(torch.stack([one.tensor for one in group]), self.net)  # type: ignore[misc]
        labels = [one.sample.label for one in group]
        names = [str(place) for place in places]
        made, _ = maps_and_output(
            self.net,
            Batch((x,), {}, places),
            list(self.bounds),
            target=[target_of(one, labels) for one in self.targets],
            sites=self.sites,
            samples=names,
            batch=self.batch,
            seed=self.plan.seed,
            about=about_model(self.net, self.plan.seed),
        )
        by_place = {one.place: one for one in group}
        found: dict[int, list[Row]] = {place: [] for place in places}
        for m in made:
            one = by_place[int(m.sample)]
            found[one.place].append(row_of(one, m))
        return found


def _alike(loaded: Sequence[Loaded]) -> list[list[Loaded]]:
    """Samples in groups of one shape and a size that memory takes."""
    groups: dict[tuple[int, ...], list[Loaded]] = {}
    for one in loaded:
        shape = () if one.tensor is None else tuple(one.tensor.shape)
        groups.setdefault(shape, []).append(one)
    return [g[i : i + _TOGETHER] for g in groups.values() for i in range(0, len(g), _TOGETHER)]


def local(work: Work, todo: Sequence[int], workers: int) -> Iterator[tuple[int, bytes]]:
    """Compute parts in this process, pictures decoded ahead across the borders of shards."""
    places = [place for number in todo for place in work.plan.shards[number]]
    stream = feed(work.samples, places, work.how, workers)
    for number in todo:
        rows: list[Row] = []
        for group in _taken(stream, len(work.plan.shards[number])):
            rows += work.rows(group)
        yield number, parts.encode(rows, work.plan.shards[number])


def _taken(stream: Iterator[Loaded], count: int) -> Iterator[list[Loaded]]:
    while count > 0:
        group = [next(stream) for _ in range(min(count, _TOGETHER))]
        count -= len(group)
        yield group


def input_of(x: Tensor, net: nn.Module) -> Tensor:
    """A batch on the model's device, floats in its precision."""
    weight = next((p for p in net.parameters() if p.is_floating_point()), None)
    if weight is None:
        return x
    return x.to(weight) if x.is_floating_point() else x.to(weight.device)
