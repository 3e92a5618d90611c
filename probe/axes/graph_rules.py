"""What each autograd node says of the dimensions it returns and of those it was given.

A rule takes the node, the dimensions of what its inputs were (None for constants), and which of
the node's outputs is meant. It names axes that are still nameless: a convolution takes channels at
its second dimension, whatever made them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from .axis import (
    PLACES,
    USUAL_PLACES,
    Axis,
    Dimension,
    Dimensions,
    Factor,
    dimension,
    dimensions,
    joined,
    length,
    picked,
    reshaped,
    resized,
    root,
    sliced,
    sole,
    some_of,
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
    if factor is None:
        return
    if not factor.axis.name:
        factor.axis.name = what
    elif "b" in (factor.axis.name, what) and factor.axis.name != what and factor.size != 1:
        raise ContradictionError(factor.axis, what, op)


def name_all(dims: Dimensions, names: Sequence[str], op: str) -> None:
    for dim, what in zip(dims, names, strict=True):
        name(dim, what, op)


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
        _aligned([dims[len(dims) - i] for dims in known if i <= len(dims)], shape[len(shape) - i])
        for i in range(len(shape), 0, -1)
    )


def _aligned(candidates: list[Dimension], size: int) -> Dimension:
    """The dimension that several have in common; names go from one to the other."""
    fitting = [dim for dim in candidates if length(dim) == size]
    if not fitting:
        return dimension(size)
    best = max(fitting, key=_known)
    named = sole(best)
    for dim in fitting:
        factor = sole(dim)
        if named is not None and factor is not None and not factor.axis.name:
            factor.axis.name = named.axis.name
    return best


def _known(dim: Dimension) -> tuple[int, int]:
    """How many of the factors have a name, how many are at least pieces of one axis."""
    return sum(bool(root(f.axis).name) for f in dim), sum(bool(f.axis.whole) for f in dim)


def places(dims: Dimensions, op: str) -> None:
    """Name the axes of places that have no name, in their usual order."""
    for dim, what in zip(dims, USUAL_PLACES.get(len(dims), [""] * len(dims)), strict=True):
        factor = sole(dim)
        if factor is not None and factor.axis.name in PLACES:
            continue
        if factor is not None and factor.axis.name == "b" and factor.size != 1:
            raise ContradictionError(factor.axis, what, op)
        if factor is not None and not factor.axis.name and factor.axis.whole is None:
            factor.axis.name = what


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
    name(x[1], "c", "a convolution")
    places(x[2:], "a convolution")
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
            _aligned([a, b], size)
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
    batch = [_aligned([dims[i] for dims in known], shape[i]) for i in range(len(shape) - 2)]
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
        _aligned([dims[i] for dims in known], size) if i != at else dimension(size)
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


def real_pairs(node: Any, given: Given, nr: int) -> Dimensions:
    x = given[0]
    return dimensions(shape_of(node)) if x is None else (*x, dimension(2))


def complex_pairs(node: Any, given: Given, nr: int) -> Dimensions:
    return dimensions(shape_of(node)) if given[0] is None else given[0][:-1]


def pooled(node: Any, given: Given, nr: int) -> Dimensions:
    """Places of one step each under other strides, as global pools leave them."""
    shape, x = shape_of(node), given[0]
    lone = len(shape) > 2 and all(size == 1 for size in shape[2:])
    return x if x is not None and lone and len(x) == len(shape) else dimensions(shape)


def mixer(node: Any, given: Given, nr: int) -> Dimensions:
    """A kernel of ours: the places of its queries (or values), the features of its values."""
    named = dict(zip(node.names, given[-len(node.names) :], strict=True))
    values = named.get(node.op.face.values)
    like = named.get("q") or values
    shape = shape_of(node)
    if like is None or values is None or len(like) != len(shape):
        return dimensions(shape)
    return (*like[:-1], values[-1]) if node.op.face.values == "v" else values


def unknown(node: Any, given: Given, nr: int) -> Dimensions:
    return dimensions(shape_of(node, nr))


_SAME = """
    Abs Acos Acosh Angle Asin Asinh Atan Atanh Ceil Celu Clamp ClampMax ClampMin Clone Conj
    ConjPhysical Cos Cosh Cumsum Cumprod Cummax Cummin Digamma Elu Erf Erfc Erfinv Exp Exp2 Expm1
    Flip Floor Frac Gelu Hardshrink Hardsigmoid Hardswish Hardtanh LeakyRelu Lgamma Log Log10 Log1P
    Log2 LogSigmoid LogSoftmax Logcumsumexp Logit Mish NanToNum NativeDropout Neg Reciprocal Relu
    SafeSoftmax RreluWithNoise Roll Round Rsqrt Sgn Sigmoid Sign Silu Sin Sinc Sinh
    Softmax Softplus Softshrink Sqrt Tan Tanh Threshold ToCopy Tril Triu Trunc Alias
    MaskedFill MaskedScatter IndexFill IndexAdd IndexCopy IndexPut IndexPutImpl ScatterAdd
    Scatter ScatterReduce SelectScatter SliceScatter Fill Renorm FftC2C
