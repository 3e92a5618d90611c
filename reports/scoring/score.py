"""Scores of a run's maps, sample by sample: on the object, concentrated, sensitive to the class."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from ...methods.metrics import BoundMetric, MetricSpec, flat, pearson, spearman, ssim, use_metric
from ...probe.attribution import Data, listed
from ...probe.capture import keeps_model
from ...probe.errors import LimelightError, OptionError
from ..datasets import Size
from ..runs import Row, Run
from .annotations import Annotations, annotations_for
from .baselines import NAMES, baselines, grey_of
from .earlier import earlier_of
from .maps_on_input import InputMap, maps_on_input
from .model_scores import ModelScores
from .object_places import ObjectPlace, place_of
from .table import keep, save

if TYPE_CHECKING:
    from pandas import DataFrame

PAIRED = {
    "class_sensitivity": spearman,
    "class_sensitivity_pearson": pearson,
    "class_sensitivity_ssim": ssim,
}
BEST, LEAST = ("top", "top 1"), "least"
_MAPS_A_CALL = 32
Progress = Callable[[int, int, str], None]
Made = TypeVar("Made")


@keeps_model
def score(
    run: str | Path | Run,
    metrics: MetricSpec | Sequence[MetricSpec],
    *,
    data: Data | None = None,
    model: nn.Module | None = None,
    progress: Progress | None = None,
) -> DataFrame:
    """Score the maps of a run: a table, which `scores.parquet` in its folder keeps too.

    metrics  names with options, as `pointing,tolerance=0`; `class_sensitivity` compares the maps
             of the targets `top` and `least` by Spearman, Pearson and SSIM
    data     marks the objects that maps are compared with, by default the data of the run
    model    the network of the run, for scores of faithfulness, which ask it again
    Maps are resized to the input first. One row a sample, target, method, site and metric; a score
    that cannot be had is NaN and its `note` says why, a whole metric too as long as others can.
    Beside localisation stand the baselines center, random and sobel. The file also keeps earlier
    scores of other metrics; where the run has grown since, they are computed again, as far as data
    and model are at hand. Raises MethodError, OptionError, LimelightError.

    Example:
        >>> found = ll.run("run", digits, [ll.example("flower")], ["gradcam"])
        >>> ll.score(found, "sparseness")["metric"].tolist()
        ['sparseness']
    """
    held = run if isinstance(run, Run) else Run(Path(run).expanduser())
    plan = held.plan
    held.check()
    single, paired = _asked(listed(metrics))
    names = [*(bound.name for bound in single), *(PAIRED if paired else ())]
    earlier = earlier_of(held, names, PAIRED, data, model=model is not None)
    if earlier.dropped:
        warnings.warn(f"{earlier.told}ask for them again", stacklevel=3)
    single, paired = [*single, *earlier.single], paired or earlier.paired
    judge = _judge(held, single, paired, data, model)
    scores = keep(held, [*(bound.name for bound in single), *(PAIRED if paired else ())])
    for done, (place, rows) in enumerate(_by_sample(held.rows()), 1):
        scores.add(judge.rows(place, rows))
        if progress is not None:
            progress(done, plan.samples, rows[0]["sample"])
    table = save(held, scores)
    from .scores import Scores

    return Scores(table[table["metric"].isin(names)].reset_index(drop=True))


def refresh(run: Run) -> bool:
    """Compute scores of an earlier state of the run again; False where none of them can be."""
    earlier = earlier_of(run, (), PAIRED, None, model=False)
    again = [*earlier.single, *(["class_sensitivity"] if earlier.paired else ())]
    if again:
        score(run, again)
    elif earlier.dropped:
        warnings.warn(f"{earlier.told}score the run again", stacklevel=3)
    return bool(again) or not earlier.dropped


def _judge(
    held: Run,
    single: list[BoundMetric],
    paired: bool,
    data: Data | None,
    model: nn.Module | None,
) -> _Judge:
    """What can be scored, and why the rest cannot. Raises LimelightError where nothing can."""
    plan = held.plan
    placed = [bound for bound in single if "mask" in bound.metric.needs]
    asking = [bound for bound in single if "model" in bound.metric.needs]
    lost: dict[str, LimelightError] = {}
    if paired:
        _tried(lost, PAIRED, lambda: _check_pairs(plan.targets))
    where = _tried(lost, _names(placed), lambda: annotations_for(held, data)) if placed else None
    asked = _tried(lost, _names(asking), lambda: ModelScores.of(
        model, held, where or annotations_for(held, data, marked=False), asking
    )) if asking else None  # fmt: skip
    names = {*_names(single), *(PAIRED if paired else ())}
    if lost.keys() >= names:
        raise next(iter(lost.values()))
    usable = [bound for bound in single if bound.name not in lost]
    reasons = {name: str(error) for name, error in lost.items()}
    pairs = paired and not lost.keys() >= PAIRED.keys()
    return _Judge(plan.targets, usable, pairs, where, plan.seed, asked, reasons)


def _names(metrics: Iterable[BoundMetric]) -> list[str]:
    return [bound.name for bound in metrics]


def _tried(
    lost: dict[str, LimelightError], names: Iterable[str], make: Callable[[], Made]
) -> Made | None:
    """What some metrics need, or nothing, with the reason under their names."""
    try:
        return make()
    except LimelightError as error:
        lost.update(dict.fromkeys(names, error))
        return None


def _check_pairs(targets: Sequence[str]) -> None:
    if not (LEAST in targets and set(BEST) & set(targets)):
        raise OptionError(
            "class_sensitivity compares the maps of the targets 'top' and 'least', but the run has "
            f"{', '.join(targets)}: run it with both"
        )


def _by_sample(rows: Iterable[Row]) -> Iterator[tuple[int, list[Row]]]:
    for place, group in groupby(rows, key=lambda row: row["index"]):
        yield place, list(group)


def _asked(metrics: Sequence[MetricSpec]) -> tuple[list[BoundMetric], bool]:
    """The scores of single maps, and whether pairs are compared."""
    single, paired = [], False
    for spec in metrics:
        if isinstance(spec, str) and spec.strip() in PAIRED:
            paired = True
            continue
        single.append(use_metric(spec, also=PAIRED))
    if not single and not paired:
        raise OptionError("no metric was asked for: name pointing, class_sensitivity, ...")
    return list(dict.fromkeys(single)), paired


@dataclass(frozen=True, eq=False)
class _Judge:
    """All that the scores of one sample need; `lost` says why a metric cannot be had."""

    targets: tuple[str, ...]
    single: list[BoundMetric]
    paired: bool
    annotations: Annotations | None
    seed: int
    by_model: ModelScores | None = None
    lost: Mapping[str, str] = field(default_factory=dict)

    def rows(self, place: int, rows: list[Row]) -> Iterator[Row]:
        """The scores of a sample; none where it failed."""
        good = [row for row in rows if row["error"] is None]
        if not good:
            return
        maps = maps_on_input(good, self.targets)
        for name, reason in self.lost.items():
            yield from (m.row(name, note=reason) for m in maps)
        yield from self._of_maps(maps)
        if self.paired:
            yield from _compared(maps)
        if self.by_model is not None:
            yield from self.by_model.rows(place, maps)
        if self.annotations is not None:
            size = self.annotations.size if good[0]["crop"] else None
            yield from self._located(self.annotations, place, maps, size or _covered(maps))

    def _of_maps(self, maps: list[InputMap]) -> Iterator[Row]:
        """Scores of the maps alone."""
        wanted = [bound for bound in self.single if bound.metric.needs == ("saliency",)]
        for group in _batches(maps):
            stack = torch.stack([m.values for m in group])
            for bound in wanted:
                values = bound(stack).tolist()
                for m, value in zip(group, values, strict=True):
                    yield m.row(bound.name, value, note=_why(m, value))

    def _located(
        self, annotations: Annotations, place: int, maps: list[InputMap], size: Size
    ) -> Iterator[Row]:
        """Scores of maps on the object of their class, and of the baselines."""
        first = maps[0].source
        crop, sample = list(first["crop"]), annotations.sample(place, first)
        places: dict[tuple[int | None, str], ObjectPlace] = {}
        extra: Tensor | None = None
        for group in _by_target(maps):
            key = (group[0].source["class"], group[0].source["target"])
            if key not in places:
                places[key] = place_of(sample, key, crop, size)
            where = places[key]
            if where.mask is not None and extra is None and sample is not None:
                grey = grey_of(annotations.samples, place, sample, crop, size)
                extra = baselines(size, self.seed, place, grey)
            rivals = [group[0].rival(name, values) for name, values in _baselines(extra)]
            yield from self._on([*group, *rivals], where)

    def _on(self, group: list[InputMap], where: ObjectPlace) -> Iterator[Row]:
        wanted = [bound for bound in self.single if "mask" in bound.metric.needs]
        for part in _batches(group):
            note = where.note if part[0].flat else f"a map over {part[0].source['axes']!r}"
            note = f"a map at the input {part[0].argument!r}" if part[0].argument else note
            if where.mask is None or note:
                for bound in wanted:
                    yield from (m.row(bound.name, note=note or where.note) for m in part)
                continue
            stack = torch.stack([m.values for m in part])
            mask = part[0].cut(where.mask).expand(stack.shape)
            for bound in wanted:
                values = bound(stack, mask).tolist()
                for m, value in zip(part, values, strict=True):
                    note = _why(m, value)
                    yield m.row(bound.name, value, note=note, difficult=where.difficult)


def _baselines(extra: Tensor | None) -> Iterator[tuple[str, Tensor]]:
    return iter(()) if extra is None else zip(NAMES, extra, strict=True)


def _covered(maps: list[InputMap]) -> Size:
    """The input's size, as far as maps cover it."""
    ends = [m.end for m in maps if m.flat]
    return (max(e[0] for e in ends), max(e[1] for e in ends)) if ends else (1, 1)


