"""What layers say: convolutions, pools, norms, products, attention, recurrent layers, kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .axis import (
    PLACES,
    Axis,
    Dimension,
    Dimensions,
    Factor,
    dimension,
    dimensions,
    length,
    resized,
    root,
    sole,
)
from .naming import Given, Rule, aligned, name, name_all, places, shape_of, signed


def moved_window(dims: Dimensions, sizes: Sequence[int]) -> Dimensions:
    """Places after a window has gone over them; channels that were gone over lie in no order."""
    return tuple(map(_gone_over, dims, sizes))


def _gone_over(dim: Dimension, size: int) -> Dimension:
    factor = sole(dim)
    channels = factor is not None and factor.axis.name == "c"
    return dimension(size) if channels else resized(dim, size)


def convolution(node: Any, given: Given, nr: int) -> Dimensions:
    shape, x = shape_of(node, nr), given[0]
    if x is None:  # the weights depend on the input
        return dimensions(shape)
    places(x[2:], "a convolution")
    name(x[1], "c", "a convolution")
    return (x[0], _channels(x[1], shape[1], node._saved_groups), *moved_window(x[2:], shape[2:]))


def _channels(dim: Dimension, size: int, groups: int) -> Dimension:
    """Depthwise channels stay; samples that were folded into groups stay in front."""
    if groups == size == length(dim):
        return dim
    count, leading = 1, []
    for factor in dim if len(dim) > 1 else ():
        if count * factor.size > groups or groups % (count * factor.size):
            break
        count *= factor.size
        leading.append(factor)
    return (*leading, Factor(Axis("c"), size // count)) if leading else dimension(size, "c")


def over_places(count: int) -> Rule:
    """Pools, enlargements, paddings and the like over the last `count` dimensions."""

    def rule(node: Any, given: Given, nr: int) -> Dimensions:
        shape, x = shape_of(node, nr), given[0]
        if x is None:
            return dimensions(shape)
        at = len(x) - count
        spread = count == 2 and _is_new(node, at, len(x))
        if at > 0:
            name(x[at - 1], "c", "a pool")
        places(x[at + 1 :] if spread else x[at:], "a pool")
        return (*x[:at], *moved_window(x[at:], shape[at:]))

    return rule


def _is_new(node: Any, at: int, ndim: int) -> bool:
    """Whether a dimension was just put in: a 2-d op does the work of a 1-d one on a single row."""
    parent = node.next_functions[0][0]
    if parent is None or parent.name() != "UnsqueezeBackward0":
        return False
    return bool(signed(parent._saved_dim) % ndim == at)


def padded(node: Any, given: Given, nr: int) -> Dimensions:
    """Any dimension may grow."""
    shape, x = shape_of(node, nr), given[0]
    if x is None:
        return dimensions(shape)
    return tuple(resized(dim, size) for dim, size in zip(x, shape, strict=True))


def channels_second(node: Any, given: Given, nr: int) -> Dimensions:
    """Batch and group norms."""
    x = given[0]
    if x is None or nr:
        return dimensions(shape_of(node, nr))
    name(x[1], "c", "a norm")
    places(x[2:], "a norm")
    return x


def channels_last(node: Any, given: Given, nr: int) -> Dimensions:
    """Layer norms over the last dimension."""
    x = given[0]
    if x is None or nr:
        return dimensions(shape_of(node, nr))
    if len(node._saved_normalized_shape) == 1:
        name(x[-1], "c", "a layer norm")
    return x


def mixed(dim: Dimension, others: Dimensions, size: int) -> Dimension:
    """What a linear map makes of a dimension: channels, unless it mixes places."""
    places = all(root(f.axis).name in (*PLACES, "b") for f in dim if f.size != 1)
    return dimension(size, "" if places or _hold_channels(others) else "c")


def _hold_channels(dims: Dimensions) -> bool:
    return any(root(f.axis).name == "c" for dim in dims for f in dim)


def product(at: int) -> Rule:
    """Matrix products, the left factor at input `at`."""

    def rule(node: Any, given: Given, nr: int) -> Dimensions:
        shape = shape_of(node, nr)
        left, right = given[at], given[at + 1]
        if left is None and right is None:
            return dimensions(shape)
        if right is None:
            assert left is not None
            name_features(left)
            return (*left[:-1], mixed(left[-1], left[:-1], shape[-1]))
        if left is None:
            rows = mixed(right[-2], (right[-1],), shape[-2])
            return (*right[:-2], rows, right[-1])
        batch = tuple(
            aligned([a, b], size)
            for a, b, size in zip(left[:-2], right[:-2], shape[:-2], strict=True)
        )
        return (*batch, left[-2], right[-1])

    return rule


def grouped(node: Any, given: Given, nr: int) -> Dimensions:
    """`grouped_mm`: rows in groups, each group with weights of its own."""
    shape, rows = shape_of(node, nr), given[0]
    if rows is None or len(rows) != len(shape):
        return dimensions(shape)
    name_features(rows)
    return (*rows[:-1], mixed(rows[-1], rows[:-1], shape[-1]))


def name_features(dims: Dimensions) -> None:
    """What a linear layer reads are features, unless it is known that they are places."""
    factor = sole(dims[-1])
    nameless = factor is not None and not root(factor.axis).name
    if nameless and not _hold_channels(dims[:-1]):
        name(dims[-1], "c", "a linear layer")


def attention(node: Any, given: Given, nr: int) -> Dimensions:
    """Fused attention: queries with the values' features; learned queries are new places."""
    shape = shape_of(node, nr)
    known = [dims for dims in given[:3] if dims is not None and len(dims) == len(shape)]
    if not known or (given[0] is not None and len(given[0]) != len(shape)):
        return dimensions(shape)
    query, value = given[0], given[2]
    batch = [aligned([dims[i] for dims in known], shape[i]) for i in range(len(shape) - 2)]
    rows = query[-2] if query is not None else dimension(shape[-2])
    last = value[-1] if value is not None else dimension(shape[-1])
    return (*batch, rows, last)


