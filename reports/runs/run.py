"""Runs over data sets: maps stream to Parquet shard by shard, and a stopped run goes on."""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ...models import load
from ...models.inputs import (
    Labels,
    Numbers,
    Preprocessing,
    PreprocessingOptions,
    Sides,
    Transform,
    class_names,
)
from ...probe.attribution import Axes, BoundMethod, Data, Methods, Sites, Targets, bound_methods
from ...probe.capture import Undo, keeps_model
from ...probe.errors import OptionError
from ...probe.results import Maps, map_of_row, write
from ...probe.sites import addresses, named
from ..datasets import InputWords, preparation, samples, with_embeddings, with_names
from . import store
from .counts import check_counts
from .folder import claim
from .plan import (
    LABEL,
    RunPlan,
    RunTarget,
    as_dtype,
    flat_targets,
    make_plan,
    target_of,
)
from .store import Row
from .worker import Work, local

if TYPE_CHECKING:
    from pandas import DataFrame

Progress = Callable[[int, int, str], None]
Engine = Callable[[Work, Sequence[int], int], Iterator[tuple[int, bytes]]]


@dataclass(frozen=True)
class Run:
    """A run's folder: its plan, its rows, what failed. `pandas.read_parquet(run.maps_folder)`."""

    folder: Path

    @property
    def plan(self) -> RunPlan:
        return RunPlan.load(self.folder)

    @property
    def maps_folder(self) -> Path:
        return self.folder / store.FOLDER

    @property
    def missing(self) -> int:
        """Samples whose shards are not finished."""
        plan = self.plan
        done = store.parts_of(self.folder, plan).done
        return sum(len(s) for n, s in enumerate(plan.shards) if n not in done)

    def check(self) -> None:
        """Hold every part against plan and checksum; say what is not computed yet.

        Raises LimelightError for broken ones.
        """
        plan = self.plan
        parts = store.parts_of(self.folder, plan)
        parts.check()
        left = sum(len(s) for n, s in enumerate(plan.shards) if n not in parts.done)
        if left and parts.done:
            warnings.warn(
                f"{left} of {plan.samples} samples of {str(self.folder)!r} are not computed: run "
                "it again to finish it",
                stacklevel=3,
            )

    def table(self, columns: list[str] | None = None) -> DataFrame:
        """The rows of all finished shards as a pandas table."""
        import pandas

        return pandas.DataFrame(list(self.rows(columns)))

    def rows(self, columns: list[str] | None = None) -> Iterator[Row]:
        """The rows one by one, part by part: memory stays flat. Raises for a broken part."""
        return store.rows(self.folder, self.plan, columns)

    def maps(self, **where: str) -> Maps:
        """The stored maps, filtered as `Maps.where` does."""
        features = self.plan.told.get("features", {})
        stored = (map_of_row(row) for row in self.rows() if row["error"] is None)
        return Maps(with_names(m, features) for m in stored).where(**where)

    def failed(self) -> dict[str, str]:
        """Samples without maps, and why."""
        rows = self.rows(["sample", "error"])
        return {row["sample"]: row["error"] for row in rows if row["error"] is not None}


@keeps_model
def run(
    folder: str | Path,
    model: str | nn.Module,
    data: Data,
    methods: Methods,
    *,
    sites: Sites = None,
    target: Targets = "top",
    weights: str | Path | None = "default",
    batch: int | str = "auto",
    shard: int = 32,
    seed: int = 0,
    device: str | None = None,
    dtype: str | None = None,
    workers: int = 1,
    limit: int | None = None,
    labels: Labels | None = None,
    size: Sides | None = None,
    resize: Sides | None = None,
    interpolation: str | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    transform: Transform | None = None,
    inputs: InputWords | None = None,
    axes: Axes = None,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    repair: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    **hyper: object,
) -> Run:
    """Maps of a whole data set, streamed to `folder/maps/part-*.parquet`.

    model    a name of the zoo, with `weights` and hyper-parameters as `limelight.load` takes them,
             or a network; random weights are those of the seed, so that their run can go on
    data     a folder of pictures, paths, a listing, a data set: see `limelight.samples`
    target   as on the command line, `top`, `top:3`, `least`, `label` (the class of each sample),
             a class, or targets made in Python
    shard    samples in one part, the unit of resuming
    workers  processes that decode pictures ahead of the model; 0 decodes in this one
    limit    the first so many samples only
    labels   class names in place of the model's: a list, a dict by index, a file
    size     with resize, interpolation, mean, std: in place of what the model tells of itself;
             transform, a function that makes its input of a photo; see `limelight.preprocess`
    inputs   which columns of a listing, or what kind of files, the model takes, as
             `limelight.samples` does; mean and std are then those of the channels or features
    axes     what dimensions mean where the model does not tell: `{"input": "b c t"}`
    engine   `ray` runs the same plan on an actor pool (pip install limelight[ray])
    address  of a Ray cluster, `head:6379` or `auto`; without it Ray starts on this machine
    repair   compute broken parts anew, and write plan.json where it is lost; what is whole but of
             another run stays beside, under a name that begins with _
    force    begin also in a folder that holds files of another kind
    Run again, it computes only what is missing; another plan in the same folder is refused. A
    sample that cannot be read or run becomes a row with its error. An interrupt finishes the open
    shard first. Raises LimelightErrors for what is wrong with the plan itself.

    Example:
        >>> found = ll.run("run", digits, [ll.example("flower")], ["gradcam"])
        >>> len(found.maps()), found.failed()
        (1, {})
    """
    compute = _engine(engine, address)
    options = PreprocessingOptions(size, resize, interpolation, mean, std, transform)
    names = None if labels is None else class_names(labels)
    asked = RunRequest(model, data, methods, sites=sites, target=target, weights=weights,
                       batch=batch, shard=shard, seed=seed, device=device, dtype=dtype,
                       limit=limit, labels=names, options=options, inputs=inputs, axes=axes,
                       hyper=hyper)  # fmt: skip
    check_counts(seed, limit, workers)
    root = Path(folder).expanduser()
    with Undo() as undo:
        _keep_mode(model, undo)
        work = prepare(asked)
        done = claim(root, work.plan, repair=repair, force=force)
        _finish(root, work, done, compute, workers, progress)
    return Run(root)


