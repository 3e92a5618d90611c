"""Path methods as they are run: all points under one open probe, several of them in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor

from ..attribution import RAW, BoundMethod, Path, RawMap, Sites, use
from ..axes import Layout
from ..targets import Target
from .batch import Batch, chunks
from .passes import Passes

Group = Sequence[tuple[BoundMethod, Path]]


def bases_of(group: Group, sites: Sites) -> list[BoundMethod]:
    """The site method that each path method reads at its points."""
    return [
        BoundMethod(RAW, (), "input")
        if path.base == "raw"
        else replace(use(path.base), sites=bound.sites or sites or bound.method.sites)  # type: ignore[arg-type]
        for bound, path in group
    ]


def walk(
    passes: Passes,
    group: Group,
    batch: Batch,
    layout: Layout,
    target: Target,
    generators: Sequence[Generator],
    limit: int,
) -> list[RawMap]:
    """Visit the points that a group of path methods shares; their maps, in the order of the group.

    passes      the open probe that reads `bases_of` the group
    layout      how methods, and so the points of a path, read the input
    generators  one per sample, asked point after point whatever passes together
    limit       how many inputs pass the model at a time, at least the batch
    """
    points = group[0][1].points
    states: dict[int, Any] = {}
    x = layout.canonical(batch.x)
    for turns in chunks(points.count, max(1, limit // len(batch))):
        inputs = _inputs(points, x, turns, generators)
        inputs = layout.restore(inputs, batch.x.shape, batch.x.dtype)
        places = [*range(len(batch))] * len(turns)
        raw_maps = passes.raw_maps(batch.take(places).with_x(inputs), target.take(places))
        owners = _owners(passes, group, raw_maps)
        for i, (raw, (_, path)) in enumerate(zip(raw_maps, owners, strict=True)):
            for k, values in zip(turns, raw.values.chunk(len(turns)), strict=True):
                states[i] = path.fold(states.get(i), values, k)
    return [
        replace(
            raw,
            source=replace(raw.source, bound=bound),
            values=path.finish(states[i], points.count, x.cpu()),
        )
        for i, (raw, (bound, path)) in enumerate(zip(raw_maps, owners, strict=True))
    ]


def _inputs(points: Any, x: Tensor, turns: range, generators: Sequence[Generator]) -> Tensor:
    """Some points of every sample, `point b` in front."""
    return torch.stack([points(x[i], k, g) for k in turns for i, g in enumerate(generators)])


def _owners(
    passes: Passes, group: Group, raw_maps: Sequence[RawMap]
) -> list[tuple[BoundMethod, Path]]:
    """The path method that each raw map belongs to."""
    owner = {id(base): own for (base, _), own in zip(passes.patterns, group, strict=True)}
    return [owner[id(raw.source.bound)] for raw in raw_maps]
