"""Whole calls of modules: what one was given and what it returned, to be used again."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..sites import Site
from .pytree import exchange, leaves
from .value import Value


class Held:
    """Any container of tensors, detached; each tensor is a Value, saved before it is overwritten.

    values  by place, as `leaves` names them
    """

    __slots__ = ("_whole", "values")

    def __init__(self, whole: Any) -> None:
        self._whole = exchange(whole, lambda _, x: x.detach())
        self.values = {
            place: Value(Site("", place or "out"), x, None) for place, x in leaves(self._whole)
        }

    @classmethod
    def of(cls, value: Value) -> Held:
        """One captured value. Raises ProbeError where it was overwritten unseen."""
        held = cls(value.act)
        held.values[""] = value
        return held

    @property
    def whole(self) -> Any:
        """The container as it was. Raises ProbeError where a tensor was overwritten unseen."""

        def now(place: str, x: Tensor) -> Tensor:
            act = self.values[place].act
            return x if act is x else act

        return exchange(self._whole, now)


class ModuleCall:
    """One call of a module: its arguments, its keywords, what it returned."""

    __slots__ = ("_given", "returned")

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        self._given, self.returned = Held((args, kwargs)), Held(output)

    @property
    def values(self) -> list[Value]:
        """All tensors of the call."""
        return [*self._given.values.values(), *self.returned.values.values()]

    @property
    def given(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments and keywords."""
        args, kwargs = self._given.whole
        return args, kwargs

    @property
    def output(self) -> Any:
        """What the module returned."""
        return self.returned.whole
