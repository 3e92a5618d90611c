"""Scores of a run's maps, sample by sample: on the object, concentrated, sensitive to the class."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...methods.metrics import BoundMetric, MetricSpec, flat, pearson, spearman, ssim, use_metric
from ...probe.attribution import listed
from ...probe.errors import LimelightError, OptionError
from ..datasets import Sample, Size, mask_of, others, things_of
from ..runs import Row, Run
from .annotations import Truth, truth_of
from .baselines import NAMES, baselines, grey_of
from .maps_on_input import Plane, planes
from .model_scores import Asker
from .table import keep, save

if TYPE_CHECKING:
    from pandas import DataFrame

PAIRED = {
    "class_sensitivity": spearman,
    "class_sensitivity_pearson": pearson,
    "class_sensitivity_ssim": ssim,
}
BEST, LEAST = ("top", "top 1"), "least"
_TOGETHER = 32
_HARD = 0.25  # a difficult picture's object covers less of it (arXiv 1608.00507)
Progress = Callable[[int, int, str], None]


def score(
    run: str | Path | Run,
    metrics: MetricSpec | Sequence[MetricSpec],
    *,
    data: Any = None,
    model: nn.Module | None = None,
    progress: Progress | None = None,
) -> DataFrame:
    """Score the maps of a run: a table, which `scores.parquet` in its folder keeps too.

    metrics  names with options, as `pointing:0`, or functions under `limelight.metric`;
             `class_sensitivity` compares the maps of the targets `top` and `least` by Spearman,
             Pearson and SSIM
    data     where the things lie that maps are compared with, by default the data of the run
    model    the network of the run, for scores of faithfulness, which ask it again
    Maps are resized to the input first. One row a sample, target, method, site and metric; a score
    that cannot be had is NaN and its `note` says why. Beside localisation stand the baselines
    center, random and sobel. The file also keeps earlier scores of other metrics.
    Raises MethodError, OptionError, LimelightError.
    """
    held = run if isinstance(run, Run) else Run(Path(run).expanduser())
    plan = held.plan
    single, paired = _asked(listed(metrics))
    if paired and not (LEAST in plan.targets and set(BEST) & set(plan.targets)):
        raise OptionError(
            "class_sensitivity compares the maps of the targets 'top' and 'least', but the run has "
            f"{', '.join(plan.targets)}: run it with both"
        )
    placed = any("mask" in one.metric.needs for one in single)
    asking = [one for one in single if "model" in one.metric.needs]
    known = truth_of(held, data, marked=placed) if placed or asking else None
    asker = Asker.of(model, held, known, asking) if asking and known is not None else None
    judge = _Judge(plan.targets, single, paired, known if placed else None, plan.seed, asker)
    names = [*(one.name for one in single), *(PAIRED if paired else ())]
    found = keep(held, names)
    for done, (place, rows) in enumerate(_by_sample(held.rows()), 1):
        found.add(judge.rows(place, rows))
        if progress is not None:
            progress(done, plan.samples, rows[0]["sample"])
    table = save(held, found)
    return table[table["metric"].isin(names)].reset_index(drop=True)


def _by_sample(rows: Iterable[Row]) -> Iterator[tuple[int, list[Row]]]:
    for place, own in groupby(rows, key=lambda row: row["index"]):
        yield place, list(own)


def _asked(metrics: Sequence[MetricSpec]) -> tuple[list[BoundMetric], bool]:
    """The scores of single maps, and whether pairs are compared."""
    single, paired = [], False
    for one in metrics:
        if isinstance(one, str) and one.strip() in PAIRED:
            paired = True
            continue
        single.append(use_metric(one, also=PAIRED))
    if not single and not paired:
        raise OptionError("no metric was asked for: name pointing, class_sensitivity, ...")
    return list(dict.fromkeys(single)), paired


@dataclass(frozen=True, eq=False)
class _Place:
    """Where the object of one target lies, or why that is not known."""

    mask: Tensor | None
    difficult: bool = False
    note: str = ""


@dataclass(frozen=True, eq=False)
class _Judge:
    """All that the scores of one sample need."""

    targets: tuple[str, ...]
    single: list[BoundMetric]
    paired: bool
    truth: Truth | None
    seed: int
    asker: Asker | None = None

    def rows(self, place: int, rows: list[Row]) -> Iterator[Row]:
        """The scores of a sample; none where it failed."""
        good = [row for row in rows if row["error"] is None]
        if not good:
            return
        found = planes(good, self.targets)
        size = self.truth.size if self.truth and good[0]["crop"] else None
        yield from self._own(found)
        if self.paired:
            yield from _compared(found)
        if self.asker is not None:
            yield from self.asker.rows(place, found)
        if self.truth is not None:
            yield from self._located(self.truth, place, found, size or _covered(found))

    def _own(self, found: list[Plane]) -> Iterator[Row]:
        """Scores of the maps alone."""
        wanted = [one for one in self.single if one.metric.needs == ("saliency",)]
        for group in _batches(found):
            stack = torch.stack([plane.values for plane in group])
            for one in wanted:
                values = one(stack).tolist()
                for plane, value in zip(group, values, strict=True):
                    yield plane.row(one.name, value, note=_why(plane, value))

    def _located(self, truth: Truth, place: int, found: list[Plane], size: Size) -> Iterator[Row]:
        """Scores of maps on the object of their class, and of the baselines."""
        first = found[0].source
        crop, sample = list(first["crop"]), truth.sample(place, first)
        known: dict[tuple[int | None, str], _Place] = {}
        extra: Tensor | None = None
        for group in _by_target(found):
            key = (group[0].source["class"], group[0].source["target"])
            if key not in known:
                known[key] = _place(sample, key, crop, size)
            where = known[key]
            if where.mask is not None and extra is None:
                grey = None if sample is None else grey_of(truth.samples, place, sample, crop, size)
                extra = baselines(size, self.seed, place, grey)
            rivals = [group[0].rival(name, values) for name, values in _named(extra)]
            yield from self._on([*group, *rivals], where)

    def _on(self, group: list[Plane], where: _Place) -> Iterator[Row]:
        wanted = [one for one in self.single if "mask" in one.metric.needs]
        for part in _batches(group):
            note = where.note if part[0].flat else f"a map over {part[0].source['axes']!r}"
            if where.mask is None or note:
                for one in wanted:
                    yield from (plane.row(one.name, note=note or where.note) for plane in part)
                continue
            stack = torch.stack([plane.values for plane in part])
            mask = part[0].cut(where.mask).expand(stack.shape)
            for one in wanted:
                values = one(stack, mask).tolist()
                for plane, value in zip(part, values, strict=True):
                    told = _why(plane, value)
                    yield plane.row(one.name, value, note=told, difficult=where.difficult)


def _place(
    sample: Sample | None, key: tuple[int | None, str], crop: list[float], size: Size
) -> _Place:
    of_class, target = key
    if sample is None:
        return _Place(None, note="the data hold no such sample")
    if of_class is None:
        return _Place(None, note="the target has no class")
    things = things_of(sample, of_class, target)
    if not things:
        return _Place(None, note="nothing of this class is marked")
    if all(thing.difficult for thing in things):
        return _Place(None, note="all of this class is marked as difficult")
    try:
        mask = mask_of(things, crop, size)
    except LimelightError as error:
        return _Place(None, note=str(error))
    if not mask.any():
        return _Place(None, note="nothing of this class is in the crop")
    hard = float(mask.float().mean()) < _HARD and others(sample, of_class, target)
    return _Place(mask, hard)


def _named(extra: Tensor | None) -> Iterator[tuple[str, Tensor]]:
    return iter(()) if extra is None else zip(NAMES, extra, strict=True)


def _covered(found: list[Plane]) -> Size:
    """The input's size, as far as maps cover it."""
    ends = [plane.end for plane in found if plane.flat]
    return (max(e[0] for e in ends), max(e[1] for e in ends)) if ends else (1, 1)


