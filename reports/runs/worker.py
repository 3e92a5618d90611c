"""What an engine does with a shard: rows of maps, and rows that say what failed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import nn

from ...probe.attribution import BoundMethod, Sites
from ...probe.engine import about_model, maps_and_output
from ...probe.errors import LimelightError, TargetError
from ..datasets import Preparation, Ready, Samples
from .loader import Loaded, load_samples
from .plan import LABEL, RunPlan, RunTarget, target_of
from .store import Row, encode, error_row, run_row

_SAMPLES_A_CALL = 16


@dataclass(frozen=True, eq=False)
class Work:
    """All that an engine needs to compute any shard of a plan.

    labels  class names in place of the model's
    proven  holds something as soon as one sample has come through
    """

    plan: RunPlan
    net: nn.Module
    preparation: Preparation
    samples: Samples
    bounds: tuple[BoundMethod, ...]
    sites: Sites
    targets: tuple[RunTarget, ...]
    batch: int | str
    labels: tuple[str, ...] | None = None
    proven: list[bool] = field(default_factory=list)

    def rows(self, loaded: Sequence[Loaded]) -> list[Row]:
        """The rows of some samples; those that cannot be read or run become rows that say so."""
        by_place = {s.place: [error_row(s, s.error)] for s in loaded if s.ready is None}
        for group in _alike([s for s in loaded if s.ready], 1 if self.preparation.alone else 0):
            by_place.update(self._group(group))
        return [row for s in loaded for row in by_place[s.place]]

    def _group(self, group: Sequence[Loaded]) -> dict[int, list[Row]]:
        """Samples of one shape together; when that fails, one by one, to find the culprit."""
        if LABEL not in self.targets:
            return self._attempt(group)
        reason = "the run's target is the label, but this sample has none"
        bare = {s.place: [error_row(s, reason)] for s in group if s.sample.label is None}
        labelled = [s for s in group if s.sample.label is not None]
        return {**bare, **(self._attempt(labelled) if labelled else {})}

    def _attempt(self, group: Sequence[Loaded]) -> dict[int, list[Row]]:
        try:
            by_place = self._computed(group)
            self.proven.append(True)
            return by_place
        except Exception as error:
            if self._is_mistake(error):
                raise
            if len(group) == 1:
                text = f"{type(error).__name__}: {error}"
                return {group[0].place: [error_row(group[0], text)]}
        return {place: rows for s in group for place, rows in self._attempt([s]).items()}

    def _is_mistake(self, error: Exception) -> bool:
        """Whether the plan itself is wrong, and not one sample: nothing has come of it so far."""
        of_label = isinstance(error, TargetError) and LABEL in self.targets
        return isinstance(error, LimelightError) and not of_label and not self.proven

    def _computed(self, group: Sequence[Loaded]) -> dict[int, list[Row]]:
        places = tuple(s.place for s in group)
        batch = self.preparation.batch(self.net, [s.ready.inputs for s in group if s.ready])
        labels = [s.sample.label for s in group]
        maps, _ = maps_and_output(
            self.net,
            batch.numbered(places),
            list(self.bounds),
            target=[target_of(target, labels) for target in self.targets],
            sites=self.sites,
            samples=[str(place) for place in places],
            batch=self.batch,
            seed=self.plan.seed,
            about=about_model(self.net, self.plan.seed),
            labels=self.labels,
            axes=dict(self.preparation.sites),
        )
        samples = {s.place: s for s in group}
        by_place: dict[int, list[Row]] = {place: [] for place in places}
        for m in maps:
            place = int(m.sample)
            by_place[place].append(run_row(samples[place], m))
        lost = {int(m.sample): m.about.cautions[-1] for m in maps if m.about.lost}
        by_place |= {place: [error_row(samples[place], why)] for place, why in lost.items()}
        return by_place


def _alike(loaded: Sequence[Loaded], most: int = 0) -> list[list[Loaded]]:
    """Samples in groups of one shape and a size that memory takes."""
    groups: dict[object, list[Loaded]] = {}
    for s in loaded:
        groups.setdefault(_shapes(s.ready), []).append(s)
    size = most or _SAMPLES_A_CALL
    starts = [(g, i) for g in groups.values() for i in range(0, len(g), size)]
    return [g[i : i + size] for g, i in starts]


def _shapes(ready: Ready | None) -> object:
    """Whose inputs fit into one batch with these."""
    inputs = {} if ready is None else ready.inputs
    return tuple((argument, tuple(x.shape), x.dtype) for argument, x in sorted(inputs.items()))


def local(work: Work, todo: Sequence[int], workers: int) -> Iterator[tuple[int, bytes]]:
    """Compute parts in this process, pictures decoded ahead across the borders of shards."""
    places = [place for number in todo for place in work.plan.shards[number]]
    stream = load_samples(work.samples, places, work.preparation, workers)
    for number in todo:
        rows: list[Row] = []
        for group in _groups(stream, len(work.plan.shards[number])):
            rows += work.rows(group)
        yield number, encode(rows, work.plan, number)


def _groups(stream: Iterator[Loaded], count: int) -> Iterator[list[Loaded]]:
    """The next samples of a stream, a few at a time."""
    while count > 0:
        group = [next(stream) for _ in range(min(count, _SAMPLES_A_CALL))]
        count -= len(group)
        yield group
