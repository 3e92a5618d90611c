"""What the columns of a listing are: which of a model's inputs they hold, as it was said.

features:age,bmi     numbers of the row, the features of a table; wildcards too, `features:*`
steps:t*             numbers of the row, a series of one channel in the listing's order
series:ecg           files, or numbers in a list, one a row
image=picture:photo  of the model's argument `image`; without a name by position
volume               no column: the files themselves are volumes
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeAlias

from ...probe.errors import OptionError, near
from .signals import ARRAYS, PLACES
from .volumes import VOLUMES

InputWords: TypeAlias = "str | Sequence[str] | Mapping[str, str]"
"""Inputs in words, `KIND` or `KIND:COLUMNS`, several in a list, or by the model's arguments."""

ROWS = ("features", "steps")  # kinds whose columns are the numbers themselves
KINDS = ("picture", "sentence", "array", *PLACES)
_BY_NAME = tuple(kind for kind in KINDS if kind not in (*ROWS, "mask"))
_ARGUMENT = re.compile(r"\s*(\w+)\s*=(.*)", re.DOTALL)


@dataclass(frozen=True)
class InputColumn:
    """One of a model's inputs, and the columns that hold it.

    columns   none where the files of the data set are it
    argument  of the model's forward: a position, or a keyword
    names     of the features, where they are not those of the columns
    """

    kind: str
    columns: tuple[str, ...] = ()
    argument: str = "0"
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        columns = f":{','.join(self.columns)}" if self.columns else ""
        return f"{self.argument}={self.kind}{columns}"


def input_columns(inputs: InputWords) -> tuple[InputColumn, ...]:
    """The inputs that were said in words. Raises OptionError."""
    if isinstance(inputs, Mapping):
        words = [f"{argument}={text}" for argument, text in inputs.items()]
    else:
        words = [inputs] if isinstance(inputs, str) else list(inputs)
    found: list[InputColumn] = []
    for word in words:
        named = _ARGUMENT.fullmatch(word)
        place = str(sum(column.argument.isdecimal() for column in found))
        argument, text = (named[1], named[2]) if named else (place, word)
        found.append(_column(argument, text, word))
    arguments = [column.argument for column in found]
    if twice := next((a for a in arguments if arguments.count(a) > 1), None):
        raise OptionError(f"inputs={words} say the model's argument {twice!r} twice")
    if not found or (len(found) > 1 and not all(column.columns for column in found)):
        raise OptionError(
            f"inputs={words} are not understood: one kind alone, or KIND:COLUMN for each input"
        )
    return tuple(found)


def _column(argument: str, text: str, word: str) -> InputColumn:
    kind, colon, rest = text.partition(":")
    kind, columns = kind.strip(), tuple(c.strip() for c in rest.split(",") if c.strip())
    if kind not in KINDS or bool(colon) != bool(columns):
        raise OptionError(
            f"input {word!r} is not understood: write KIND or KIND:COLUMN, KIND one of "
            f"{', '.join(KINDS)}{near(kind, KINDS)}"
        )
    if kind in ROWS and not columns:
        raise OptionError(f"input {word!r} names no columns: write {kind}:* or {kind}:first,second")
    if kind not in ROWS and len(columns) > 1:
        raise OptionError(f"input {word!r} names several columns, but a {kind} is in one")
    return InputColumn(kind, columns, argument)


def in_header(
    column: InputColumn, header: Sequence[str], taken: Iterable[str], where: str
) -> InputColumn:
    """An input whose columns are those of a header, wildcards written out.

    taken  columns that no wildcard means: labels, names, paths. Raises OptionError.
    """
    found: list[str] = []
    for word in column.columns:
        if word in header:
            found.append(word)
            continue
        free = [name for name in header if name not in taken]
        matches = [name for name in free if fnmatchcase(name, word)]
        if not matches or column.kind not in ROWS:
            raise OptionError(
                f"listing {where!r} has no column {word!r} for {column.kind} (it has: "
                f"{', '.join(header)}){near(word, header)}"
            )
        found += matches
    return InputColumn(column.kind, tuple(dict.fromkeys(found)), column.argument, column.names)


def named_in(header: Sequence[str]) -> tuple[InputColumn, ...]:
    """The inputs that columns call by their names, `series` or `series.ecg`, `features.age`.

    A column `mask` marks objects; `mask.lesion` is an input. In the order of the columns.
    """
    groups: dict[str, list[str]] = {}
    for name in header:
        kind, dot, _ = name.partition(".")
        if kind in KINDS and (dot or kind in _BY_NAME):
            groups.setdefault(kind if kind in ROWS else name, []).append(name)
    return tuple(
        InputColumn(name.partition(".")[0], tuple(columns), str(place), _after_dots(columns))
        for place, (name, columns) in enumerate(groups.items())
    )


def _after_dots(columns: Sequence[str]) -> tuple[str, ...]:
    return tuple(column.partition(".")[2] or column for column in columns)


def kind_of_file(path: str | Path) -> str:
    """What a file is by its ending: `volume`, `array`, or else a `picture`."""
    name = str(path).lower()
    return "volume" if name.endswith(VOLUMES) else "array" if name.endswith(ARRAYS) else "picture"
