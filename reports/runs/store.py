"""The store of a run: Parquet parts of whole shards, each written at once or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ...probe.errors import LimelightError
from ...probe.results import Row, SaliencyMap, map_columns, parquet_bytes, row_of_map
from .loader import Loaded

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

FOLDER = "maps"
_KEY = "limelight.run"


@cache
def schema() -> pa.Schema:
    """The columns of a part: those of a map in float16, and these.

    index       number of the sample in the data set
    source      its path or prompt; label as the data tell it
    y, x        rows and columns; x is null for maps over tokens, `shape` tells all others
    crop        the part of the picture that was the input: left, top, right, bottom
    class       what the target is about; score its value, kept the relevance that arrived
    error       why there is no map
    """
    import pyarrow as pa

    of_map = map_columns("float16")
    return pa.schema(
        {
            "index": pa.int64(),
            "sample": of_map.pop("sample"),
            "source": pa.string(),
            "label": pa.string(),
            **{name: of_map.pop(name) for name in ("target", "method", "site", "axes")},
            "y": pa.int32(),
            "x": pa.int32(),
            **of_map,
            "crop": pa.list_(pa.float32()),
            "class": pa.int32(),
            "score": pa.float64(),
            "kept": pa.float64(),
            "error": pa.string(),
        }
    )


def run_row(loaded: Loaded, m: SaliencyMap) -> Row:
    """One map of a sample as a row."""
    row = row_of_map(m, "float16")
    shape = row["shape"]
    return {
        **row,
        **_of_sample(loaded),
        "y": shape[0] if shape else 1,
        "x": shape[1] if len(shape) > 1 else None,
        "crop": list(loaded.ready.box) if loaded.ready is not None else [],
        "class": m.about.of_class,
        "score": m.about.score,
        "kept": m.about.kept,
    }


def error_row(loaded: Loaded, error: str) -> Row:
    """A sample without maps, and why."""
    return {**_of_sample(loaded), "error": error}


def _of_sample(loaded: Loaded) -> Row:
    row = loaded.sample
    label = None if row.label is None else str(row.label)
    texts = {"sample": row.name, "source": row.source, "label": label}
    return {"index": loaded.place, **{key: _readable(text) for key, text in texts.items()}}


def _readable(text: str | None) -> str | None:
    """A text as UTF-8; bytes of a file name that are none are written out, `caf\\xe9.png`."""
    if text is None or not any("\ud800" <= sign <= "\udfff" for sign in text):
        return text
    raw = text.encode("utf-8", "surrogateescape")
    return raw.decode("utf-8", "backslashreplace")


def part_path(folder: Path, number: int) -> Path:
    return folder / FOLDER / f"part-{number:05d}.parquet"


def part_paths(folder: Path) -> list[Path]:
    """The finished parts of a run, in the order of its data."""
    return sorted((folder / FOLDER).glob("part-*.parquet"))


def encode(rows: Iterable[Row], samples: range) -> bytes:
    """One shard as a Parquet file, which says whose rows it holds."""
    import pyarrow as pa

    marked = schema().with_metadata({_KEY: f"{samples.start}:{samples.stop}"})
    return parquet_bytes(pa.Table.from_pylist(list(rows), marked))


def finished(folder: Path, shards: list[range]) -> tuple[set[int], list[str]]:
    """The shards whose parts are whole; and what is wrong with parts that are not."""
    done: set[int] = set()
    bad: list[str] = []
    for number, samples in enumerate(shards):
        path = part_path(folder, number)
        if path.exists():
            reason = _damage(path, samples)
            if reason:
                bad.append(f"{path.name} {reason}: it is computed again")
            else:
                done.add(number)
    return done, bad


def _damage(path: Path, samples: range) -> str:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            held = _samples_in(file)
            size = file.metadata.num_row_groups and path.stat().st_size
    except (ArrowException, OSError, ValueError) as error:
        return f"cannot be read ({str(error).partition(chr(10))[0][:80]})"
    if held != f"{samples.start}:{samples.stop}":
        return f"holds samples {held or 'of no run'}, not {samples.start}:{samples.stop}"
    return "" if size else "is empty"


def _samples_in(file: ParquetFile) -> str:
    return (file.schema_arrow.metadata or {}).get(_KEY.encode(), b"").decode()


def rows(folder: Path, columns: list[str] | None = None) -> Iterator[Row]:
    """All rows, part by part, in the order of the data set."""
    from pyarrow import parquet

    paths = part_paths(folder)
    if not paths:
        raise LimelightError(f"{str(folder)!r} holds no finished shard: run it first")
    for path in paths:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256, columns=columns):
                yield from batch.to_pylist()
