"""Dimensions as products of axes, so that a reshape loses none of their names.

A dimension is a row of factors, slowest first: `(b t) c y x` has four dimensions, the first of two
factors. What a reshape splits and later joins again is the same axis afterwards: heads become
channels, windows the rows and columns they were cut from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

PLACES = ("n", "t", "f", "z", "y", "x")
USUAL_PLACES = {1: ("t",), 2: ("y", "x"), 3: ("t", "y", "x")}


class Axis:
    """A direction of values, nameless until an op or the user says what it is.

    twins  axes that an op went along together with this one, element by element
    """

    __slots__ = ("name", "twins")

    whole: Factor | None = None
    segments: tuple[Segment, ...] = ()

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.twins: tuple[Axis, ...] = ()

    def call(self, name: str) -> None:
        """Give the axis, and those that go along with it, a name."""
        todo: list[Axis] = [self]
        while todo:
            axis = todo.pop()
            axis.name = name
            todo += [twin for twin in axis.twins if not twin.name]


class Piece(Axis):
    """A part that a reshape cut off: of what, the sizes of all parts, and which one it is."""

    __slots__ = ("part", "sizes", "whole")

    def __init__(self, whole: Factor, sizes: tuple[int, ...], part: int) -> None:
        super().__init__()
        self.whole, self.sizes, self.part = whole, sizes, part


class Chain(Axis):
    """Dimensions one after another; None for values that do not depend on the input."""

    __slots__ = ("segments",)

    def __init__(self, name: str, segments: tuple[Segment, ...]) -> None:
        super().__init__(name)
        self.segments = segments


class Choice(Axis):
    """Places or channels picked from a dimension, by a list of which."""

    __slots__ = ("chosen", "source")

    def __init__(self, name: str, source: Dimension, chosen: Tensor) -> None:
        super().__init__(name)
        self.source, self.chosen = source, chosen


class Factor(NamedTuple):
    """An axis and how many steps it has here."""

    axis: Axis
    size: int


Dimension = tuple[Factor, ...]
Segment = tuple[Dimension | None, int]
Dimensions = tuple[Dimension, ...]


def dimension(size: int, name: str = "") -> Dimension:
    """A dimension of a new axis."""
    return (Factor(Axis(name), size),)


def dimensions(shape: Sequence[int], names: Iterable[str] = ()) -> Dimensions:
    """New axes for a shape; the first ones get the names."""
    given = (*names, *[""] * len(shape))
    return tuple(dimension(size, name) for size, name in zip(shape, given, strict=False))


def length(dim: Dimension) -> int:
    return dim[0][1] if len(dim) == 1 else prod(factor.size for factor in dim)


def resized(dim: Dimension, size: int) -> Dimension:
    """The same places, more or fewer of them, as a convolution or a slice leaves them."""
    if len(dim) == 1:
        return dim if dim[0][1] == size else (Factor(dim[0].axis, size),)
    if length(dim) == size:
        return dim
    roots = {root(factor.axis) for factor in dim}
    if len(roots) == 1:
        return (Factor(roots.pop(), size),)
    return dimension(size, "n" if all(axis.name in PLACES for axis in roots) else "")


def joined(segments: Sequence[Segment]) -> Dimension:
    """Dimensions one after another."""
    known = [dim for dim, _ in segments if dim is not None]
    size = sum(size for _, size in segments)
    names = {dim[0].axis.name if len(dim) == 1 else "n" for dim in known}
    flat: list[Segment] = []
    for dim, part in segments:
        inner = dim[0].axis.segments if dim is not None and len(dim) == 1 else ()
        flat += inner if sum(s for _, s in inner) == part and inner else [(dim, part)]
    return (Factor(Chain(names.pop() if len(names) == 1 else "", tuple(flat)), size),)


def sliced(dim: Dimension, start: int, stop: int) -> Dimension:
    """A run of places. Segments that it holds whole stay what they are."""
    size = stop - start
    if size == length(dim):
        return dim
    held, at = [], 0
    for segment, part in dim[0].axis.segments if len(dim) == 1 else ():
        if start <= at and at + part <= stop:
            held.append((segment, part))
        at += part
    if not held or sum(part for _, part in held) != size:
        return resized(dim, size)
    if len(held) == 1 and held[0][0] is not None:
        return held[0][0]
    return joined(held)


def picked(dim: Dimension, chosen: Tensor) -> Dimension:
    """Some of the places or channels of a dimension, in the order of a list.

    A list that undoes an earlier one gives back what was there, as tokens return from the experts
    they were sorted by; each k times over, where each had been taken k times.
    """
    factor, size = sole(dim), len(chosen)
    chosen = chosen.detach() % max(length(dim), 1)
    if factor is not None and isinstance(factor.axis, Choice):
        dim, chosen = factor.axis.source, factor.axis.chosen[chosen]
    times = size // max(length(dim), 1)
    places = torch.arange(length(dim), device=chosen.device)
    if times and torch.equal(chosen, places.repeat_interleave(times)):
        return dim if times == 1 else (*dim, Factor(Axis(), times))
    return (Factor(Choice(_name_of_some(dim), dim, chosen), size),)


def some_of(dim: Dimension, size: int) -> Dimension:
    """Some of the places or channels of a dimension, nobody knows which."""
    return dimension(size, _name_of_some(dim))


def _name_of_some(dim: Dimension) -> str:
    """Places that were picked lie in no order."""
    factor = sole(dim)
    names = {root(f.axis).name for f in dim} if factor is None else {factor.axis.name}
    if names.issubset(PLACES):
        return "n"
    return "" if factor is None else factor.axis.name


def reshaped(dims: Dimensions, shape: Sequence[int]) -> Dimensions:
    """What a view of another shape makes of the dimensions; new axes where it mixes them."""
    if shape[-1:] == (length(dims[-1]),) if dims else False:  # around a linear layer
        if len(shape) == 2 and len(dims) > 2:
            return tuple(factor for dim in dims[:-1] for factor in dim), dims[-1]
        if len(dims) == 2 and (parts := _taken_apart(dims[0], shape[:-1])) is not None:
            return (*parts, dims[1])
    return _regrouped(dims, shape)


def _taken_apart(dim: Dimension, sizes: Sequence[int]) -> list[Dimension] | None:
    """The factors of a dimension as dimensions of these sizes; None where one would be split."""
    parts, at = [], 0
    for size in sizes:
        end, product = at, 1
        while end < len(dim) and (product < size or end == at):
            product *= dim[end][1]
            end += 1
        if product != size or end == at:
            return None
        parts.append(dim[at:end])
        at = end
    return parts if at == len(dim) else None


def _regrouped(dims: Dimensions, shape: Sequence[int]) -> Dimensions:
    result: list[Dimension] = []
    waiting: list[Factor] = []  # of dimensions of size 1, and remainders of those that were split
    todo = list(reversed(dims))
    for size in shape:
        if size == 1:
            result.append(_of_size_one(waiting, todo))
            continue
        taken = _take(size, waiting, todo)
        if taken is None:
            return tuple(result) + dimensions(shape[len(result) :])
        result.append(_mended(taken))
    left = [*waiting, *(factor for dim in reversed(todo) for factor in dim)]
    batch = tuple(factor for factor in left if root(factor.axis).name == "b")
    if batch and result:  # what is left are dimensions of size 1
        result[-1] = (*result[-1], *batch)
    return tuple(result)


def _of_size_one(waiting: list[Factor], todo: list[Dimension]) -> Dimension:
    """The next dimension or factor of size 1, if the next is one."""
    if not waiting and todo and len(todo[-1]) > 1 and todo[-1][0].size == 1:
        waiting[:] = todo.pop()
    if waiting and waiting[0].size == 1:
        return (waiting.pop(0),)
    if not waiting and todo and length(todo[-1]) == 1:
        return todo.pop()
    return dimension(1)


def _take(size: int, waiting: list[Factor], todo: list[Dimension]) -> list[Factor] | None:
    """The next factors whose product is `size`; one is split where it must be. None if it mixes."""
    taken: list[Factor] = []
    missing = size
    while missing > 1:
        if not waiting:
            if not todo:
                return None
            waiting[:] = todo.pop()
        factor = waiting.pop(0)
        if missing % factor.size == 0:
            taken.append(factor)
            missing //= factor.size
        elif factor.size % missing == 0:
            first, rest = _split(factor, (missing, factor.size // missing))
            taken.append(first)
            waiting.insert(0, rest)
            missing = 1
        else:
            return None
    return taken


def _split(factor: Factor, sizes: tuple[int, ...]) -> list[Factor]:
    return [Factor(Piece(factor, sizes, part), size) for part, size in enumerate(sizes)]


def _mended(factors: list[Factor]) -> Dimension:
    """Factors with pieces joined again that lie beside one another in their old order."""
    result: list[Factor] = []
    for factor in factors:
        result.append(factor)
        while (whole := _whole_of(result)) is not None:
            size = 1
            while size < whole.size:
                size *= result.pop().size
            result.append(whole)
    return tuple(result)


def _whole_of(factors: list[Factor]) -> Factor | None:
    """What the last factors were cut from, if they are all of its pieces."""
    last = factors[-1].axis
    if not isinstance(last, Piece) or last.part != len(last.sizes) - 1:
        return None
    count = len(last.sizes)
    pieces = factors[-count:]
    if len(pieces) < count:
        return None
    for part, (axis, size) in enumerate(pieces):
        same = isinstance(axis, Piece) and axis.whole is last.whole and axis.part == part
        if not same or size != last.sizes[part]:
            return None
    return last.whole


def root(axis: Axis) -> Axis:
    """The axis that a piece was cut from in the beginning."""
    while axis.whole is not None:
        axis = axis.whole.axis
    return axis


def sole(dim: Dimension) -> Factor | None:
    """The factor that a dimension consists of; None where it has several."""
    if len(dim) == 1:
        return dim[0]
    wide = [factor for factor in dim if factor.size != 1] or dim[:1]
    return wide[0] if len(wide) == 1 else None


def names_of(dims: Dimensions) -> str:
    """Dimensions in words, `b c y x`: `?` where nothing is known, `n` for places in one row.

    Windows that were folded into the batch are `b*y*x`.
    """
    return " ".join(_name_of(dim) for dim in dims)


def _name_of(dim: Dimension) -> str:
    factor = sole(dim)
    if factor is not None:
        return root(factor.axis).name or "?"
    names = [root(factor.axis).name or "?" for factor in dim]
    return "n" if all(name in PLACES for name in names) else "*".join(names)
