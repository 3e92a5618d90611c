"""Windows and cells over the places of an input, however many axes it has."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from ...probe.attribution import Count
from ...probe.errors import OptionError

Size = Count | tuple[Count, ...] | None
Window = tuple[slice, ...]
Sizes = tuple[int, ...]

_ALONE = ("c", "n")  # features and tokens, each of which is a thing of its own
_PICTURE = {"y": (16, 8), "x": (16, 8)}


def window_sizes(
    axes: str, shape: Sequence[int], window: Size, stride: Size
) -> tuple[Sizes, Sizes]:
    """The size of a window and its step along each axis, from one number, one each, or none.

    Unless told: 16 pixels and 8 over y and x; one feature or token; along other axes, and in
    pictures that one such window would cover whole, 16 and 8, but at most a quarter of the length
    and an eighth. Raises OptionError unless 1 <= stride <= window.
    """
    usual = [_usual(axis, size) for axis, size in zip(axes.split(), shape, strict=True)]
    if window is None and all(n <= side for n, (side, _) in zip(shape, usual, strict=True)):
        usual = [_part(size) for size in shape]
    sides = _stated("window", window, axes) or tuple(side for side, _ in usual)
    steps = _stated("stride", stride, axes) or tuple(
        min(step, side) for side, (_, step) in zip(sides, usual, strict=True)
    )
    if any(not 1 <= step <= side for side, step in zip(sides, steps, strict=True)):
        raise OptionError(
            f"windows take 1 <= stride <= window along {axes}, not stride={_words(steps)}, "
            f"window={_words(sides)}"
        )
    return sides, steps


def _usual(axis: str, size: int) -> tuple[int, int]:
    if axis in _ALONE:
        return 1, 1
    return _PICTURE.get(axis) or _part(size)


def _part(size: int) -> tuple[int, int]:
    return min(16, max(1, size // 4)), min(8, max(1, size // 8))


def _stated(name: str, value: Size, axes: str) -> Sizes | None:
    if value is None or isinstance(value, int):
        return None if value is None else (value,) * len(axes.split())
    if len(value) != len(axes.split()):
        raise OptionError(
            f"{name}={'x'.join(map(str, value))} was given, but the input has the places {axes}; "
            "give one number, or one for each of them"
        )
    return tuple(value)


def _words(numbers: Sequence[int]) -> str:
    same = len(set(numbers)) == 1
    return str(numbers[0]) if same else "x".join(str(n) for n in numbers)


def windows(shape: Sequence[int], sides: Sequence[int], steps: Sequence[int]) -> list[Window]:
    """Where the windows lie: as few as cover every place, the last axis fastest."""
    starts = [
        [start for start in range(0, max(size - side, 0) + step, step) if start < size]
        for size, side, step in zip(shape, sides, steps, strict=True)
    ]
    return [
        tuple(slice(start, start + side) for start, side in zip(corner, sides, strict=True))
        for corner in product(*starts)
    ]


def grid(x: Tensor, cells: int) -> Tensor:
    """The cells of a grid over `1 c` and places by number, `cells` a side: `1 1` and places."""
    number = torch.zeros((), dtype=torch.long)
    for side in x.shape[2:]:
        few = min(cells, side)
        number = number[..., None] * few + torch.arange(side) * few // side
    return number.expand(1, 1, *x.shape[2:]).to(x.device)
