"""What is to be seen in the samples of a run: the data again, joined by place or by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...probe.errors import LimelightError
from ..datasets import Sample, Samples, Size, samples
from ..runs import Row, Run

_CROP = re.compile(r"crop \[(\d+), (\d+)\]")


@dataclass(frozen=True, eq=False)
class Annotations:
    """The data of a run, which may mark objects.

    same    whether its rows are the run's, place by place; else `places` finds them by name
    size    rows and columns of the model's input, None where the plan does not say
    """

    samples: Samples
    same: bool
    places: Mapping[str, int]
    size: Size | None

    def sample(self, place: int, row: Row) -> Sample | None:
        """The sample that a row of the run is about."""
        if not self.same:
            names = (row["sample"], row["source"] or "", Path(row["source"] or "").name)
            place = next((self.places[n] for n in names if n and n in self.places), -1)
        return self.samples[place] if 0 <= place < len(self.samples) else None


def annotations_for(run: Run, data: Any, *, marked: bool = True) -> Annotations:
    """The data of a run again. Raises LimelightError where they should mark objects and do not."""
    plan = run.plan
    given = samples(data) if data is not None else data_of(plan.told)
    first = given if len(given) <= plan.samples else given[: plan.samples]
    same = first.digest == plan.data
    used = first if same else given
    if marked and not any(row.annotations for row in used.rows):
        raise LimelightError(
            "localisation compares maps with boxes, outlines or masks, but the data mark none: "
            "give a listing with left, top, right, bottom or mask, COCO, VOC, or samples with "
            "annotations"
        )
    crop = _CROP.search(plan.preprocessing)
    size = (int(crop[1]), int(crop[2])) if crop else None
    return Annotations(used, same, {} if same else _places(used), size)


def data_of(recorded: Mapping[str, Any]) -> Samples:
    """The data of a run, read again. Raises LimelightError where it does not say from where."""
    origin = recorded.get("data") or []
    if not origin:
        raise LimelightError(
            "the run does not say where its data came from, and these scores need it again: "
            "give data="
        )
    path, root = (*origin, None)[:2]
    return samples(path, root=root, inputs=recorded.get("inputs") or None)


def _places(listed: Samples) -> dict[str, int]:
    """Samples by name, path and file name; a file name that is not unique finds nothing."""
    places: dict[str, int] = {}
    twice: set[str] = set()
    for place, row in enumerate(listed.rows):
        for name in dict.fromkeys((row.name, row.source, Path(row.source).name)):
            if name and places.setdefault(name, place) != place:
                twice.add(name)
    return {name: place for name, place in places.items() if name not in twice}
