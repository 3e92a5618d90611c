"""Path methods: one map averaged over many perturbed inputs; equal paths share their passes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Generator, Tensor

from ..axes import Layout


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
class Path:
    """What a path method does: visit `points`, read `base` at each, fold the readings.

    fold    (state or None, reading, k) -> state; readings are `b` and the positions, or
            `b c` and the positions when base is `raw` (the gradient itself)
    finish  (state, count, x) -> the map; x is `b c` and the places
    at      (layout, x) -> the path for inputs laid out as x is, where it matters
    """

    points: Points
    base: str
    fold: Callable[[Any, Tensor, int], Any]
    finish: Callable[[Any, int, Tensor], Tensor]
    at: Callable[[Layout, Tensor], Path] | None = None
