"""What ops that move, pick, join and reduce values make of their dimensions."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from .axis import (
    Dimension,
    Dimensions,
    dimension,
    dimensions,
    joined,
    length,
    picked,
    reshaped,
    resized,
    sliced,
    some_of,
)
from .naming import Given, aligned, shape_of, signed


def same(node: Any, given: Given, nr: int) -> Dimensions:
    """Ops of one tensor, element by element, and writes into a part of it."""
    return given[0] if given[0] is not None else dimensions(shape_of(node, nr))


def broadcast(node: Any, given: Given, nr: int) -> Dimensions:
    """Ops of several tensors, element by element."""
    shape = shape_of(node, nr)
    known = [dims for dims in given if dims is not None]
    if len(known) == 1 and tuple(map(length, known[0])) == shape:
        return known[0]
    return tuple(
        aligned([dims[len(dims) - i] for dims in known if i <= len(dims)], shape[len(shape) - i])
        for i in range(len(shape), 0, -1)
    )


def view(node: Any, given: Given, nr: int) -> Dimensions:
    shape, x = shape_of(node, nr), given[0]
    if x is None or 0 in shape:
        return dimensions(shape)
    return reshaped(x, tuple(shape))


def permute(node: Any, given: Given, nr: int) -> Dimensions:
    x = given[0]
    if x is None:
        return dimensions(shape_of(node))
    return tuple(x[signed(d)] for d in node._saved_dims)


def transpose(node: Any, given: Given, nr: int) -> Dimensions:
    if given[0] is None:
        return dimensions(shape_of(node))
    dims = list(given[0])
    a, b = signed(node._saved_dim0), signed(node._saved_dim1)
    dims[a], dims[b] = dims[b], dims[a]
    return tuple(dims)


def reversed_pair(node: Any, given: Given, nr: int) -> Dimensions:
    """`x.t()`."""
    return dimensions(shape_of(node)) if given[0] is None else tuple(reversed(given[0]))


def unsqueeze(node: Any, given: Given, nr: int) -> Dimensions:
    if given[0] is None:
        return dimensions(shape_of(node))
    dims, at = list(given[0]), signed(node._saved_dim)
    dims.insert(at if at >= 0 else at + len(dims) + 1, dimension(1))
    return tuple(dims)


def squeeze(node: Any, given: Given, nr: int) -> Dimensions:
    x = given[0]
    if x is None:
        return dimensions(shape_of(node))
    asked = getattr(node, "_saved_dim", None)
    listed = asked if isinstance(asked, tuple) else () if asked is None else (asked,)
    at = {signed(d) % len(x) for d in listed} if asked is not None else set(range(len(x)))
    return tuple(dim for i, dim in enumerate(x) if i not in at or length(dim) != 1)


def expand(node: Any, given: Given, nr: int) -> Dimensions:
    """Dimensions of size 1 widened, new ones in front."""
    return broadcast(node, given, nr)


def repeat(node: Any, given: Given, nr: int) -> Dimensions:
    shape, x = shape_of(node), given[0]
    if x is None:
        return dimensions(shape)
    new = len(shape) - len(x)
    return dimensions(shape[:new]) + tuple(
        resized(dim, size) for dim, size in zip(x, shape[new:], strict=True)
    )


def select(node: Any, given: Given, nr: int) -> Dimensions:
    x = given[0]
    if x is None:
        return dimensions(shape_of(node, nr))
    at = signed(node._saved_dim) % len(x)
    return (*x[:at], *x[at + 1 :])


def slice_of(node: Any, given: Given, nr: int) -> Dimensions:
    x = given[0]
    if x is None:
        return dimensions(shape_of(node))
    at = signed(node._saved_dim) % len(x)
    size = length(x[at])
    start, stop = (_within(signed(n), size) for n in (node._saved_start, node._saved_end))
    run = sliced(x[at], start, stop) if node._saved_step == 1 else x[at]
    return (*x[:at], resized(run, shape_of(node)[at]), *x[at + 1 :])


def _within(place: int, size: int) -> int:
    return max(0, min(size, place + size if place < 0 else place))


def narrow(node: Any, given: Given, nr: int) -> Dimensions:
    """One of the runs that a split makes."""
    x = given[0]
    if x is None:
        return dimensions(shape_of(node, nr))
    at = signed(node._saved_dim) % len(x)
    ends = list(accumulate(shape_of(node, i)[at] for i in range(nr + 1)))
    return (*x[:at], sliced(x[at], ends[nr] - shape_of(node, nr)[at], ends[nr]), *x[at + 1 :])


def index(node: Any, given: Given, nr: int) -> Dimensions:
    """Dimensions indexed by lists, which take their place; in front if they lie apart."""
    shape, x = shape_of(node), given[0]
    asked = {i: t for i, t in enumerate(node._saved_indices) if t is not None}
    lists = {i: places for i, t in asked.items() if (places := _places_of(t)) is not None}
    if x is None or not asked or len(lists) < len(asked):
        return dimensions(shape)
    front = min(lists) if max(lists) - min(lists) < len(lists) else 0
    rest = [dim for i, dim in enumerate(x) if i not in lists]
    return (*rest[:front], _picked_by(lists, x, shape[front]), *rest[front:])


def _places_of(chosen: Tensor) -> Tensor | None:
    """An index as a list of places; None for one of several dimensions."""
    if chosen.ndim != 1:
        return None
    return chosen.nonzero().flatten() if chosen.dtype in (torch.bool, torch.uint8) else chosen


def _picked_by(lists: dict[int, Tensor], x: Dimensions, size: int) -> Dimension:
    """What lists that run side by side pick: the dimension whose every place is taken in turn."""
    found = [picked(x[i], chosen.expand(size)) for i, chosen in lists.items()]
    whole = [dim for i, dim in zip(lists, found, strict=True) if dim is x[i]]
    return found[0] if len(found) == 1 else whole[0] if whole else dimension(size)


def index_select(node: Any, given: Given, nr: int) -> Dimensions:
    shape, x = shape_of(node, nr), given[0]
    if x is None:
        return dimensions(shape)
    at = signed(node._saved_dim) % len(x)
    return (*x[:at], picked(x[at], node._saved_index), *x[at + 1 :])


def chosen_apart(node: Any, given: Given, nr: int) -> Dimensions:
    """Some of the places or channels of a dimension, other ones for each of the rest."""
    shape, x = shape_of(node, nr), given[0]
    if x is None:
        return dimensions(shape)
    at = signed(node._saved_dim) % len(x)
    return (*x[:at], some_of(x[at], shape[at]), *x[at + 1 :])


def reduce(node: Any, given: Given, nr: int) -> Dimensions:
    shape, x = shape_of(node, nr), given[0]
    asked = getattr(node, "_saved_dim", None)
    if x is None or asked is None:
        return dimensions(shape)
    listed = asked if isinstance(asked, tuple) else (asked,)
    at = {signed(d) % len(x) for d in listed} or set(range(len(x)))
    if len(shape) == len(x):
        return tuple(resized(dim, 1) if i in at else dim for i, dim in enumerate(x))
    return tuple(dim for i, dim in enumerate(x) if i not in at)


def concatenate(node: Any, given: Given, nr: int) -> Dimensions:
    shape = shape_of(node)
    known = [dims for dims in given if dims is not None and len(dims) == len(shape)]
    if not known:
        return dimensions(shape)
    at = signed(node._saved_dim) % len(shape)
    rest = [
        aligned([dims[i] for dims in known], size) if i != at else dimension(size)
        for i, size in enumerate(shape)
    ]
    segments = _segments(node, given, at, shape[at])
    if segments is not None:
        rest[at] = joined(segments)
    return tuple(rest)


def _segments(
    node: Any, given: Given, at: int, size: int
) -> list[tuple[Dimension | None, int]] | None:
    """What lies one after another; the length of a constant follows where it is the only one."""
    lengths = [None if dims is None else length(dims[at]) for dims in given]
    missing = size - sum(n for n in lengths if n is not None)
    unknown = lengths.count(None)
    if unknown > 1 or (unknown == 0 and missing):
        return None if missing else [(d[at], length(d[at])) for d in given if d is not None]
    return [(None, missing) if dims is None else (dims[at], length(dims[at])) for dims in given]


def stack(node: Any, given: Given, nr: int) -> Dimensions:
    shape = shape_of(node)
    known = next((dims for dims in given if dims is not None), None)
    if known is None:
        return dimensions(shape)
    at = signed(node._saved_dim) % len(shape)
    return (*known[:at], dimension(shape[at]), *known[at:])


def windows(node: Any, given: Given, nr: int) -> Dimensions:
    """`x.unfold(dim, size, step)`: where the windows lie, and in the last place their inside."""
    shape, x = shape_of(node), given[0]
    if x is None:
        return dimensions(shape)
    at = signed(node._saved_dimension) % len(x)
    return (*x[:at], resized(x[at], shape[at]), *x[at + 1 :], dimension(shape[-1]))


def real_pairs(node: Any, given: Given, nr: int) -> Dimensions:
    x = given[0]
    return dimensions(shape_of(node)) if x is None else (*x, dimension(2))


def complex_pairs(node: Any, given: Given, nr: int) -> Dimensions:
    return dimensions(shape_of(node)) if given[0] is None else given[0][:-1]


def strided(node: Any, given: Given, nr: int) -> Dimensions:
    """A view by strides, as torch makes views anew whose base was written in place.

    Its strides are those of the base's dimensions, whichever order the base keeps in memory.
    """
    shape, x = shape_of(node), given[0]
    if x is None:
        return dimensions(shape)
    if len(shape) == len(x) > 2 and all(size == 1 for size in shape[2:]):
        return x  # a global pool
    orders = [tuple(range(len(x)))] + ([(0, 2, 3, 1)] if len(x) == 4 else [])
    for order in orders:
        found = _by_strides(node, x, [x[i] for i in order])
        if found is not None:
            return found
    return dimensions(shape)


def _by_strides(node: Any, x: Dimensions, stored: list[Dimension]) -> Dimensions | None:
    """The dimensions whose strides a view has, if its base is stored in this order."""
    strides: dict[int, Dimension] = {}
    step = 1
    for dim in reversed(stored):
        strides[step] = dim if length(dim) > 1 else strides.get(step, dim)
        step *= length(dim)
    offset, result = node._saved_storage_offset or 0, []
    for at, (size, stride) in enumerate(zip(node._saved_size, node._saved_stride, strict=True)):
        if size == 1:
            lone = len(x) == len(node._saved_size) and length(x[at]) == 1
            result.append(x[at] if lone else dimension(1))
            continue
        found = strides.pop(int(stride), None)
        start = 0 if found is None else int(offset) // int(stride) % length(found)
        if found is None or start + size > length(found):
            return None
        result.append(sliced(found, start, start + int(size)))
    return tuple(result)


def unknown(node: Any, given: Given, nr: int) -> Dimensions:
    return dimensions(shape_of(node, nr))