def recurrent(node: Any, given: Given, nr: int) -> Dimensions:
    """A layer of an LSTM, time first."""
    shape, x = shape_of(node, nr), given[0]
    if x is None or len(x) != 3:
        return dimensions(shape)
    name_all(x, ("t", "b", "c"), "a recurrent layer")
    state = dimension(shape[-1], "c")
    return (x[0], x[1], state) if nr == 0 else (x[1], state)


def mixer(node: Any, given: Given, nr: int) -> Dimensions:
    """A kernel of ours: the places of its queries (or values), the features of its values."""
    named = dict(zip(node.names, given[-len(node.names) :], strict=True))
    values = named.get(node.op.face.values)
    like = named.get("q") or values
    shape = shape_of(node)
    if like is None or values is None or len(like) != len(shape):
        return dimensions(shape)
    return (*like[:-1], values[-1]) if node.op.face.values == "v" else values


def columns(node: Any, given: Given, nr: int) -> Dimensions:
    """`F.unfold`: `b c y x` to `b (c k k) (y x)`."""
    shape, x = shape_of(node), given[0]
    if x is None or len(x) != 4:
        return dimensions(shape)
    name(x[1], "c", "F.unfold")
    places(x[2:], "F.unfold")
    sides = [
        (length(dim) + 2 * pad - reach * (kernel - 1) - 1) // step + 1
        for dim, pad, reach, kernel, step in zip(
            x[2:], node._saved_padding, node._saved_dilation, node._saved_kernel_size,
            node._saved_stride, strict=True,
        )
    ]  # fmt: skip
    grid = tuple(f for dim, side in zip(x[2:], sides, strict=True) for f in resized(dim, side))
    return (x[0], dimension(shape[1], "c"), grid)


def folded(node: Any, given: Given, nr: int) -> Dimensions:
    """`F.fold`: `b (c k k) n` to `b c y x`."""
    shape, x = shape_of(node), given[0]
    first = x[0] if x is not None and len(x) == 3 else dimension(shape[0])
    return (first, *dimensions(shape[1:], ("c", "y", "x")))


def shuffled(node: Any, given: Given, nr: int) -> Dimensions:
    """Channels that become places, or places that become channels."""
    shape, x = shape_of(node), given[0]
    if x is None or len(x) < 3:
        return dimensions(shape)
    places(x[-2:], "a pixel shuffle")
    channels = dimension(shape[-3], "c")
    sides = tuple(resized(dim, size) for dim, size in zip(x[-2:], shape[-2:], strict=True))
    return (*x[:-3], channels, *sides)
