"""Rows of a mixing map, computed from the arguments of its op when they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .value import Value


@dataclass(frozen=True, eq=False)
class MapRows:
    """A slice of queries -> those rows of the map, `b h r m`.

    mixing  mixing(rows, **arguments) -> those rows
    held    the arguments, tensors as values that nobody can overwrite
    """

    mixing: Callable[..., Tensor]
    held: Mapping[str, Any]

    def __call__(self, span: slice) -> Tensor:
        arguments = {n: x.act if isinstance(x, Value) else x for n, x in self.held.items()}
        with torch.no_grad():
            return self.mixing(span, **arguments)

    def argument(self, name: str) -> Tensor | None:
        """A tensor among the arguments; None where the call has none of that name."""
        value = self.held.get(name)
        return value.act if isinstance(value, Value) else None

    def without(self, name: str) -> MapRows:
        """The same with an argument left out."""
        return replace(self, held={**self.held, name: None})
