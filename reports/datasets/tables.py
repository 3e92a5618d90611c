"""The rows of a table file: where each one stands, and what is wrong with it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import Any

from ...probe.errors import LimelightError

_WIDE = (b"\xff\xfe", b"\xfe\xff")
_LINE_END = re.compile("\r\n|\r|\n")


@dataclass(frozen=True)
class TableRow:
    """One row of a table.

    where  `line 7 of 'list.csv'`, counted from 1 as editors do
    cells  by the names of their columns, none where the row cannot be read
    fault  why it cannot be read
    """

    where: str
    cells: dict[str, Any] = field(default_factory=dict)
    fault: str = ""


@dataclass(frozen=True)
class Table:
    """The columns of a table, and its rows in their order."""

    header: tuple[str, ...]
    rows: tuple[TableRow, ...]


def read_table(path: Path) -> Table:
    """The table in a .csv, .tsv, .jsonl or .parquet file; a bad row does not end it.

    Raises LimelightError where no row can be read.
    """
    suffix = path.suffix.lower()
    reader = {".parquet": _parquet, ".jsonl": _objects}.get(suffix, _cells)
    rows = [_as_text(row) for row in reader(path)]
    good = [row for row in rows if not row.fault]
    if not good:
        raise LimelightError(rows[0].fault if rows else f"listing {str(path)!r} has no rows")
    header = tuple(dict.fromkeys(name for row in good for name in row.cells))
    whole = dict.fromkeys(header)
    return Table(header, tuple(replace(row, cells={**whole, **row.cells}) for row in rows))


def text_of(path: Path) -> str:
    """The text of a file; bytes that are no UTF-8 are kept as they are, and found later."""
    raw = path.read_bytes()
    if raw.startswith(_WIDE):
        raise LimelightError(f"{str(path)!r} is in UTF-16: save it as UTF-8")
    return raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")


def _as_text(row: TableRow) -> TableRow:
    """A row, whose texts must be UTF-8."""
    try:
        json.dumps(row.cells, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        fault = f"{row.where} holds characters that are no UTF-8: save the file as UTF-8"
        return TableRow(row.where, fault=fault)
    except (ValueError, RecursionError):  # numbers without end, lists in lists in lists
        return TableRow(row.where, fault=f"{row.where} holds no cells of a table")
    return row


def _cells(path: Path) -> Iterator[TableRow]:
    """The rows of a .csv or .tsv, each with the line it begins on."""
    tabs = path.suffix.lower() == ".tsv"
    text = StringIO(text_of(path), newline="")
    lines = csv.reader(text, delimiter="\t" if tabs else ",", strict=True)
    header: list[str] = []
    while True:
        before = lines.line_num
        where = f"line {before + 1} of {path.name!r}"
        try:
            cells = next(lines)
        except StopIteration:
            return
        except csv.Error as error:
            yield TableRow(where, fault=f"{where} cannot be read: {error}{_lost(lines, before)}")
            continue
        if not header:
            header = _unique(cells, where)
        elif cells:
            yield _under(header, cells, where)


def _lost(lines: Any, before: int) -> str:
    """What a quote that is never closed takes with it."""
    last = lines.line_num
    return f", and with it the lines to {last}: close its quote" if last > before + 1 else ""


def _unique(header: list[str], where: str) -> list[str]:
    if twice := next((name for name in header if name and header.count(name) > 1), None):
        raise LimelightError(f"{where} names the column {twice!r} twice: rename one")
    return header


def _under(header: list[str], cells: list[str], where: str) -> TableRow:
    if len(cells) == len(header):
        return TableRow(where, dict(zip(header, cells, strict=True)))
    fault = f"{where} has {len(cells)} cells, but the first line names {len(header)} columns"
    return TableRow(where, fault=fault)


def _objects(path: Path) -> Iterator[TableRow]:
    """The rows of a .jsonl, an object a line."""
    for number, line in enumerate(_LINE_END.split(text_of(path)), 1):
        where = f"line {number} of {path.name!r}"
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
        except json.JSONDecodeError as error:
            fault = f"{where} is no JSON: {error.msg} at column {error.colno}"
            yield TableRow(where, fault=fault)
        except (ValueError, RecursionError):
            yield TableRow(where, fault=f"{where} is no JSON that can be read: it is too deep or "
                           "its numbers too long")  # fmt: skip
        else:
            fault = f"{where} holds {json.dumps(cells)[:40]}, which is no object with names"
            yield TableRow(where, cells) if isinstance(cells, dict) else TableRow(where, {}, fault)


def _parquet(path: Path) -> Iterator[TableRow]:
    from pyarrow import ArrowException, parquet

    try:
        table = parquet.ParquetFile(path).read()
    except (ArrowException, OSError) as error:
        reason = f"{error}".partition("\n")[0][:160]
        raise LimelightError(f"listing {str(path)!r} cannot be read: {reason}") from error
    _unique(table.column_names, f"listing {path.name!r}")
    for start in range(0, len(table), _AT_ONCE):
        yield from _parquet_rows(table.slice(start, _AT_ONCE), start, path.name)


_AT_ONCE = 1024


def _parquet_rows(part: Any, start: int, name: str) -> Iterator[TableRow]:
    """Some rows; one by one where one of them holds what Python has no value for."""
    try:
        for place, cells in enumerate(part.to_pylist(), start + 1):
            yield TableRow(f"row {place} of {name!r}", cells)
    except (ValueError, OverflowError) as error:
        if len(part) > 1:
            for place in range(len(part)):
                yield from _parquet_rows(part.slice(place, 1), start + place, name)
            return
        where = f"row {start + 1} of {name!r}"
        yield TableRow(where, fault=f"{where} cannot be read: {str(error)[:120]}")
