"""Heads of a model as grids of a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from ...probe.results.panels import Heat


def head_grids(
    values: Mapping[str, Tensor],
    names: Sequence[tuple[int, int]],
    marks: Sequence[tuple[int, int]],
    note: str,
) -> list[Heat]:
    """Layers by heads, a grid for each of `values`, `h` by title; `marks` are outlined."""
    from ...probe.results.panels import Heat

    layers, heads = (1 + max(column) for column in zip(*names, strict=True))
    ticks = [str(i) for i in range(layers)], [str(i) for i in range(heads)]
    panels = []
    for title, numbers in values.items():
        grid = np.full((layers, heads), np.nan)
        for (layer, head), value in zip(names, numbers.tolist(), strict=True):
            grid[layer, head] = value
        panels.append(Heat(title, grid, ("layer", "head", title), ticks, marks, note))
    return panels
