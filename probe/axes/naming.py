"""Names of axes as nodes give them, and what every rule reads of a node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .axis import (
    PLACES,
    USUAL_PLACES,
    Axis,
    Dimension,
    Dimensions,
    dimension,
    length,
    root,
    sole,
)

Given = Sequence[Dimensions | None]
Rule = Callable[[Any, Given, int], Dimensions]
_SIGNED = 1 << 63


class ContradictionError(Exception):
    """An op takes an axis for something else than it is known to be."""

    def __init__(self, axis: Axis, name: str, op: str) -> None:
        super().__init__(name)
        self.axis, self.name, self.op = axis, name, op


def shape_of(node: Any, nr: int = 0) -> tuple[int, ...]:
    """The shape of one of a node's outputs."""
    shape: tuple[int, ...] = node._input_metadata[nr].shape
    return shape


def signed(number: int) -> int:
    """Autograd keeps negative dimensions as unsigned numbers."""
    return number - 2 * _SIGNED if number >= _SIGNED else number


def name(dim: Dimension, what: str, op: str) -> None:
    """Name an axis that has no name yet."""
    factor = sole(dim)
    if factor is not None and factor.axis.segments and what == "c":
        for part, _ in factor.axis.segments:  # features side by side
            if part is not None and (inner := sole(part)) is not None and not inner.axis.name:
                inner.axis.call(what)
    if factor is None:  # places that were folded into channels leave one axis that has no name
        nameless = {axis for f in dim if not (axis := root(f.axis)).name}
        for axis in nameless if len(nameless) == 1 else ():
            axis.call(what)
    elif not root(factor.axis).name:
        root(factor.axis).call(what)
    elif "b" in (factor.axis.name, what) and factor.axis.name != what and factor.size != 1:
        raise ContradictionError(factor.axis, what, op)


def name_all(dims: Dimensions, names: Sequence[str], op: str) -> None:
    for dim, what in zip(dims, names, strict=True):
        name(dim, what, op)


def places(dims: Dimensions, op: str) -> None:
    """Name the axes of places that have no name, in their usual order."""
    for dim, what in zip(dims, USUAL_PLACES.get(len(dims), [""] * len(dims)), strict=True):
        factor = sole(dim)
        if factor is not None and factor.axis.name in PLACES:
            continue
        if factor is not None and factor.axis.name == "b" and factor.size != 1:
            raise ContradictionError(factor.axis, what, op)
        if factor is not None and not root(factor.axis).name:
            root(factor.axis).call(what)


def aligned(candidates: list[Dimension], size: int) -> Dimension:
    """The dimension that several have in common; names go from one to the other."""
    fitting = [dim for dim in candidates if length(dim) == size]
    if not fitting:
        return dimension(size)
    best = max(fitting, key=_known)
    named = sole(best)
    for dim in fitting:
        factor = sole(dim)
        if named is not None and factor is not None and not factor.axis.name:
            if named.axis.name:
                factor.axis.call(named.axis.name)
            elif factor.axis is not named.axis:
                _twin(factor.axis, named.axis)
    return best


def _twin(a: Axis, b: Axis) -> None:
    """What names one of two axes names the other; parts of axes follow their whole."""
    if a.whole is None and b.whole is None and b not in a.twins:
        a.twins += (b,)
        b.twins += (a,)


def _known(dim: Dimension) -> tuple[int, int]:
    """How many of the factors have a name, how many are at least pieces of one axis."""
    return sum(bool(root(f.axis).name) for f in dim), sum(bool(f.axis.whole) for f in dim)
