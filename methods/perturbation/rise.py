"""RISE: random masks, each weighted by the score that the masked input gets."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Annotated

import torch
from torch import Generator, Tensor

from ...probe.attribution import Count, Range, pass_method
from ...probe.engine import Runner
from ...probe.results import interpolate
from ...probe.targets import Target
from .copies import own_layout


@pass_method("rise", perturbs=True)
def rise(
    runner: Runner,
    x: Tensor,
    target: Target,
    *,
    n: Count = 1000,
    cells: Count = 7,
    p: Annotated[float, Range(0, 1, open=True)] = 0.5,
    batch: Count = 64,
) -> Tensor:
    """sum_k score(x * m_k) m_k / (n p) over n masks, `cells` cells a side kept with chance p each.

    Features of a table, which lie in no order, are kept or not on their own. The paper reads
    probabilities: `target=label(..., of="probability")`. `batch` masks are held at a time.
    Source: Petsiuk, Das, Saenko, arXiv 1806.07421.
    """
    layout, (generator,) = runner.layout, runner.generators()
    sample = layout.canonical(x)[0]
    shape = tuple(sample.shape[1:])
    wide = torch.promote_types(x.dtype, torch.float32)
    total = torch.zeros(shape, dtype=wide)
    for start in range(0, n, batch):
        size = min(batch, n - start)
        masks = torch.stack([
            kept(shape, p, generator) if layout.axes == "c" else mask(shape, cells, p, generator)
            for _ in range(size)
        ])  # fmt: skip
        masked = own_layout(sample * masks[:, None].to(sample), layout, x)
        scores = runner.scores(masked, target.take([0] * size))
        total += torch.einsum("k,k...->...", scores.to(total), masks.to(total))
    return (total / (n * p))[None].to(x.device)


def kept(shape: Sequence[int], p: float, generator: Generator) -> Tensor:
    """1 where something is kept, each place on its own with chance p."""
    drawn = torch.rand(tuple(shape), generator=generator, dtype=torch.float32)
    return (drawn < p).float()


def mask(shape: Sequence[int], cells: int, p: float, generator: Generator) -> Tensor:
    """One soft mask over places: a coarse random grid, enlarged linearly, at a random shift."""
    steps = [ceil(side / cells) for side in shape]
    grid = kept([cells] * len(shape), p, generator)
    shift = [int(torch.randint(step, (1,), generator=generator)) for step in steps]
    large = interpolate(grid[None, None], [(cells + 1) * step for step in steps])[0, 0]
    return large[tuple(slice(at, at + side) for at, side in zip(shift, shape, strict=True))]
