"""What is to be seen in the samples of a run: the data again, joined by place or by name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...probe.errors import LimelightError
from ..datasets import Sample, Samples, Size, samples
from ..runs import Row, Run

_CROP = re.compile(r"crop \[(\d+), (\d+)\]")


@dataclass(frozen=True, eq=False)
class Truth:
    """The data of a run. `same`: its rows are the run's, place by place; size: the input's."""

    samples: Samples
    same: bool
    places: dict[str, int]
    size: Size | None

    def sample(self, place: int, row: Row) -> Sample | None:
        """The sample that a row of the run is about."""
        if not self.same:
            words = (row["sample"], row["source"] or "", Path(row["source"] or "").name)
            place = next((self.places[w] for w in words if w and w in self.places), -1)
        return self.samples[place] if 0 <= place < len(self.samples) else None


def truth_of(run: Run, data: Any, *, marked: bool = True) -> Truth:
    """The data of a run again. Raises LimelightError where they should mark things and do not."""
    plan = run.plan
    given = samples(data) if data is not None else _again(plan.told)
    rows = given if len(given) <= plan.samples else given[: plan.samples]
    same = rows.digest == plan.data
    found = rows if same else given
    if marked and not any(row.things for row in found.rows):
        raise LimelightError(
            "localisation compares maps with boxes, outlines or masks, but the data mark none: "
            "give data with things, a listing with left, top, right, bottom or mask, COCO or VOC"
        )
    told = _CROP.search(plan.preprocessing)
    size = (int(told[1]), int(told[2])) if told else None
    return Truth(found, same, {} if same else _places(found), size)


def _again(told: dict[str, Any]) -> Samples:
    origin = told.get("data") or []
    if not origin:
        raise LimelightError(
            "the run does not say where its data came from, and these scores need it again: "
            "give data="
        )
    path, root = (*origin, None)[:2]
    return samples(path, root=root)


def _places(found: Samples) -> dict[str, int]:
    """Samples by name, path and file name; a file name that is not unique finds nothing."""
    known: dict[str, int] = {}
    twice: set[str] = set()
    for place, row in enumerate(found.rows):
        for word in dict.fromkeys((row.name, row.source, Path(row.source).name)):
            if word and known.setdefault(word, place) != place:
                twice.add(word)
    return {word: place for word, place in known.items() if word not in twice}
