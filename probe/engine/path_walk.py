"""Path methods as they are run: all points under one open probe, several of them in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from ..attribution import RAW, BoundMethod, Path, Points, RawMap, use
from ..sites import Address
from ..targets import Target
from .batch import Batch, chunks
from .moved_inputs import MovedInput
from .passes import Passes


@dataclass(frozen=True)
class Walker:
    """A path method, its path through each input that moves, and where it reads at the points."""

    bound: BoundMethod
    paths: tuple[Path, ...]
    reads: tuple[Address, ...] = ()


Group = Sequence[Walker]


def bases_of(group: Group) -> list[tuple[BoundMethod, Sequence[Address]]]:
    """The site method that each path method reads at its points, and where."""
    bases = [own.paths[0].base for own in group]
    return [
        (BoundMethod(RAW) if base == "raw" else replace(use(base)), own.reads)
        for base, own in zip(bases, group, strict=True)
    ]


def walk(
    passes: Passes,
    group: Group,
    batch: Batch,
    moved: Sequence[MovedInput],
    target: Target,
    generators: Sequence[Generator],
    limit: int,
) -> list[RawMap]:
    """Visit the points that a group of path methods shares; their maps, in the order of the group.

    passes      the open probe that reads `bases_of` the group
    moved       the inputs that move together, each from its start to its end
    generators  one per sample, asked point after point whatever passes together
    limit       how many inputs pass the model at a time, at least the batch
    """
    points = [path.points for path in group[0].paths]
    ends = [one.layout.canonical(one.x) for one in moved]
    places_of = {one.site: i for i, one in enumerate(moved)}
    states: dict[int, Any] = {}
    raw_maps: list[RawMap] = []
    for turns in chunks(points[0].count, max(1, limit // len(batch))):
        steps = _steps(points, ends, turns, generators)
        inputs = {
            one.name: one.layout.restore(step, one.x.shape, one.x.dtype)
            for one, step in zip(moved, steps, strict=True)
        }
        places = [*range(len(batch))] * len(turns)
        raw_maps = passes.raw_maps(batch.take(places).with_inputs(inputs), target.take(places))
        owners = _owners(passes, group, raw_maps)
        for i, (raw, own) in enumerate(zip(raw_maps, owners, strict=True)):
            path = own.paths[places_of.get(raw.source.value.site, 0)]
            for k, reading in zip(turns, raw.values.chunk(len(turns)), strict=True):
                states[i] = path.fold(states.get(i), reading, k)
    maps = []
    for i, (raw, own) in enumerate(zip(raw_maps, owners, strict=True)):
        place = places_of.get(raw.source.value.site, 0)
        path, end = own.paths[place], ends[place]
        if path.line is not None:
            end = end - path.starts(end)
            end = end if raw.part is None else raw.part(end)
        source = replace(raw.source, bound=own.bound)
        maps.append(
            replace(raw, source=source, values=path.finish(states[i], points[0].count, end.cpu()))
        )
    return maps


def _steps(
    points: Sequence[Points],
    ends: Sequence[Tensor],
    turns: range,
    generators: Sequence[Generator],
) -> list[Tensor]:
    """Some points of every sample, `point b` in front, for each input that moves."""
    steps: list[list[Tensor]] = [[] for _ in ends]
    for k in turns:
        for i, generator in enumerate(generators):
            for step, point, end in zip(steps, points, ends, strict=True):
                step.append(point(end[i], k, generator))
    return [torch.stack(step) for step in steps]


def _owners(passes: Passes, group: Group, raw_maps: Sequence[RawMap]) -> list[Walker]:
    """The path method that each raw map belongs to."""
    owner = {id(base): own for (base, _), own in zip(passes.patterns, group, strict=True)}
    return [owner[id(raw.source.bound)] for raw in raw_maps]