"""


def _rules() -> dict[str, Rule]:
    table: dict[str, Rule] = dict.fromkeys((*_SAME.split(), "torch::autograd::CopySlices"), same)
    for rule, stems in (
        (broadcast, "Add Sub Rsub Mul Div Atan2 Addcmul Addcdiv Lerp Where Maximum Minimum Fmax "
                    "Fmin PreluKernel Hypot Remainder Fmod Xlogy Logaddexp Copysign "
                    "Complex Polar Copy Pow"),
        (expand, "Expand"),
        (view, "View UnsafeView ReshapeAlias"),
        (permute, "Permute"),
        (transpose, "Transpose"),
        (reversed_pair, "T"),
        (unsqueeze, "Unsqueeze"),
        (squeeze, "Squeeze"),
        (repeat, "Repeat"),
        (select, "Select Unbind"),
        (slice_of, "Slice"),
        (narrow, "Split UnsafeSplit SplitWithSizes UnsafeSplitWithSizes"),
        (index, "Index UnsafeIndex"),
        (index_select, "IndexSelect"),
        (chosen_apart, "Gather Topk Sort"),
        (reduce, "Mean Sum Nansum Amax Amin Max Min Aminmax Median Mode Kthvalue Prod Std Var "
                 "StdMean VarMean Norm LinalgVectorNorm Logsumexp"),
        (concatenate, "Cat"),
        (stack, "Stack"),
        (windows, "Unfold"),
        (columns, "Im2Col"),
        (folded, "Col2Im"),
        (shuffled, "PixelShuffle PixelUnshuffle"),
        (padded, "ConstantPadNd Glu FftR2C FftC2R"),
        (convolution, "Convolution ConvolutionOverrideable CudnnConvolution MkldnnConvolution "
                      "MiopenConvolution SlowConv2D ConvDepthwise2D"),
        (channels_second, "NativeBatchNorm CudnnBatchNorm MiopenBatchNorm NativeGroupNorm"),
        (channels_last, "NativeLayerNorm FusedRmsNorm"),
        (product(0), "Mm Bmm Mv Dot"),
        (product(1), "Addmm Baddbmm Addmv"),
        (grouped, "GroupedMm"),
        (attention, "ScaledDotProductFlashAttentionForCpu ScaledDotProductFlashAttention "
                    "ScaledDotProductEfficientAttention ScaledDotProductCudnnAttention "
                    "ScaledDotProductFusedAttentionOverrideable _Fused"),
        (recurrent, "MkldnnRnnLayer"),
        (pooled, "AsStrided"),
        (mixer, "_Launch"),
        (real_pairs, "ViewAsReal"),
        (complex_pairs, "ViewAsComplex"),
    ):  # fmt: skip
        table.update(dict.fromkeys(stems.split(), rule))
    for d in (1, 2, 3):
        names = f"ReflectionPad{d}D ReplicationPad{d}D UpsampleNearest{d}D UpsampleNearestExact{d}D"
        if d > 1:  # of a series they work on a picture of one row
            names += f" AdaptiveAvgPool{d}D AdaptiveMaxPool{d}D AvgPool{d}D GridSampler{d}D"
            names += (
                f" MaxPool{d}DWithIndices FractionalMaxPool{d}D MaxUnpool{d}D MkldnnMaxPool{d}D"
            )
        table.update(dict.fromkeys(names.split(), over_places(d)))
    more = "UpsampleLinear1D UpsampleBilinear2D UpsampleBicubic2D UpsampleTrilinear3D"
    more += " UpsampleBilinear2DAa UpsampleBicubic2DAa"
    for stem in more.split():
        table[stem] = over_places(int(stem[stem.index("D") - 1]))
    return table


RULES = _rules()