def _why(plane: Plane, value: float) -> str:
    if value == value:
        return ""
    if not bool(plane.values.isfinite().all()):
        return "the map holds values that are no numbers"
    return "a constant map" if bool(flat(plane.values[None]).isnan().any()) else "undefined here"


def _batches(found: Iterable[Plane]) -> Iterator[list[Plane]]:
    """Maps of one shape that cover the same part, a bounded number at a time."""
    groups: dict[Any, list[Plane]] = defaultdict(list)
    for plane in found:
        groups[(tuple(plane.values.shape), plane.start, plane.flat)].append(plane)
    for group in groups.values():
        yield from (group[i : i + _TOGETHER] for i in range(0, len(group), _TOGETHER))


def _by_target(found: list[Plane]) -> Iterator[list[Plane]]:
    groups: dict[tuple[str, str], list[Plane]] = defaultdict(list)
    for plane in found:
        groups[plane.asked, plane.source["target"]].append(plane)
    yield from groups.values()


def _compared(found: list[Plane]) -> Iterator[Row]:
    """How alike the maps of the likeliest and the least likely class are."""
    pairs: dict[tuple[str, str], dict[bool, Plane]] = defaultdict(dict)
    for plane in found:
        if plane.asked in (*BEST, LEAST):
            key = (plane.source["method"], plane.source["site"])
            pairs[key].setdefault(plane.asked == LEAST, plane)
    for pair in pairs.values():
        if len(pair) < 2:
            continue
        best, least = pair[False], pair[True]
        for name, alike in PAIRED.items():
            square = best.flat or alike is not ssim
            value = float(alike(best.values[None], least.values[None])) if square else torch.nan
            note = "" if value == value else "one of the two maps is constant or no picture"
            yield best.row(name, value, note=note, asked="top, least")
