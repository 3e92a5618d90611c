"""Runs over data sets: maps stream to Parquet shard by shard, and a stopped run goes on."""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ..models import load
from ..models.recipe import Recipe, recipe
from ..probe.batch import Batch
from ..probe.calls import about_model, maps_and_output
from ..probe.errors import LimelightError, OptionError, TargetError
from ..probe.registry import Bound, use
from ..probe.results import Maps
from ..probe.runner import Sites
from ..probe.storage import write
from . import parts
from .feed import Loaded, feed
from .parts import Row, error_row, row_of
from .run_plan import (
    LABEL,
    RunPlan,
    as_dtype,
    flat_targets,
    make_plan,
    same_or_refuse,
    target_of,
)
from .samples import Samples
from .sources import samples

if TYPE_CHECKING:
    from pandas import DataFrame

Progress = Callable[[int, int, str], None]
_TOGETHER = 16


@dataclass(frozen=True)
class Run:
    """A run's folder: its plan, its rows, what failed. `pandas.read_parquet(run.maps_folder)`."""

    folder: Path

    @property
    def plan(self) -> RunPlan:
        return RunPlan.load(self.folder)

    @property
    def maps_folder(self) -> Path:
        return self.folder / parts.FOLDER

    @property
    def missing(self) -> int:
        """Samples whose shards are not finished."""
        shards = self.plan.shards
        done, _ = parts.finished(self.folder, shards)
        return sum(len(s) for n, s in enumerate(shards) if n not in done)

    def table(self, columns: list[str] | None = None) -> DataFrame:
        """The rows of all finished shards as a pandas table."""
        import pandas

        return pandas.DataFrame(list(parts.rows(self.folder, columns)))

    def rows(self, columns: list[str] | None = None) -> Iterator[Row]:
        """The rows one by one, part by part: memory stays flat."""
        return parts.rows(self.folder, columns)

    def maps(self, **where: str) -> Maps:
        """The stored maps, filtered as `Maps.where` does."""
        stored = (parts.map_of(row) for row in self.rows() if row["error"] is None)
        return Maps(stored).where(**where)

    def failed(self) -> dict[str, str]:
        """Samples without maps, and why."""
        found = self.rows(["sample", "error"])
        return {row["sample"]: row["error"] for row in found if row["error"] is not None}


@dataclass(frozen=True, eq=False)
class Work:
    """All that an engine needs to compute any shard of a plan.

    proven  holds something as soon as one sample has come through
    """

    plan: RunPlan
    net: nn.Module
    how: Recipe
    samples: Samples
    bounds: tuple[Bound, ...]
    sites: Sites
    targets: tuple[Any, ...]
    batch: int | str
    proven: list[bool] = field(default_factory=list)

    def rows(self, loaded: Sequence[Loaded]) -> list[Row]:
        """The rows of some samples; those that cannot be read or run become rows that say so."""
        found: dict[int, list[Row]] = {
            one.place: [error_row(one, one.error)] for one in loaded if one.tensor is None
        }
        for group in _alike([one for one in loaded if one.tensor is not None]):
            found.update(self._group(group))
        return [row for one in loaded for row in found[one.place]]

    def _group(self, group: Sequence[Loaded]) -> dict[int, list[Row]]:
        """Samples of one shape together; when that fails, one by one, to find the culprit."""
        if LABEL in self.targets:
            bare = [one for one in group if one.sample.label is None]
            told = "the run's target is the label, but this sample has none"
            found = {one.place: [error_row(one, told)] for one in bare}
            group = [one for one in group if one.sample.label is not None]
            return {**found, **(self._tried(group) if group else {})}
        return self._tried(group)

    def _tried(self, group: Sequence[Loaded]) -> dict[int, list[Row]]:
        try:
            found = self._computed(group)
            self.proven.append(True)
            return found
        except Exception as error:
            if self._is_mistake(error):
                raise
            if len(group) == 1:
                text = f"{type(error).__name__}: {error}"
                return {group[0].place: [error_row(group[0], text)]}
        return {place: rows for one in group for place, rows in self._tried([one]).items()}

    def _is_mistake(self, error: Exception) -> bool:
        """Whether the plan itself is wrong, and not one sample: nothing has come of it so far."""
        own = isinstance(error, TargetError) and LABEL in self.targets
        return isinstance(error, LimelightError) and not own and not self.proven

    def _computed(self, group: Sequence[Loaded]) -> dict[int, list[Row]]:
        places = tuple(one.place for one in group)
        x = input_of(torch.stack([one.tensor for one in group]), self.net)  # type: ignore[misc]
        labels = [one.sample.label for one in group]
        names = [str(place) for place in places]
        made, _ = maps_and_output(
            self.net,
            Batch((x,), {}, places),
            list(self.bounds),
            target=[target_of(one, labels) for one in self.targets],
            sites=self.sites,
            samples=names,
            batch=self.batch,
            seed=self.plan.seed,
            about=about_model(self.net, self.plan.seed),
        )
        by_place = {one.place: one for one in group}
        found: dict[int, list[Row]] = {place: [] for place in places}
        for m in made:
            one = by_place[int(m.sample)]
            found[one.place].append(row_of(one, m))
        return found


