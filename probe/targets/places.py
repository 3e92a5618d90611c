"""Targets at places of dense outputs: a pixel, a region, a box of a detector, a peak."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import TargetError
from .class_scores import Which, picked, read_classes, said
from .reading import Reading
from .scalar import Target, of_part
from .scale import Of

if TYPE_CHECKING:
    import numpy as np

SIDES = ("left", "top", "right", "bottom")


def pixel(*place_and_class: Which, of: Of = "logit", at: str = "") -> Target:
    """The score of a class at one place of a dense output: `pixel(y, x, which)`.

    Of an output `b c t` `pixel(t, which)`, of `b c y x` `pixel(y, x, which)`, of `b c z y x`
    `pixel(z, y, x, which)`; negative places count from the end. `of` is taken at the place; `of`
    and `at` as for `label`. Raises TargetError for a place outside the output.

    Example:
        >>> segments = nn.Conv2d(3, 4, 3, padding=1)
        >>> ll.maps(segments, x, "gradient", target=ll.pixel(2, 3, 1))[0].target
        '1 at (2, 3)'
    """
    *numbers, which = _checked("pixel", place_and_class)
    place = _place("pixel", numbers)
    return _at_place("pixel", place, which, Reading("field", at, of), "")


def box(level: int | str, *place_and_class: Which, of: Of = "logit", at: str = "") -> Target:
    """The score of a class, or a side, at one place of one level of a dense detector's outputs.

    `box(0, y, x, which)`: the outputs are a list of levels `b k y x`, or named ones, or lie under
    `at` (`at="scores"`). `which` is a class, or one of `left`, `top`, `right`, `bottom`: how far
    the box reaches from its place, in an output of these four channels `b 4 y x` (FCOS, arXiv
    1904.01355, section 3.1). Places as for `pixel`, `of` as for `label`. Raises TargetError for a
    level, a place or a side that is not there.

    Example:
        >>> ll.box(0, 12, 7, 3).name
        '3 at (12, 7) of level 0'
    """
    *numbers, which = _checked("box", place_and_class)
    place = _place("box", numbers)
    path = f"{at}.{level}" if at else str(level)
    where = f" of level {level}" + (f" of {at}" if at else "")
    if isinstance(which, str) and which in SIDES:
        return _side(place, which, Reading("field", path, of), where)
    return _at_place("box", place, which, Reading("field", path, of), where)


def _side(place: tuple[int, ...], side: str, reading: Reading, where: str) -> Target:
    def read(field: Tensor, rows: Tensor | None) -> Tensor:
        if field.shape[1] != len(SIDES):
            raise TargetError(
                f"box reads its {side} side of four channels, {', '.join(SIDES)}, but the part "
                f"{reading.at!r} has {field.shape[1]}: name the boxes by at="
            )
        return _cut("box", field, place)[:, SIDES.index(side)]

    return Target(f"{side} at {_shown(place)}{where}", read, reading=reading)


def _at_place(
    kind: str, place: tuple[int, ...], which: Which, reading: Reading, where: str
) -> Target:
    rows, words = read_classes(which)

    def read(field: Tensor, rows: Tensor | None) -> Tensor:
        return picked(_cut(kind, field, place), rows)

    name = f"{said(which)} at {_shown(place)}" + (where or of_part(reading))
    return Target(name, read, rows, words, reading=reading)


def _cut(kind: str, field: Tensor, place: tuple[int, ...]) -> Tensor:
    """The scores `b c` at a place. Raises TargetError where it lies outside."""
    size = tuple(field.shape[2:])
    if len(place) != len(size) or not all(-n <= i < n for i, n in zip(place, size, strict=True)):
        raise TargetError(f"{kind} {_shown(place)} lies outside the output of {size}")
    for number in reversed(place):
        field = field[..., number]
    return field


def _checked(kind: str, words: tuple[Any, ...]) -> tuple[Any, ...]:
    if not 2 <= len(words) <= 4:
        raise TargetError(
            f"{kind} takes a place of one to three numbers and then a class, not {words!r}"
        )
    return words


def _place(kind: str, numbers: list[Any]) -> tuple[int, ...]:
    try:
        return tuple(n.__index__() for n in numbers)
    except AttributeError:
        raise TargetError(
            f"{kind} takes a place of whole numbers and then a class, not {tuple(numbers)!r}"
        ) from None


def _shown(place: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, place))})"


def region(
    mask: Tensor | np.ndarray,
    which: Which,
    *,
    of: Of = "logit",
    at: str = "",
    per_sample: bool | None = None,
) -> Target:
    """The score of a class summed over a region of a dense output: sum_p m_p s_p.

    mask        weights, or true and false: `t`, `y x`, or one a sample, `b y x`, `b z y x`
    per_sample  whether the first dimension of the mask is that of samples; by default it is in
                masks of three and four dimensions: a mask `z y x` for all says per_sample=False

    `of` is taken at each place; `of` and `at` as for `label`. Raises TargetError for a mask that
    does not fit the output.

    Example:
        >>> segments = nn.Conv2d(3, 4, 3, padding=1)
        >>> ll.maps(segments, x, "gradient", target=ll.region(torch.ones(8, 8), 1))[0].values.shape
        torch.Size([8, 8])
    """
    rows, words = read_classes(which)
    marks = batched_mask(mask, per_sample)

    def read(field: Tensor, rows: Tensor | None, marks: Tensor) -> Tensor:
        check_mask(marks, field)
        weighed = field * marks[:, None].to(field)
        return picked(weighed.flatten(2).sum(2), rows)

    reading = Reading("field", at, of)
    name = f"{said(which)} in a region" + of_part(reading)
    return Target(name, read, rows, words, mask=marks, reading=reading)


def batched_mask(mask: Any, per_sample: bool | None) -> Tensor:
    """A mask with samples, or 1 for all, in front. Raises TargetError for one of other sizes."""
    marks = torch.as_tensor(mask)
    if per_sample is None:
        per_sample = marks.ndim > 2
    marks = marks if per_sample else marks[None]
    if not 2 <= marks.ndim <= 4:
        raise TargetError(
            "a mask covers t, y x or z y x, with samples in front if there is one a sample, but "
            f"this one is {tuple(torch.as_tensor(mask).shape)}"
        )
    return marks


def check_mask(marks: Tensor, field: Tensor) -> None:
    """Raise TargetError where a mask does not lie on the places of a field."""
    if marks.shape[1:] != field.shape[2:]:
        hint = "; say whether samples come first in it by per_sample="
        raise TargetError(
            f"a mask of {tuple(marks.shape[1:])} does not fit an output {tuple(field.shape)}"
            + hint * (marks.ndim != field.ndim - 1)
        )


def peak(keypoint: Which, *, soft: float | None = None, at: str = "") -> Target:
    """The largest value of a keypoint's heat map, max_p h_p, of an output `b k` and places.

    soft  (1 / soft) log sum_p exp(soft h_p) instead: a maximum whose gradient reaches all places,
          the larger `soft` the closer to the largest value
    Raises TargetError for a keypoint that is not there, or `soft` of 0 or less.

    Example:
        >>> ll.peak(5).name
        'peak of 5'
    """
    if soft is not None and not (isinstance(soft, int | float) and soft > 0):
        raise TargetError(f"peak takes soft above 0, not {soft!r}")
    rows, words = read_classes(keypoint)

    def read(field: Tensor, rows: Tensor | None) -> Tensor:
        heat = picked(field, rows).flatten(1)
        return heat.amax(1) if soft is None else (soft * heat).logsumexp(1) / soft

    reading = Reading("field", at)
    softness = "" if soft is None else f", soft {soft:g}"
    name = f"peak of {said(keypoint)}{softness}" + of_part(reading)
    return Target(name, read, rows, words, reading=reading)