def _keep_mode(model: str | nn.Module, undo: Undo) -> None:
    """Modules of the caller's network that train, train again afterwards."""
    for module in model.modules() if isinstance(model, nn.Module) else ():
        if module.training:
            undo.note(setattr, module, "training", True)


def _is_at(p: Tensor, device: str | None, dtype: torch.dtype | None) -> bool:
    """Whether a parameter is where, and what, it is to be."""
    there = device is None or p.device == torch.empty(0, device=device).device
    return there and (dtype is None or not p.is_floating_point() or p.dtype == dtype)


def _finish(
    root: Path,
    work: Work,
    done: set[int],
    compute: Engine,
    workers: int,
    progress: Progress | None,
) -> None:
    """Compute and write the shards that are not done; an interrupt waits for the open one."""
    shards = work.plan.shards
    todo = [number for number in range(len(shards)) if number not in done]
    with Undo() as undo:
        stop = _hear_interrupts(undo)
        for number, part in compute(work, todo, workers):
            write(store.part_path(root, number), part)
            done.add(number)
            count = sum(len(shards[n]) for n in done)
            if progress is not None:
                progress(count, work.plan.samples, work.samples[shards[number][-1]].name)
            if stop.is_set():
                raise KeyboardInterrupt


def _engine(name: str, address: str | None) -> Engine:
    """What computes shards. Raises OptionError."""
    if name not in ("local", "ray"):
        raise OptionError(f"engine {name!r} is unknown: write 'local' or 'ray'")
    if address is not None and name != "ray":
        raise OptionError(f"address {address!r} is a Ray cluster's: ask for engine='ray' with it")
    if name == "local":
        return local
    from .ray_engine import pool

    return pool(address)


@dataclass(frozen=True, eq=False)
class RunRequest:
    """What a run is to compute, as the caller wrote it: see `run`."""

    model: str | nn.Module
    data: Any
    methods: Any
    sites: Sites = None
    target: Any = "top"
    weights: str | Path | None = "default"
    batch: int | str = "auto"
    shard: int = 32
    seed: int = 0
    device: str | None = None
    dtype: str | None = None
    limit: int | None = None
    labels: tuple[str, ...] | None = None
    options: PreprocessingOptions = field(default_factory=PreprocessingOptions)
    inputs: InputWords | None = None
    axes: Axes = None
    hyper: Mapping[str, Any] = field(default_factory=dict)

    def _loaded(self, name: str) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return load(name, self.weights, **self.hyper)

    def network(self) -> nn.Module:
        """The model in eval mode, on its device and in its type."""
        device, dtype = self.device, as_dtype(self.dtype)
        if not isinstance(self.model, nn.Module):
            return self._loaded(self.model).to(device=device, dtype=dtype)
        if all(_is_at(p, device, dtype) for p in self.model.parameters()):
            return self.model.eval()  # `run` puts its mode back
        return deepcopy(self.model).eval().to(device=device, dtype=dtype)


def prepare(asked: RunRequest) -> Work:
    """Everything a run needs, checked. Raises LimelightErrors."""
    net = asked.network()
    rows = samples(asked.data, inputs=asked.inputs)
    rows = rows if asked.limit is None else rows[: asked.limit]
    bounds = tuple(_with_paths(net, bound) for bound in bound_methods(asked.methods))
    wanted = flat_targets(asked.target)
    sites = None if asked.sites is None else [named(net, s) for s in addresses(asked.sites)]
    used = preparation(net, rows, asked.options, asked.axes)
    plan = make_plan(net, used, rows, bounds, [str(s) for s in sites or ()], wanted,
                     shard=asked.shard, seed=asked.seed, labels=asked.labels)  # fmt: skip
    plan.told["data"] = list(rows.origin)
    plan.told["axes"] = dict(asked.axes or {})
    plan.told["options"] = {k: v for k, v in asked.options.said.items() if k != "transform"}
    known = tuple(_with_embedding(net, target, used.photos) for target in wanted)
    return Work(plan, net, used, rows, bounds, sites, known, asked.batch, asked.labels)


def _with_embedding(net: nn.Module, target: RunTarget, photos: Preprocessing | None) -> RunTarget:
    """A target that names a picture with its embedding; others as they were written."""
    made = target_of(target, []) if target != LABEL else None
    if made is None or made.query is None:
        return target
    return with_embeddings(net, [made], photos)[0]


def _with_paths(net: nn.Module, bound: BoundMethod) -> BoundMethod:
    """A method whose own sites hold no modules, so that a plan can tell them in words."""
    if bound.sites is None or isinstance(bound.sites, str):
        return bound
    paths = tuple(named(net, site) for site in addresses(bound.sites))
    return replace(bound, sites=paths if len(paths) > 1 else paths[0])


def _hear_interrupts(undo: Undo) -> threading.Event:
    """The first interrupt sets the event, so that the open shard is finished; the second stops."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        return stop

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    undo.note(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT) or signal.SIG_DFL)
    signal.signal(signal.SIGINT, ask)
    return stop
