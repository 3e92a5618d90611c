"""The table of scores of a run: `scores.parquet`, what it keeps, and its means."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pandas

from ...methods.metrics import interval
from ...probe.errors import LimelightError
from ...probe.results import write
from ..runs import Row, Run, SealError, put_aside, seal, unseal

if TYPE_CHECKING:
    import pyarrow as pa

FILE = "scores.parquet"
_KEY = "limelight.scores"
_LARGE = 4096
_BY = ("metric", "method", "site", "asked")
_MEANS = ("mean", "low", "high", "count", "left_out", "class_mean", "hard_mean", "hard_count")


@cache
def schema() -> pa.Schema:
    """The columns: who, which score, its value, and why there is none."""
    import pyarrow as pa

    text = ("method", "site", "asked", "metric")
    return pa.schema(
        [
            ("index", pa.int64()),
            *((name, pa.string()) for name in ("sample", "label", "target")),
            ("class", pa.int32()),
            *((name, pa.string()) for name in text),
            ("value", pa.float64()),
            ("difficult", pa.bool_()),
            ("note", pa.string()),
        ]
    )


@dataclass(eq=False)
class ScoreRows:
    """Scores as they come, packed in columns so that memory stays small."""

    tables: list[pa.Table] = field(default_factory=list)
    open: list[Row] = field(default_factory=list)

    def add(self, rows: Iterable[Row]) -> None:
        self.open += rows
        if len(self.open) >= _LARGE:
            self.pack()

    def pack(self) -> None:
        import pyarrow as pa

        if self.open:
            self.tables.append(pa.Table.from_pylist(self.open, schema()))
            self.open = []


def keep(run: Run, names: Sequence[str]) -> ScoreRows:
    """The scores that the run's folder holds, without those of some metrics; lost ones are told."""
    import pyarrow as pa
    from pyarrow import compute

    try:
        old = _opened(run.folder / FILE)
    except FileNotFoundError:
        return ScoreRows()
    except LimelightError as error:
        kept = put_aside(run.folder / FILE)
        warnings.warn(f"{error}; it is kept as {kept}", stacklevel=4)
        return ScoreRows()
    if _state_in(old) != _state(run):
        return ScoreRows()
    other = compute.invert(compute.is_in(old["metric"], pa.array(list(names))))
    return ScoreRows([old.filter(other).replace_schema_metadata(None)])


def stale(run: Run) -> list[str]:
    """The metrics in the run's folder whose scores are of other maps than it holds now."""
    try:
        old = _opened(run.folder / FILE)
    except (FileNotFoundError, LimelightError):
        return []
    if _state_in(old) in (None, _state(run)):
        return []
    return [str(name) for name in old["metric"].unique().to_pylist()]


def save(run: Run, scores: ScoreRows) -> pandas.DataFrame:
    """Write all scores at once, or none; the table."""
    import pyarrow as pa

    scores.pack()
    table = pa.concat_tables(scores.tables) if scores.tables else schema().empty_table()
    write(run.folder / FILE, seal(table, {_KEY: _state(run)}))
    return table.to_pandas()


def load(folder: Path) -> pandas.DataFrame:
    """The scores of a run's folder. Raises LimelightError where there are none."""
    try:
        return _opened(folder / FILE).to_pandas()
    except FileNotFoundError:
        raise LimelightError(
            f"{str(folder)!r} holds no scores: `limelight score` or limelight.score makes them"
        ) from None


def _opened(path: Path) -> pa.Table:
    """The table of a file. Raises FileNotFoundError, LimelightError."""
    import pyarrow as pa
    from pyarrow import parquet

    if not path.exists():
        raise FileNotFoundError(path)
    try:
        table = parquet.read_table(pa.BufferReader(unseal(path).content))
    except SealError as error:
        text = f"{str(path)!r} is damaged: it {error}; score the run again"
        raise LimelightError(text) from error
    if not set(_BY) <= set(table.schema.names):
        raise LimelightError(f"{str(path)!r} holds no scores: score the run again")
    return table


def _state_in(table: pa.Table) -> str | None:
    """Which maps a table of scores says that it is of."""
    state = (table.schema.metadata or {}).get(_KEY.encode())
    return None if state is None else state.decode("utf-8", "replace")


def _state(run: Run) -> str:
    """Which maps the scores are of."""
    return f"{run.plan.hash} {run.missing}"


def summary(scores: pandas.DataFrame) -> pandas.DataFrame:
    """Means over samples by metric, method, site and target asked for.

    low, high   the bootstrap interval of the mean, 95 %
    count       samples that count; left_out, those with NaN
    class_mean  the mean over classes of each class's mean
    hard_mean   over the difficult pictures alone, hard_count of them: a small object, and others
    """
    rows = [_mean(keys, group) for keys, group in scores.groupby(list(_BY), sort=False)]
    return pandas.DataFrame(rows, columns=[*_BY, *_MEANS])


def _mean(keys: Sequence[str], group: pandas.DataFrame) -> Row:
    scored = group[group["value"].notna()]
    mean, low, high = interval(scored["value"].tolist())
    hard = scored[scored["difficult"].astype(bool)]["value"]
    classes = scored.groupby("class")["value"].mean()
    counts = (len(scored), len(group) - len(scored))
    values = (mean, low, high, *counts, classes.mean(), hard.mean(), len(hard))
    return dict(zip((*_BY, *_MEANS), (*keys, *values), strict=True))
