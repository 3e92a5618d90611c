"""The store of a run: Parquet parts of whole shards, each written at once or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...probe.errors import LimelightError
from ...probe.results import SaliencyMap
from ...probe.sites import Site, parse
from .loader import Loaded

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER = "maps"
Row = dict[str, Any]


@cache
def schema() -> pa.Schema:
    """The columns of a part.

    index       number of the sample in the data set
    values      float16, row by row; times `scale` they are the raw values
    y, x        rows and columns; x is null for maps over tokens, `shape` tells all others
    extent      the part of the input covered: top, left, bottom, right
    crop        the part of the picture that was the input: left, top, right, bottom
    error       why there is no map
    """
    import pyarrow as pa

    text = ("sample", "source", "label", "target", "method", "site", "axes")
    return pa.schema(
        [
            ("index", pa.int64()),
            *((name, pa.string()) for name in text),
            ("y", pa.int32()),
            ("x", pa.int32()),
            ("shape", pa.list_(pa.int32())),
            ("lo", pa.float64()),
            ("hi", pa.float64()),
            ("scale", pa.float64()),
            ("values", pa.list_(pa.float16())),
            ("extent", pa.list_(pa.float32())),
            ("crop", pa.list_(pa.float32())),
            ("class", pa.int32()),
            ("score", pa.float64()),
            ("kept", pa.float64()),
            ("error", pa.string()),
        ]
    )


def row_of(loaded: Loaded, m: SaliencyMap) -> Row:
    """One map as a row."""
    values = m.values.detach().double().cpu()
    finite = values[values.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    small = values / scale if scale else values
    shape = list(values.shape)
    return {
        **_named(loaded),
        "target": m.target,
        "method": m.method,
        "site": str(m.site),
        "axes": m.axes,
        "y": shape[0] if shape else 1,
        "x": shape[1] if len(shape) > 1 else None,
        "shape": shape,
        "lo": float(finite.min()) if finite.numel() else None,
        "hi": float(finite.max()) if finite.numel() else None,
        "scale": scale,
        "values": small.flatten().numpy().astype(np.float16),
        "extent": list(m.extent),
        "crop": list(loaded.crop),
        "class": m.about.of_class,
        "score": m.about.score,
        "kept": m.about.kept,
    }


def error_row(loaded: Loaded, error: str) -> Row:
    """A sample without maps, and why."""
    return {**_named(loaded), "error": error}


def _named(loaded: Loaded) -> Row:
    row = loaded.sample
    label = None if row.label is None else str(row.label)
    return {"index": loaded.place, "sample": row.name, "source": row.source, "label": label}


def map_of(row: Mapping[str, Any]) -> SaliencyMap:
    """A row as the map it stores, in float32."""
    values = np.asarray(row["values"], np.float32) * np.float32(row["scale"])
    shape = [int(n) for n in row["shape"]]
    return SaliencyMap(
        torch.from_numpy(values.astype(np.float32).reshape(shape)),
        row["axes"],
        row["sample"],
        row["target"],
        row["method"],
        _site(row["site"]),
        tuple(float(edge) for edge in row["extent"]),
    )


def _site(text: str) -> Site:
    found = parse(text)
    return Site(found.path, found.port, found.call or 0, found.index)


def part_path(folder: Path, number: int) -> Path:
    return folder / FOLDER / f"part-{number:05d}.parquet"


def encode(rows: Iterable[Row], samples: range) -> bytes:
    """One shard as a Parquet file, which says whose rows it holds."""
    import pyarrow as pa
    from pyarrow import parquet

    own = schema().with_metadata({"limelight.run": f"{samples.start}:{samples.stop}"})
    sink = BytesIO()
    parquet.write_table(pa.Table.from_pylist(list(rows), own), sink, compression="zstd")
    return sink.getvalue()


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
            held = (file.schema_arrow.metadata or {}).get(b"limelight.run", b"").decode()
            size = file.metadata.num_row_groups and path.stat().st_size
    except (ArrowException, OSError, ValueError) as error:
        return f"cannot be read ({str(error).partition(chr(10))[0][:80]})"
    if held != f"{samples.start}:{samples.stop}":
        return f"holds samples {held or 'of no run'}, not {samples.start}:{samples.stop}"
    return "" if size else "is empty"


def rows(folder: Path, columns: list[str] | None = None) -> Iterator[Row]:
    """All rows, part by part, in the order of the data set."""
    from pyarrow import parquet

    paths = sorted((folder / FOLDER).glob("part-*.parquet"))
    if not paths:
        raise LimelightError(f"{str(folder)!r} holds no finished shard: run it first")
    for path in paths:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256, columns=columns):
                yield from batch.to_pylist()