def _why(m: InputMap, value: float) -> str:
    if value == value:
        return ""
    if not bool(m.values.isfinite().all()):
        return "the map holds values that are no numbers"
    return "a constant map" if bool(flat(m.values[None]).isnan().any()) else "undefined here"


def _batches(maps: Iterable[InputMap]) -> Iterator[list[InputMap]]:
    """Maps of one shape that cover the same part, a bounded number at a time."""
    groups: dict[tuple[object, ...], list[InputMap]] = defaultdict(list)
    for m in maps:
        groups[(tuple(m.values.shape), m.start, m.flat, m.argument)].append(m)
    for group in groups.values():
        yield from (group[i : i + _MAPS_A_CALL] for i in range(0, len(group), _MAPS_A_CALL))


def _by_target(maps: list[InputMap]) -> Iterator[list[InputMap]]:
    groups: dict[tuple[str, str], list[InputMap]] = defaultdict(list)
    for m in maps:
        groups[m.asked, m.source["target"]].append(m)
    yield from groups.values()


def _compared(maps: list[InputMap]) -> Iterator[Row]:
    """How alike the maps of the likeliest and the least likely class are."""
    pairs: dict[tuple[str, str], dict[bool, InputMap]] = defaultdict(dict)
    for m in maps:
        if m.asked in (*BEST, LEAST):
            key = (m.source["method"], m.source["site"])
            pairs[key].setdefault(m.asked == LEAST, m)
    for pair in pairs.values():
        if len(pair) < 2:
            continue
        best, least = pair[False], pair[True]
        for name, alike in PAIRED.items():
            square = best.flat or alike is not ssim
            value = float(alike(best.values[None], least.values[None])) if square else torch.nan
            note = "" if value == value else "one of the two maps is constant or no picture"
            yield best.row(name, value, note=note, asked="top, least")
