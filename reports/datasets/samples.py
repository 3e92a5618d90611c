"""A data set as rows: what each sample is called, where it comes from, what is to be seen in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
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
    """

    label: int | str | None = None
    box: Box | None = None
    mask: str = ""
    value: int | None = None
    polygons: tuple[tuple[float, ...], ...] = ()
    difficult: bool = False


@dataclass(frozen=True)
class Sample:
    """One row of a data set. `source` is a picture's path, or a prompt's text."""

    name: str
    source: str = ""
    label: int | str | None = None
    annotations: tuple[Annotation, ...] = ()


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
        self.open = open or _path
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
            content = {**asdict(row), "size": _size(row.source)}
            content["things"] = content.pop("annotations")  # as in the digests of earlier runs
            state.update(json.dumps(content, sort_keys=True, default=str).encode())
        return state.hexdigest()[:16]


def _path(place: int, row: Sample) -> tuple[Any, Sample]:
    return row.source, row


def _size(source: str) -> int:
    try:
        return Path(source).stat().st_size if source else 0
    except OSError:
        return -1


def _named(rows: Iterable[Sample]) -> list[Sample]:
    """Rows with names made unique: a second `dog` becomes `dog (2)`."""
    named: dict[str, Sample] = {}
    for row in rows:
        others = (f"{row.name} ({n})" for n in count(2))
        name = row.name if row.name not in named else next(n for n in others if n not in named)
        named[name] = row if name == row.name else replace(row, name=name)
    return list(named.values())
