"""The same plan on an actor pool: Ray Data maps shards to parts, on one machine or a cluster."""

from __future__ import annotations

import logging
import os
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from ...probe.errors import LimelightError
from .ray_cluster import joined
from .worker import Work, local

_AGAIN = 3  # how often a shard whose actor died is tried again


class Actor:
    """One copy of the model; computes whole shards and hands back finished parts."""

    def __init__(self, work: Any) -> None:
        import ray
        import torch

        torch.set_num_threads(1)
        self.work = ray.get(work[0])

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        numbers = [int(n) for n in batch["id"]]
        parts = [part for _, part in local(self.work, numbers, workers=0)]
        return {"number": np.asarray(numbers), "part": np.asarray(parts, dtype=object)}


def pool(address: str | None) -> Callable[[Work, Sequence[int], int], Iterator[tuple[int, bytes]]]:
    """The engine on the cluster at an address; None is a cluster of this machine."""
    return partial(compute, address=address)


def compute(
    work: Work, todo: Sequence[int], workers: int, address: str | None = None
) -> Iterator[tuple[int, bytes]]:
    """Parts as they are finished, in any order.

    workers   actors, at least one
    address   of a cluster, else RAY_ADDRESS, else one is started here
    Raises LimelightError where Ray is missing or nothing answers at the address.
    """
    if not todo:
        return
    ray = _ray()
    with joined(ray, address):
        yield from _mapped(ray, work, todo, max(1, workers))


def _mapped(ray: Any, work: Work, todo: Sequence[int], actors: int) -> Iterator[tuple[int, bytes]]:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = False
    shared = _put(ray, work)
    numbers = ray.data.from_items([{"id": n} for n in todo], override_num_blocks=len(todo))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of how Ray spells the two retries
        parts = numbers.map_batches(
            Actor,
            fn_constructor_args=([shared],),  # in a list: Ray hands on the reference itself
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(actors, len(todo))),
            max_restarts=_AGAIN,
            max_task_retries=_AGAIN,
        )
    for row in parts.iter_rows():
        yield int(row["number"]), bytes(row["part"])


def _put(ray: Any, work: Work) -> Any:
    """Hand over the work; what scripts of the user define travels along, workers have no copy."""
    from ray import cloudpickle

    scripts = _scripts(work)
    for module in scripts:
        cloudpickle.register_pickle_by_value(module)
    try:
        return ray.put(work)
    finally:
        for module in scripts:
            cloudpickle.unregister_pickle_by_value(module)


def _scripts(work: Work) -> list[ModuleType]:
    """The modules of methods, network parts and a transform that no installed package holds."""
    places = {bound.method.function.__module__ for bound in work.bounds}
    photos = work.preparation.photos
    if photos is not None and (transform := photos.transform) is not None:
        places.add(str(getattr(transform, "__module__", "")))
    places |= {type(part).__module__ for part in work.net.modules()}
    packaged = tuple(sysconfig.get_paths()[name] for name in ("purelib", "platlib", "stdlib"))
    modules = [sys.modules.get(name) for name in places if name.split(".")[0] != "limelight"]
    return [
        module
        for module in modules
        if module is not None
        and module.__name__ != "__main__"
        and not str(getattr(module, "__file__", None) or packaged[0]).startswith(packaged)
    ]


def _ray() -> Any:
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise LimelightError(
            "engine 'ray' needs Ray Data, which is not installed: pip install 'limelight[ray]'"
        ) from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray
