"""The store of a run: Parquet parts of whole shards, each written at once or not at all."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ...probe.errors import LimelightError
from ...probe.results import Row, SaliencyMap, map_columns, row_of_map
from .loader import Loaded
from .plan import RunPlan
from .sealing import SealError, seal, unseal

if TYPE_CHECKING:
    import pyarrow as pa

FOLDER = "maps"
_SAMPLES, _PLAN = "limelight.run", "limelight.plan"
_NAMED = 5
HEAL = "ask for the run again with --repair (repair=True in Python), which computes such parts anew"


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


def encode(rows: Iterable[Row], plan: RunPlan, number: int) -> bytes:
    """One shard as a Parquet file, which says whose rows it holds."""
    import pyarrow as pa

    table = pa.Table.from_pylist(list(rows), schema())
    return seal(table, {_SAMPLES: _told(plan.shards[number]), _PLAN: plan.hash})


class PartError(LimelightError):
    """A part that is not what its run would have written.

    path    its file
    reason  what is wrong with it
    """

    def __init__(self, path: Path, reason: str) -> None:
        self.path, self.reason = path, reason
        super().__init__(f"{str(path)!r} {reason}; {HEAL}")


HEAL = "ask for the run again with --repair (repair=True in Python), which computes such parts anew"


@dataclass(frozen=True, eq=False)
class Parts:
    """The parts of a folder, each held against a plan.

    done      numbers of those that are whole
    unsealed  those of an earlier version among them, which carry neither plan nor checksum
    bad       what is wrong with the others
    """

    done: set[int] = field(default_factory=set)
    unsealed: list[Path] = field(default_factory=list)
    bad: list[PartError] = field(default_factory=list)

    def distrust_unsealed(self) -> None:
        """Count parts that do not say of which plan they are among the bad ones."""
        for path in self.unsealed:
            self.done.discard(_number(path))
            self.bad.append(PartError(path, "does not say of which run it is"))
        self.unsealed.clear()

    def check(self) -> None:
        """Raise LimelightError for bad parts, all by name; note those that nobody can check."""
        if len(self.bad) == 1:
            raise self.bad[0]
        if self.bad:
            where = str(self.bad[0].path.parent)
            some = "; ".join(f"{error.path.name} {error.reason}" for error in self.bad[:_NAMED])
            more = f"; and {len(self.bad) - _NAMED} more" if len(self.bad) > _NAMED else ""
            raise LimelightError(
                f"{where!r} has {len(self.bad)} broken parts ({some}{more}); {HEAL}"
            )
        if self.unsealed:
            warnings.warn(
                f"{len(self.unsealed)} parts in {str(self.unsealed[0].parent)!r} are of an earlier "
                "version and carry no checksum: damage to their numbers would not be noticed",
                stacklevel=4,
            )


def parts_of(folder: Path, plan: RunPlan) -> Parts:
    """The parts of a folder, all of them read and held against a plan."""
    found = Parts()
    for path in part_paths(folder):
        try:
            _, sealed = _opened(path, plan)
        except PartError as error:
            found.bad.append(error)
            continue
        found.done.add(_number(path))
        if not sealed:
            found.unsealed.append(path)
    return found


def part_source(path: Path, plan: RunPlan) -> pa.BufferReader:
    """A part to be read by Parquet. Raises PartError where it is not the plan's, or damaged."""
    import pyarrow as pa

    return pa.BufferReader(_opened(path, plan)[0])


def _opened(path: Path, plan: RunPlan) -> tuple[bytes, bool]:
    """A part's bytes, and whether it carries plan and checksum."""
    try:
        file = unseal(path)
    except SealError as error:
        raise PartError(path, str(error)) from error
    held, of_plan = file.marks.get(_SAMPLES), file.marks.get(_PLAN)
    if file.sealed != (of_plan is not None):
        raise PartError(
            path, "has lost its checksum or its plan: it was changed after it was written"
        )
    number, shards = _number(path), plan.shards
    if held is None or (of_plan or plan.hash) != plan.hash:
        whose = "of no run" if held is None else f"of another run (plan {of_plan}, not {plan.hash})"
        raise PartError(path, f"holds maps {whose}")
    if not 0 <= number < len(shards) or path.name != part_path(path, number).name:
        raise PartError(path, f"is none of the run's {len(shards)} parts")
    if held != _told(shards[number]):
        raise PartError(path, f"holds samples {held}, not {_told(shards[number])}")
    return file.content, file.sealed


def _told(samples: range) -> str:
    return f"{samples.start}:{samples.stop}"


def _number(path: Path) -> int:
    """Which part a file's name says it is; -1 where it says none."""
    digits = path.stem.partition("-")[2]
    return int(digits) if digits.isdecimal() and digits.isascii() else -1


def rows(folder: Path, plan: RunPlan, columns: list[str] | None = None) -> Iterator[Row]:
    """All rows, part by part, in the order of the data set."""
    from pyarrow import parquet

    paths = part_paths(folder)
    if not paths:
        raise LimelightError(f"{str(folder)!r} holds no finished shard: run it first")
    for path in paths:
        with parquet.ParquetFile(part_source(path, plan)) as file:
            for batch in file.iter_batches(batch_size=256, columns=columns):
                yield from batch.to_pylist()
