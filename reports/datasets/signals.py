"""Series, tables, spectrograms, films and volumes as numbers, and what their dimensions mean."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...probe.errors import LimelightError
from .volumes import VOLUMES, read_volume

PLACES = {
    "series": "t",
    "steps": "t",
    "features": "",
    "spectrogram": "f t",
    "mask": "y x",
    "film": "t y x",
    "volume": "z y x",
}
"""The places of each kind of numbers; an `array` has those that the model gives it."""

ARRAYS = (".npy",)
TABLES = (".csv", ".tsv")


@dataclass(frozen=True, eq=False)
class Signal:
    """The numbers of one input of a sample.

    kind    a key of `PLACES`, or `array`
    values  without a batch
    axes    what the dimensions mean, `t c`; "" where they stand in the model's own order
    names   along `c`
    """

    kind: str
    values: Tensor
    axes: str
    names: tuple[str, ...] = ()


def read_signal(kind: str, source: Any) -> Signal:
    """The numbers in a file, or those that a cell of a listing holds itself.

    series   .npy, `t` or with channels; .csv and .tsv, a line a step and a column a channel
    volume   .npy, `z y x` or with channels; NIfTI; DICOM, a file of many frames or a folder
    others   .npy
    Raises LimelightError for what cannot be read or has other dimensions.
    """
    if not isinstance(source, (str, Path)):
        return of_numbers(kind, source, "the numbers in the listing")
    path = Path(source).expanduser()
    what = f"{kind} {str(source)!r}"
    suffix = path.suffix.lower()
    if not path.exists():
        raise LimelightError(f"{what} does not exist; check the path and root=")
    if kind == "volume" and (path.is_dir() or path.name.lower().endswith(VOLUMES)):
        values, axes = read_volume(path)
        return Signal(kind, torch.from_numpy(values), axes)
    if kind == "series" and suffix in TABLES:
        return _series(path, "\t" if suffix == ".tsv" else ",")
    if suffix in ARRAYS:
        return of_numbers(kind, _array(path, what), what)
    raise LimelightError(f"{what} ends in {suffix or 'nothing'!r}: give {_forms(kind)}")


def _forms(kind: str) -> str:
    more = {"series": TABLES, "volume": (*VOLUMES, "or a folder of DICOM slices")}
    return ", ".join((*ARRAYS, *more.get(kind, ())))


def of_numbers(kind: str, numbers: Any, what: str) -> Signal:
    """Numbers of a kind, whose dimensions must be its places, with channels or without."""
    try:
        values = np.asarray(numbers)
        values = values if values.dtype.kind == "c" else values.astype(np.float32)
    except (ValueError, TypeError) as error:
        raise LimelightError(f"{what} holds no array of numbers ({error})") from None
    if not values.ndim or 0 in values.shape:
        raise LimelightError(f"{what} has shape {values.shape}, which holds no numbers")
    held = torch.from_numpy(np.ascontiguousarray(values))
    if kind == "array":
        return Signal(kind, held, "")
    places = PLACES[kind]
    count = len(places.split())
    if values.ndim not in ((1,) if kind == "features" else (count, count + 1)):
        wanted = "c" if kind == "features" else f"{places}, or with channels c"
        raise LimelightError(f"{what} has shape {values.shape}, but a {kind} is {wanted}")
    known = "c" if kind == "features" else places if values.ndim == count else ""
    return Signal(kind, held, known)


def _array(path: Path, what: str) -> NDArray[Any]:
    try:
        values: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise LimelightError(f"{what} cannot be read: {error}") from None
    return values


def _series(path: Path, delimiter: str) -> Signal:
    """Lines as steps and columns as channels; a first line that is not all numbers names them."""
    what = f"series {str(path)!r}"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file, delimiter=delimiter) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LimelightError(f"{what} cannot be read: {error}") from None
    names = _names(lines[0], what) if lines else ()
    rows = lines[1:] if names else lines
    if not rows:
        raise LimelightError(f"{what} holds no step: give a line for each")
    if odd := next((i for i, row in enumerate(rows) if len(row) != len(rows[0])), None):
        raise LimelightError(
            f"{what} has {len(rows[0])} channels at first and {len(rows[odd])} at step {odd}"
        )
    values = [[number(cell, f"{what} at step {i}") for cell in row] for i, row in enumerate(rows)]
    return Signal("series", torch.tensor(values), "t c", names)


def _names(first: Sequence[str], what: str) -> tuple[str, ...]:
    """The channels' names in a first line; () where it holds values.

    Raises LimelightError for whole numbers from 0 on, which may be either, and for no name.
    """
    if [cell.strip() for cell in first] == [str(i) for i in range(len(first))]:
        raise LimelightError(
            f"{what} begins with the line {','.join(first)!r}, which may be names or values: write "
            "names of channels above the values"
        )
    if all(_is_number(cell) for cell in first):
        return ()
    if blank := [i for i, cell in enumerate(first, 1) if not cell.strip()]:
        raise LimelightError(
            f"{what} has no name above column {blank[0]}, perhaps an index: name it or leave it out"
        )
    return tuple(cell.strip() for cell in first)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def number(cell: Any, where: str) -> float:
    """A cell as a finite number. Raises LimelightError."""
    try:
        value = float(cell)
    except (TypeError, ValueError):
        value = float("nan")
    if not isfinite(value):
        held = "nothing" if cell in (None, "") else repr(cell)
        raise LimelightError(f"{where} holds {held}, which is no finite number")
    return value
