"""Listings: tables of pictures with what is marked in them, or of whatever a model takes."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ...probe.errors import LimelightError, near
from ...probe.targets import class_in
from .columns import ROWS, InputColumn, in_header, kind_of_file, named_in
from .parts import Part, Parts
from .samples import Annotation, Open, Sample, Samples
from .signals import Signal, number, read_signal

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
    Rows of one picture are one sample; its label is that of its first row.
    """
    rows = _table(path)
    header = list(rows[0])
    if inputs:
        reserved = (*LABELS, *NAMES, *SOURCES, *BOXES, "mask", "value", "difficult")
        columns = tuple(in_header(c, header, reserved, str(path)) for c in inputs)
    else:
        columns = _said_by_names(rows, header, path)
    if all(c.kind == "picture" for c in columns) and [c.argument for c in columns] == ["0"]:
        return _of_pictures(rows, columns[0].columns[0], root)
    return _of_parts(rows, columns, path.resolve(), root.resolve())


def _said_by_names(rows: Sequence[Cells], header: list[str], path: Path) -> tuple[InputColumn, ...]:
    """A column of paths holds what the ending of its first file says, unless names say all."""
    named = named_in(header)
    source = next((word for word in SOURCES if word in header), None)
    if source is None and named:
        return named
    source = source or _column(rows, SOURCES, path)
    dotted = named_in([name for name in header if "." in name])
    first = InputColumn(kind_of_file(str(rows[0][source])), (source,))
    return (first, *(InputColumn(c.kind, c.columns, str(n), c.names)
                     for n, c in enumerate(dotted, 1)))  # fmt: skip


def _of_pictures(rows: Sequence[Cells], source: str, root: Path) -> Samples:
    groups: dict[str, list[Cells]] = defaultdict(list)
    label = next((word for word in LABELS if word in rows[0]), "")
    for row in rows:
        groups[str(row[source])].append(row)
    listed = []
    for name, group in groups.items():
        annotations = tuple(a for row in group for a in _annotation(row, label, root))
        first = label_in(group[0].get(label))
        listed.append(Sample(name, str(root / name), first, annotations))
    return Samples(listed)


def _of_parts(
    rows: Sequence[Cells], columns: tuple[InputColumn, ...], path: Path, root: Path
) -> Samples:
    """A sample a row, opened to the parts that the columns hold."""
    label = next((word for word in LABELS if word in rows[0]), "")
    named = next((word for word in NAMES if word in rows[0]), "")
    used = [name for column in columns for name in column.columns]
    pictured = any(c.kind == "picture" for c in columns) and "mask" not in used
    listed, state = [], hashlib.sha256(" ".join(map(str, columns)).encode())
    for place, row in enumerate(rows, 1):
        files = [root / row[name] for name in _files(columns) if _is_path(row[name])]
        name = str(row[named]) if named else _name(columns, row) or f"row {place}"
        source = str(files[0]) if files else f"{path}, row {place}"
        marked = tuple(_annotation(row, label, root)) if pictured else ()
        listed.append(Sample(name, source, label_in(row.get(label)), marked))
        cells = [row[name] for name in used], [_size(file) for file in files]
        state.update(json.dumps(cells, default=str).encode())
    return Samples(listed, open=_opener(rows, columns, root), digest=state.hexdigest())


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


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _table(path: Path) -> list[dict[str, Any]]:
    if path.suffix.lower() == ".parquet":
        from pyarrow import parquet

        rows = parquet.read_table(path).to_pylist()
    elif path.suffix.lower() == ".jsonl":
        rows = _objects(path)
    else:
        tabs = path.suffix.lower() == ".tsv"
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, delimiter="\t" if tabs else ","))
    if not rows:
        raise LimelightError(f"listing {str(path)!r} has no rows")
    names = list(dict.fromkeys(name for row in rows for name in row if name is not None))
    return [{name: row.get(name) for name in names} for row in rows]


def _objects(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def _column(rows: Sequence[Cells], known: Sequence[str], path: Path) -> str:
    column = next((word for word in known if word in rows[0]), None)
    if column is None:
        hint = near(known[0], rows[0])
        numbers = "; say inputs='features:*' where its numbers are features" * (known is SOURCES)
        raise LimelightError(
            f"listing {str(path)!r} has the columns {', '.join(rows[0])}, but none of "
            f"{', '.join(known)}{hint or numbers}"
        )
    return column


def _annotation(row: Cells, label: str, root: Path) -> list[Annotation]:
    corners = [row.get(word) for word in BOXES]
    box = None if any(c in (None, "") for c in corners) else tuple(float(c) for c in corners)  # type: ignore[arg-type]
    mask = row.get("mask")
    if box is None and not mask:
        return []
    value = row.get("value")
    hard = str(row.get("difficult", "")).lower() in ("1", "true", "yes")
    where = str(root / mask) if mask else ""
    number = None if value in (None, "") else int(value)
    return [Annotation(label_in(row.get(label)), box, where, number, (), hard)]  # type: ignore[arg-type]


def label_in(value: Any) -> int | str | None:
    """The label in a cell, a number or a name; None in an empty one."""
    if value is None or value == "":
        return None
    return class_in(str(value))


def prompts(path: Path, root: Path, inputs: Sequence[InputColumn] = ()) -> Samples:
    """Prompts, one JSON object a line: `text` or `prompt`, and whatever else its task needs.

    Lines that hold none of these but inputs of a model are a listing.
    """
    rows = _objects(path)
    known = bool(rows) and any(word in rows[0] for word in (*SOURCES, *TEXTS))
    text = bool(rows) and any(word in rows[0] for word in TEXTS)
    if inputs or (rows and not text and (known or named_in(list(rows[0])))):
        return listing(path, root, inputs)
    if not rows:
        raise LimelightError(f"listing {str(path)!r} has no rows")
    key = _column(rows, TEXTS, path)
    return Samples(
        Sample(
            str(row.get("name", n)), str(row[key]), label_in(row.get("label", row.get("answer")))
        )
        for n, row in enumerate(rows)
    )


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
