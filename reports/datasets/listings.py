"""Listings: tables of pictures with what is marked in them, or of whatever a model takes."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...models.inputs import address_fault
from ...probe.errors import LimelightError, near
from ...probe.targets import class_in
from .columns import ROWS, InputColumn, in_header, kind_of_file, named_in
from .parts import Part, Parts
from .samples import Annotation, Open, Sample, Samples, file_size, marked_or_fault, with_faults
from .signals import Signal, number, read_signal
from .tables import Table, TableRow, read_table

SOURCES = ("path", "image", "file", "file_name", "filename", "source")
LABELS = ("label", "class", "target", "category")
NAMES = ("name", "id")
BOXES = ("left", "top", "right", "bottom")
TEXTS = ("text", "prompt", "clean", "positive")
ENDINGS = (".csv", ".tsv", ".parquet", ".jsonl")

_LONG = 60

Cells = Mapping[str, Any]


def is_listing(path: Path) -> bool:
    """Whether a file is a listing by its ending."""
    return path.suffix.lower() in ENDINGS


def listing(path: Path, root: Path, inputs: Sequence[InputColumn] = ()) -> Samples:
    """A table: of pictures, one row an annotation, with path, label, and left top right bottom or
    mask if there are any; or of other inputs, one row a sample.

    inputs  which columns are inputs, and of what kind; else their names say it (`series`,
            `features.age`), or, of a path, the ending of the file
    Rows of one picture are one sample; its label is that of its first row, and a row that marks
    nothing but has another label is a sample of its own. A row that cannot be read says why.
    """
    table = read_table(path)
    header = list(table.header)
    if inputs:
        reserved = (*LABELS, *NAMES, *SOURCES, *BOXES, "mask", "value", "difficult")
        columns = tuple(in_header(c, header, reserved, str(path)) for c in inputs)
    else:
        columns = _said_by_names(table, path)
    if all(c.kind == "picture" for c in columns) and [c.argument for c in columns] == ["0"]:
        return _of_pictures(table, columns[0].columns[0], root, path)
    return _of_parts(table, columns, path.resolve(), root.resolve())


def _said_by_names(table: Table, path: Path) -> tuple[InputColumn, ...]:
    """A column of paths holds what the ending of its first file says, unless names say all."""
    named = named_in(table.header)
    source = next((word for word in SOURCES if word in table.header), None)
    if source is None and named:
        return named
    source = source or _column(table.header, SOURCES, path)
    dotted = named_in([name for name in table.header if "." in name])
    first = next((row.cells[source] for row in table.rows if row.cells[source]), "")
    column = InputColumn(kind_of_file(str(first)), (source,))
    return (column, *(InputColumn(c.kind, c.columns, str(n), c.names)
                      for n, c in enumerate(dotted, 1)))  # fmt: skip


def _of_pictures(table: Table, source: str, root: Path, path: Path) -> Samples:
    groups: dict[str, list[tuple[str, Sample]]] = defaultdict(list)
    label = next((word for word in LABELS if word in table.header), "")
    for row in table.rows:
        fault = row.fault or _odd_path(row, source) or _odd_label(row, label)
        if fault:
            groups[f"\0{row.where}"] = [(row.where, Sample(row.where, str(path), fault=fault))]
            continue
        name = str(row.cells[source])
        marked = tuple(_annotation(row, label, root))
        sample = Sample(name, str(root / name), label_in(row.cells.get(label)), marked)
        groups[name].append((row.where, sample))
    return with_faults(sample for group in groups.values() for sample in _joined(group))


def _joined(group: Sequence[tuple[str, Sample]]) -> Iterator[Sample]:
    """Rows of one picture as one sample, and those of other labels that mark nothing.

    A row that adds nothing to those above it is left out, and says so.
    """
    (line, first), *rest = group
    yield replace(first, annotations=tuple(a for _, row in group for a in row.annotations))
    held = {first.label, *(a.label for _, row in group for a in row.annotations)}
    for where, row in rest:
        if row.annotations:
            continue
        if row.label is None or row.label in held:
            again = f"{where} says of {row.name!r} what {line} says: it is left out"
            yield Sample(where, first.source, fault=again)
        else:
            held.add(row.label)
            yield row


def _odd_path(row: TableRow, source: str) -> str:
    """Why a cell names no file."""
    cell = row.cells[source]
    if cell is None or cell == "":
        return f"{row.where} has no {source}"
    if not isinstance(cell, (str, int)) or "\0" in str(cell):
        return f"{row.where}: {source} {str(cell)[:_LONG]!r} is no path of a file"
    return address_fault(str(cell), f"{row.where}: {source}")


def _odd_label(row: TableRow, label: str) -> str:
    """Why a cell names no class."""
    cell = row.cells.get(label)
    try:
        if cell is None or (isinstance(cell, (str, int, float)) and label_in(cell) is not None):
            return ""
    except ValueError:  # digits without end
        pass
    return "" if cell == "" else f"{row.where}: {label} {str(cell)[:_LONG]!r} names no class"


def _of_parts(table: Table, columns: tuple[InputColumn, ...], path: Path, root: Path) -> Samples:
    """A sample a row, opened to the parts that the columns hold."""
    label = next((word for word in LABELS if word in table.header), "")
    named = next((word for word in NAMES if word in table.header), "")
    used = [name for column in columns for name in column.columns]
    pictured = any(c.kind == "picture" for c in columns) and "mask" not in used
    listed, state = [], hashlib.sha256(" ".join(map(str, columns)).encode())
    for place, row in enumerate(table.rows, 1):
        fault = row.fault or _odd_label(row, label) or _odd_files(row, columns)
        if fault:
            listed.append(Sample(row.where, str(path), fault=fault))
            continue
        cells = row.cells
        files = [root / cells[name] for name in _files(columns) if _is_path(cells[name])]
        name = str(cells[named]) if named else _name(columns, cells) or f"row {place}"
        source = str(files[0]) if files else f"{path}, row {place}"
        marked = tuple(_annotation(row, label, root)) if pictured else ()
        listed.append(Sample(name, source, label_in(cells.get(label)), marked))
        told = [cells[name] for name in used], [file_size(file) for file in files]
        state.update(json.dumps(told, default=str).encode())
    if all(row.fault for row in listed):
        raise LimelightError(listed[0].fault)
    cells_of = [row.cells for row in table.rows]
    return Samples(listed, open=_opener(cells_of, columns, root), digest=state.hexdigest())


def _odd_files(row: TableRow, columns: Sequence[InputColumn]) -> str:
    paths = (name for name in _files(columns) if _is_path(row.cells[name]))
    return next(filter(None, (_odd_path(row, name) for name in paths)), "")


def _opener(rows: Sequence[Cells], columns: tuple[InputColumn, ...], root: Path) -> Open:
    def open_row(place: int, row: Sample) -> tuple[Parts, Sample]:
        cells = rows[place]
        return Parts(tuple(_part(column, cells, root) for column in columns)), row

    return open_row


def _part(column: InputColumn, cells: Cells, root: Path) -> Part:
    """One input of a row. Raises LimelightError for what its cells do not hold."""
    if column.kind in ROWS:
        values = torch.tensor([number(cells[n], f"column {n!r}") for n in column.columns])
        names = (column.names or column.columns) if column.kind == "features" else ()
        axes = "c" if column.kind == "features" else "t"
        return Part(column.kind, column.argument, Signal(column.kind, values, axes, tuple(names)))
    (name,) = column.columns
    cell = cells[name]
    if cell is None or cell == "":
        raise LimelightError(f"column {name!r} is empty: give the {column.kind} of every row")
    if column.kind == "sentence":
        return Part("sentence", column.argument, str(cell))
    if column.kind in ("picture", "mask"):
        return Part(column.kind, column.argument, str(root / str(cell)))
    source = root / cell if _is_path(cell) else cell
    return Part(column.kind, column.argument, read_signal(column.kind, source))


def _files(columns: Sequence[InputColumn]) -> list[str]:
    return [c.columns[0] for c in columns if c.kind not in (*ROWS, "sentence")]


def _is_path(cell: Any) -> bool:
    return isinstance(cell, str) and bool(cell)


def _name(columns: Sequence[InputColumn], row: Cells) -> str:
    """The files and sentences of a row: `dog.jpg + a dog`."""
    cells = (row[column.columns[0]] for column in columns if column.kind not in ROWS)
    words = filter(_is_path, cells)
    return " + ".join(word if len(word) <= _LONG else f"{word[:_LONG]}…" for word in words)


def _column(header: Sequence[str], known: Sequence[str], path: Path) -> str:
    column = next((word for word in known if word in header), None)
    if column is None:
        hint = near(known[0], header)
        numbers = "; say inputs='features:*' where its numbers are features" * (known is SOURCES)
        raise LimelightError(
            f"listing {str(path)!r} has the columns {', '.join(header)}, but none of "
            f"{', '.join(known)}{hint or numbers}"
        )
    return column


def _annotation(row: TableRow, label: str, root: Path) -> list[Annotation]:
    """What a row marks: nothing, one object, or one that is broken and says why."""
    cells = row.cells
    if not cells.get("mask") and all(cells.get(word) in (None, "") for word in BOXES):
        return []
    return [marked_or_fault(lambda: _object_in(cells, label, root), row.where)]


def _object_in(cells: Cells, label: str, root: Path) -> Annotation:
    """Raises LimelightError, or ValueError and the like, for what marks nothing."""
    corners = {word: cells.get(word) for word in BOXES}
    empty = [word for word, cell in corners.items() if cell in (None, "")]
    if empty and len(empty) < len(BOXES):
        raise LimelightError(f"its box has no {' and no '.join(empty)}")
    left, top, right, bottom = (0.0 if empty else _edge(*corner) for corner in corners.items())
    box = None if empty else (left, top, right, bottom)
    mask, value = cells.get("mask"), cells.get("value")
    hard = str(cells.get("difficult", "")).lower() in ("1", "true", "yes")
    number = None if value in (None, "") else int(value)
    where = str(root / mask) if mask else ""
    return Annotation(label_in(cells.get(label)), box, where, number, (), hard)


def _edge(word: str, cell: Any) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError):
        raise LimelightError(f"{word} {str(cell)[:_LONG]!r} is no number") from None


def label_in(value: Any) -> int | str | None:
    """The label in a cell, a number or a name; None in an empty one."""
    if value is None or value == "":
        return None
    return class_in(str(value))


def prompts(path: Path, root: Path, inputs: Sequence[InputColumn] = ()) -> Samples:
    """Prompts, one JSON object a line: `text` or `prompt`, and whatever else its task needs.

    Lines that hold none of these but inputs of a model are a listing.
    """
    table = read_table(path)
    known = any(word in table.header for word in (*SOURCES, *TEXTS))
    text = any(word in table.header for word in TEXTS)
    if inputs or (not text and (known or named_in(table.header))):
        return listing(path, root, inputs)
    key = _column(table.header, TEXTS, path)
    return Samples(_prompt(row, key, n, path) for n, row in enumerate(table.rows))


def _prompt(row: TableRow, key: str, place: int, path: Path) -> Sample:
    cells = row.cells
    label = "label" if cells.get("label") is not None else "answer"
    fault = row.fault or _odd_label(row, label)
    if not fault and not isinstance(cells[key], str):
        fault = f"{row.where} has no {key}"
    if fault:
        return Sample(row.where, str(path), fault=fault)
    name = cells.get("name")
    return Sample(str(place if name is None else name), cells[key], label_in(cells.get(label)))


def of_files(paths: Sequence[Path], kind: str, argument: str = "0", root: Path | None = None
             ) -> Samples:  # fmt: skip
    """Files that are samples of one kind, named by their paths under a root; else by themselves.

    Under a root, the folder that holds one is its label.
    """

    def named(path: Path) -> str:
        return path.name if root is None else path.relative_to(root).as_posix()

    def open_file(place: int, row: Sample) -> tuple[Any, Sample]:
        if kind == "picture" and argument == "0":
            return row.source, row
        content: Any = row.source
        if kind not in ("picture", "mask", "sentence"):
            content = read_signal(kind, Path(row.source))
        return Parts((Part(kind, argument, content),)), row

    labels = [None if root in (None, path.parent) else path.parent.name for path in paths]
    rows = [Sample(named(p), str(p.resolve()), x) for p, x in zip(paths, labels, strict=True)]
    return Samples(rows, open=open_file, digest=f"{argument}={kind}")
