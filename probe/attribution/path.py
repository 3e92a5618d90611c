"""Path methods: one map averaged over many perturbed inputs; equal paths share their passes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

from ..axes import Layout
from ..errors import MethodError


class Points(Hashable, Protocol):
    """The inputs of a path. Equal points are visited once, whoever asks."""

    @property
    def count(self) -> int:
        """How many inputs the path has."""
        ...

    def __call__(self, x: Tensor, k: int, generator: Generator) -> Tensor:
        """The k-th input for ONE sample `x`: `c` and the places, no batch dimension.

        The generator is that sample's own and is asked in the order k = 0, 1, ...
        """
        ...


@dataclass(frozen=True)
class Line:
    """A straight path, which a layer can follow too, from its value at the start.

    start  one sample x, `c` and the places -> where its path begins; it ends at x
    nodes  how far along each point lies: 0 is the start, 1 the end
    """

    start: Callable[[Tensor], Tensor]
    nodes: tuple[float, ...]


@dataclass(frozen=True)
class Path:
    """What a path method does: visit `points`, read `base` at each, fold the readings.

    fold    (state or None, reading, k) -> state; readings are `b` and the positions, or
            `b c` and the positions when base is `raw` (the gradient itself)
    finish  (state, count, x) -> the map; x is `b c` and the places; for a line, how far it goes:
            its end less its start, and of that what the map is about
    at      (layout, x) -> the path for inputs laid out as x is, where it matters
    line    of a path through the very value that `raw` reads, at the input or at any layer
    """

    points: Points
    base: str
    fold: Callable[[Any, Tensor, int], Any]
    finish: Callable[[Any, int, Tensor], Tensor]
    at: Callable[[Layout, Tensor], Path] | None = None
    line: Line | None = None

    def starts(self, x: Tensor) -> Tensor:
        """Where the lines of samples begin, which end at x: `b c` and the places."""
        if self.line is None:
            raise MethodError("this path is no line, so it has no start")
        return torch.stack([self.line.start(sample) for sample in x])
