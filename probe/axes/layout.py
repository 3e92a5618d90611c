"""How methods see a value: `b c` and then its places, whatever order and shape the model keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from ..errors import SiteError
from .axis import Axis, Dimension, Dimensions, length, root, sole

_RANK = {"z": 1, "y": 2, "x": 3}  # rows before columns, however a model keeps them


@dataclass(frozen=True)
class Grid:
    """How tokens lie on the picture: rows and columns after some prefix tokens."""

    rows: int
    columns: int
    prefix: int


def find_grid(tokens: int, size: Sequence[int], prefix: int) -> Grid | None:
    """The grid of `tokens` tokens over an image of `size`, after `prefix` others; None if none."""
    if len(size) < 2:
        return None
    for skip in dict.fromkeys((prefix, 0)):
        places = tokens - skip
        if places <= 0:
            continue
        rows = round((places * size[-2] / size[-1]) ** 0.5)
        if (
            rows
            and places % rows == 0
            and abs(rows / size[-2] * size[-1] / (places // rows) - 1) < 0.26
        ):
            return Grid(rows, places // rows, skip)
    return None


@dataclass(frozen=True)
class Layout:
    """From a value's own shape to `b c` and the places: `x.reshape(split).permute(order)` ...

    axes    the places of a map, `y x`, `t`; `c` where a value has features and no places, "" where
            these are read as the channels of a single place
    runs    (dimension, start, stop): what is kept of dimensions that also hold other tokens
    split   the shape with every factor apart; -1 for the batch, of which there may be any
    order   the factors in the order batch, channels, places
    shape   `b c` and the places, -1 for the batch
    batch   the dimension that counts samples
    grid    where tokens lie on the picture, if only its proportions say so
    """

    axes: str
    runs: tuple[tuple[int, int, int], ...]
    split: tuple[int, ...]
    order: tuple[int, ...]
    shape: tuple[int, ...]
    batch: int = 0
    grid: Grid | None = None

    def canonical(self, x: Tensor) -> Tensor:
        """`b c` and the places, in float32 or float64; `b 1 c` for features without places.

        A complex value has its real and its imaginary parts as channels of their own, so that
        sums over channels are Re(conj(g) x) and norms are |g|.
        """
        for dim, start, stop in self.runs:
            x = x.narrow(dim, start, stop - start)
        if x.dtype not in (torch.float32, torch.float64) and not x.is_complex():
            x = x.float()
        if self.order != tuple(range(len(self.order))):
            x = x.reshape(self.split).permute(self.order)
        if tuple(x.shape) != self.shape:
            x = x.reshape(self.shape)
        if self.grid is not None:
            x = x[:, :, self.grid.prefix :].unflatten(2, (self.grid.rows, self.grid.columns))
        return torch.view_as_real(x).movedim(-1, 2).flatten(1, 2) if x.is_complex() else x

    def at_one_place(self) -> Layout:
        """Features without places as the channels of a single one: `b c 1`, axes ""."""
        batch, one, features = self.shape
        return replace(self, axes="", shape=(batch, features, one))

    def samples(self, shape: Sequence[int]) -> int:
        """How many samples a value of some shape holds."""
        others = prod(size for size in self.split if size != -1)
        for dim, start, stop in self.runs:
            others = others * shape[dim] // (stop - start)
        return prod(shape) // others if -1 in self.split else self.shape[0]

    def restore(self, x: Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> Tensor:
        """The inverse of `canonical` for any number of samples, by the shape and type of some.

        Raises SiteError where `canonical` dropped something.
        """
        if dtype is not None and dtype.is_complex:
            x = torch.view_as_complex(x.unflatten(1, (-1, 2)).movedim(2, -1).contiguous())
        x = x if dtype is None else x.to(dtype)
        if self.runs or self.grid is not None:
            raise SiteError("a value without its class tokens cannot be put back in its place")
        factors = [self.split[i] for i in self.order]
        factors[0] = len(x)
        back = sorted(range(len(self.order)), key=self.order.__getitem__)
        parts = x.reshape(factors).permute(back)
        sides = list(shape)
        sides[self.batch] = len(x)
        return parts.reshape(sides)


def layout(dims: Dimensions) -> Layout | None:
    """How to read a value; None where its axes do not say."""
    runs, dims = _tokens_of_the_input(dims)
    roles: dict[str, list[int]] = {"b": [], "c": []}
    places: dict[Axis, list[int]] = {}
    factors = [factor for dim in dims for factor in dim]
    for i, (axis, size) in enumerate(factors):
        origin = root(axis)
        if origin.name in roles:
            roles[origin.name].append(i)
        elif origin.name or size != 1:
            places.setdefault(origin, []).append(i)
        else:
            roles["c"].append(i)
    nameless = [origin for origin in places if not origin.name]
    channels = any(root(axis).name == "c" for axis, _ in factors)
    if not roles["b"] or len(nameless) > 1 or (nameless and not channels):
        return None  # one axis that is left holds the places only where channels are known
    places = dict(sorted(places.items(), key=lambda item: _RANK.get(item[0].name, 0)))
    groups = [roles["b"], roles["c"], *places.values()]
    for group in groups:
        group.sort(key=lambda i: _parts(factors[i].axis))
    names = [origin.name or "n" for origin in places]
    sizes = [prod(factors[i].size for i in group) for group in groups]
    if not places:
        names, sizes = ["c"], [sizes[0], 1, sizes[1]]
    order = tuple(i for group in groups for i in group)
    split = [factor.size for factor in factors]
    if len(roles["b"]) == 1:
        split[roles["b"][0]] = sizes[0] = -1
    batch = next(i for i, dim in enumerate(dims) if any(root(f.axis).name == "b" for f in dim))
    return Layout(" ".join(names), runs, tuple(split), order, tuple(sizes), batch)


def _parts(axis: Axis) -> tuple[int, ...]:
    """Which piece of its origin an axis is, from the first cut on."""
    if axis.whole is None:
        return ()
    return (*_parts(axis.whole.axis), axis.part)  # type: ignore[attr-defined]


def _tokens_of_the_input(
    dims: Dimensions,
) -> tuple[tuple[tuple[int, int, int], ...], Dimensions]:
    """Dimensions without the tokens that no input made, such as a class token; what is kept."""
    runs, kept = [], []
    for at, dim in enumerate(dims):
        run = _varying(dim)
        if run is None:
            kept.append(dim)
        else:
            inner, start = run
            kept.append(inner)
            runs.append((at, start, start + length(inner)))
    return tuple(runs), tuple(kept)


def _varying(dim: Dimension) -> tuple[Dimension, int] | None:
    """The one part of a concatenation that depends on the input, and where it begins."""
    factor = sole(dim)
    segments = () if factor is None else factor.axis.segments
    if factor is None or sum(size for _, size in segments) != factor.size:
        return None
    varying = [(part, i) for i, (part, _) in enumerate(segments) if part is not None]
    if len(varying) != 1 or any(root(f.axis).name == "c" for f in varying[0][0]):
        return None
    part, i = varying[0]
    return part, sum(size for _, size in segments[:i])