def _alike(loaded: Sequence[Loaded]) -> list[list[Loaded]]:
    """Samples in groups of one shape and a size that memory takes."""
    groups: dict[tuple[int, ...], list[Loaded]] = {}
    for one in loaded:
        shape = () if one.tensor is None else tuple(one.tensor.shape)
        groups.setdefault(shape, []).append(one)
    return [g[i : i + _TOGETHER] for g in groups.values() for i in range(0, len(g), _TOGETHER)]


def run(
    folder: str | Path,
    model: str | nn.Module,
    data: Any,
    methods: Any,
    *,
    sites: Sites = None,
    target: Any = "top",
    weights: str | Path | None = None,
    batch: int | str = "auto",
    shard: int = 32,
    seed: int = 0,
    device: str | None = None,
    dtype: str | None = None,
    workers: int = 1,
    limit: int | None = None,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    progress: Progress | None = None,
    **hyper: Any,
) -> Run:
    """Maps of a whole data set, streamed to `folder/maps/part-*.parquet`.

    model    a name of the zoo (with `weights` and hyper-parameters) or a network
    data     a folder of pictures, paths, a listing, a data set: see `limelight.samples`
    target   as on the command line, `top`, `top:3`, `least`, `label` (the class of each sample),
             a class, or targets made in Python
    shard    samples in one part, the unit of resuming
    workers  processes that decode pictures ahead of the model; 0 decodes in this one
    limit    the first so many samples only
    engine   `ray` runs the same plan on an actor pool (pip install limelight[ray])
    address  of a Ray cluster, `head:6379` or `auto`; without it Ray starts on this machine
    Run again, it computes only what is missing; another plan in the same folder is refused. A
    sample that cannot be read or run becomes a row with its error. An interrupt finishes the open
    shard first. Raises LimelightErrors for what is wrong with the plan itself.
    """
    if engine not in ("local", "ray"):
        raise OptionError(f"engine {engine!r} is unknown: write 'local' or 'ray'")
    if address is not None and engine != "ray":
        raise OptionError(f"address {address!r} is a Ray cluster's: ask for engine='ray' with it")
    work = prepare(model, data, methods, sites, target, weights, batch, shard, seed, device, dtype,
                   limit, hyper)  # fmt: skip
    root = Path(folder).expanduser()
    same_or_refuse(root, work.plan)
    done, bad = parts.finished(root, work.plan.shards)
    for text in bad:
        warnings.warn(text, stacklevel=2)
    todo = [number for number in range(len(work.plan.shards)) if number not in done]
    if engine == "ray":
        from .ray_engine import pool

        compute = pool(address)
    else:
        compute = local
    with _interrupts() as stop:
        for number, part in compute(work, todo, workers):
            write(parts.part_path(root, number), part)
            done.add(number)
            count = sum(len(work.plan.shards[n]) for n in done)
            if progress is not None:
                progress(count, work.plan.samples, work.samples[work.plan.shards[number][-1]].name)
            if stop.is_set():
                raise KeyboardInterrupt
    return Run(root)


def prepare(
    model: str | nn.Module,
    data: Any,
    methods: Any,
    sites: Sites,
    target: Any,
    weights: str | Path | None,
    batch: int | str,
    shard: int,
    seed: int,
    device: str | None,
    dtype: str | None,
    limit: int | None,
    hyper: dict[str, Any],
) -> Work:
    """Everything a run needs, checked."""
    net = load(model, weights, **hyper) if isinstance(model, str) else model.eval()
    net = net.to(device=device, dtype=as_dtype(dtype))
    rows = samples(data)
    rows = rows if limit is None else rows[:limit]
    single = isinstance(methods, (str, Bound)) or callable(methods)
    bounds = tuple(use(m) for m in ([methods] if single else methods))
    if not bounds:
        raise LimelightError("no method was asked for; `limelight methods` lists them")
    wanted = flat_targets(target)
    named = [sites] if isinstance(sites, str) or not isinstance(sites, Iterable) else list(sites)
    how = recipe(net)
    plan = make_plan(net, how, rows, bounds, [str(s) for s in named if s is not None], wanted,
                     shard=shard, seed=seed)  # fmt: skip
    plan.told["data"] = list(rows.origin)
    return Work(plan, net, how, rows, bounds, sites, tuple(wanted), batch)


def local(work: Work, todo: Sequence[int], workers: int) -> Iterator[tuple[int, bytes]]:
    """Compute parts in this process, pictures decoded ahead across the borders of shards."""
    places = [place for number in todo for place in work.plan.shards[number]]
    stream = feed(work.samples, places, work.how, workers)
    for number in todo:
        rows: list[Row] = []
        for group in _taken(stream, len(work.plan.shards[number])):
            rows += work.rows(group)
        yield number, parts.encode(rows, work.plan.shards[number])


def _taken(stream: Iterator[Loaded], count: int) -> Iterator[list[Loaded]]:
    while count > 0:
        group = [next(stream) for _ in range(min(count, _TOGETHER))]
        count -= len(group)
        yield group


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """The first interrupt sets the event, so that the open shard is finished; the second stops."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    old = signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, old)


def input_of(x: Tensor, net: nn.Module) -> Tensor:
    """A batch on the model's device, floats in its precision."""
    weight = next((p for p in net.parameters() if p.is_floating_point()), None)
    if weight is None:
        return x
    return x.to(weight) if x.is_floating_point() else x.to(weight.device)
