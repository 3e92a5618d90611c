"""A data set as rows: what each sample is called, where it comes from, what is to be seen in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain, count
from math import isfinite
from pathlib import Path
from typing import Any, overload

from ...probe.errors import LimelightError

Box = tuple[float, float, float, float]
Open = Callable[[int, "Sample"], tuple[Any, "Sample"]]


@dataclass(frozen=True)
class Annotation:
    """One object marked in a picture: its class, and where it lies.

    box        left, top, right, bottom in pixels of the picture
    mask       a picture file of the same size; `value` is the pixel value that means this
               object, None any value but 0
    polygons   outlines x0 y0 x1 y1 ... in pixels
    difficult  left out by the "difficult" rules of the pointing game
    fault      why it cannot be told where it lies
    Raises LimelightError for a box that has no inside, or an outline that has no corners.
    """

    label: int | str | None = None
    box: Box | None = None
    mask: str = ""
    value: int | None = None
    polygons: tuple[tuple[float, ...], ...] = ()
    difficult: bool = False
    fault: str = ""

    def __post_init__(self) -> None:
        if self.box is not None:
            _check_box(self.box)
        if odd := next((p for p in self.polygons if len(p) < 6 or len(p) % 2), None):
            raise LimelightError(f"its outline {odd!r} is not x and y of three corners or more")
        if not all(map(isfinite, chain(*self.polygons))):
            raise LimelightError("its outline holds what is no finite number")


def _check_box(box: Box) -> None:
    if len(box) != 4 or not all(map(isfinite, box)):
        raise LimelightError(f"its box {tuple(box)} is not four finite numbers")
    left, top, right, bottom = box
    if right <= left or bottom <= top:
        raise LimelightError(
            f"its box {tuple(box)} has no inside: right must be beyond left, bottom beyond top"
        )


@dataclass(frozen=True)
class Sample:
    """One row of a data set.

    source  a picture's path, or a prompt's text
    fault   why the row cannot be had: opening it raises a LimelightError that says so
    """

    name: str
    source: str = ""
    label: int | str | None = None
    annotations: tuple[Annotation, ...] = ()
    fault: str = ""


class Samples(Sequence[Sample]):
    """The rows of a data set, each under a name of its own, and how to open one.

    open    (place, row) -> the picture, tensor, prompt or `Parts`, and the row completed by what
            only opening tells (a label, say); the default hands on the path
    digest  stands for the content: runs over data of another digest do not mix
    origin  the path they were read from, and the folder its paths start at where that was given
    inputs  what was said of its columns, in words
    """

    origin: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()

    def __init__(
        self, rows: Iterable[Sample], *, open: Open | None = None, digest: str = ""
    ) -> None:
        self.rows = _named(rows)
        self.open = partial(_opened, open or _path)
        self._digest = digest
        if not self.rows:
            raise LimelightError("the data set holds no sample: give at least one")

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Samples: ...
    def __getitem__(self, index: int | slice) -> Sample | Samples:
        if isinstance(index, int):
            return self.rows[index]
        shift = range(len(self))[index].start
        if (index.step or 1) != 1:
            raise LimelightError("samples are taken in runs: give a slice without a step")
        part = Samples(
            self.rows[index], open=lambda i, row: self.open(i + shift, row), digest=self._digest
        )
        part.origin, part.inputs = self.origin, self.inputs
        return part

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def digest(self) -> str:
        """16 hex digits over names, labels, annotations, and the sizes of files."""
        state = hashlib.sha256(self._digest.encode())
        for row in self.rows:
            content = {**asdict(row), "size": file_size(row.source)}
            things = map(_told, content.pop("annotations"))
            content = {**_told(content), "things": list(things)}  # as in digests of earlier runs
            state.update(json.dumps(content, sort_keys=True, default=str).encode())
        return state.hexdigest()[:16]


def _path(place: int, row: Sample) -> tuple[Any, Sample]:
    return row.source, row


def _opened(open_row: Open, place: int, row: Sample) -> tuple[Any, Sample]:
    if row.fault:
        raise LimelightError(row.fault)
    return open_row(place, row)


def _told(content: dict[str, Any]) -> dict[str, Any]:
    """What is told of a row or an annotation, a fault only where there is one."""
    return {key: value for key, value in content.items() if key != "fault" or value}


def marked_or_fault(make: Callable[[], Annotation], where: str) -> Annotation:
    """An annotation, or one of no place that says why, `where` it was found."""
    try:
        return make()
    except LimelightError as error:
        return Annotation(fault=f"{where} marks nothing: {error}")
    except (ValueError, TypeError, AttributeError, KeyError, OverflowError) as error:
        return Annotation(fault=f"{where} is broken ({error})")


def with_faults(rows: Iterable[Sample]) -> Samples:
    """Rows, and behind each of them a row for every annotation that is broken.

    Raises LimelightError where all are.
    """
    listed = list(rows)
    if listed and all(row.fault for row in listed):
        raise LimelightError(listed[0].fault)
    broken = [
        [Sample(f"{row.name}: an annotation", row.source, fault=a.fault)
         for a in row.annotations if a.fault] for row in listed
    ]  # fmt: skip
    return Samples(r for row, others in zip(listed, broken, strict=True) for r in (row, *others))


def file_size(source: str | Path) -> int:
    """The bytes of a file; 0 where there is none to look at, -1 where it cannot be found."""
    try:
        return Path(source).stat().st_size if source else 0
    except (OSError, ValueError):  # a name too long, or with a zero byte
        return -1


def _named(rows: Iterable[Sample]) -> list[Sample]:
    """Rows with names made unique: a second `dog` becomes `dog (2)`."""
    named: dict[str, Sample] = {}
    turns: dict[str, Iterator[int]] = {}
    for row in rows:
        name = row.name
        while name in named:
            name = f"{row.name} ({next(turns.setdefault(row.name, count(2)))})"
        named[name] = row if name == row.name else replace(row, name=name)
    return list(named.values())
