"""What a user says of a model's preprocessing, and what the model itself is found to take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import isfinite
from operator import lt
from typing import Any, TypeAlias

from torch import nn

from ...probe.errors import ImageError, OptionError, near
from ..card import Card
from .preprocessing import INTERPOLATIONS, Preprocessing, Transform, preprocessing_of
from .trial import USUAL, accepted, first_channels

Sides: TypeAlias = int | Sequence[int]
"""The side of a square, or height and width."""

Numbers: TypeAlias = float | Sequence[float]
"""One number for all channels, or one a channel."""


@dataclass(frozen=True)
class PreprocessingOptions:
    """What is to differ from what a model tells of itself; None leaves it.

    size           rows and columns of the input
    resize         the photo's short side before the centre crop, or (height, width) to stretch it
    interpolation  bilinear, bicubic, lanczos, nearest, box or hamming
    mean, std      on the 0..1 scale: one number, or one a channel
    transform      makes the input of a photo by itself
    Raises OptionError for what cannot be meant.
    """

    size: Sides | None = None
    resize: Sides | None = None
    interpolation: str | None = None
    mean: Numbers | None = None
    std: Numbers | None = None
    transform: Transform | None = None

    def __post_init__(self) -> None:
        for name in ("size", "resize"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _sides(name, value))
        if isinstance(self.size, int):
            object.__setattr__(self, "size", (self.size, self.size))
        for name in ("mean", "std"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _numbers(name, value))
        if self.interpolation is not None and self.interpolation not in INTERPOLATIONS:
            raise OptionError(
                f"interpolation={self.interpolation!r} is unknown: write "
                f"{', '.join(INTERPOLATIONS)}{near(str(self.interpolation), INTERPOLATIONS)}"
            )
        if self.transform is not None:
            self._check_transform()

    def _check_transform(self) -> None:
        if not callable(self.transform):
            raise OptionError(
                f"transform={self.transform!r} is no function: give one that makes a tensor "
                "`c y x` of a PIL image"
            )
        for name in ("size", "resize", "interpolation"):
            if getattr(self, name) is not None:
                raise OptionError(f"{name}= and transform= both shape the photo: leave one out")

    @property
    def said(self) -> dict[str, Any]:
        """The options that were given, by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def fitted(
    model: nn.Module, options: PreprocessingOptions | None = None, *, trial: bool = True
) -> Preprocessing:
    """The preprocessing of a model, with what the user says of it and what it is found to take.

    Where nothing tells the size or the channels, zeros are run through the model: the first
    convolution's channels and the usual sizes, until it accepts some. What was found or assumed
    stands in the notes. Raises ImageError where nothing is accepted, OptionError.

    trial  False for a model of several inputs, on which a photo alone cannot be tried
    """
    asked = options or PreprocessingOptions()
    if asked.transform is not None:
        return _transformed(asked)
    told = preprocessing_of(model)
    channels = _channels(model, told, asked)
    size: Any = asked.size or told.size
    sizes = (size,) if asked.size or "size" not in told.assumed else (size, *USUAL)
    if not trial and len(sizes) > 1:
        raise OptionError(
            f"{type(model).__name__} takes several inputs and tells no size of its pictures: say "
            "size="
        )
    if trial and (channels != (len(told.mean),) or len(sizes) > 1 or size != told.size):
        count, size = accepted(model, channels, sizes)
    else:
        count = channels[0]
    return _noted(told, asked, count, size)


def _channels(
    model: nn.Module, told: Preprocessing, asked: PreprocessingOptions
) -> tuple[int, ...]:
    """How many channels the model may take, likeliest first."""
    counts = {len(v) for v in (asked.mean, asked.std) if isinstance(v, tuple) and len(v) > 1}
    if len(counts) > 1:
        raise OptionError(f"mean={asked.mean} and std={asked.std} speak of different channels")
    if counts:
        return tuple(counts)
    first = first_channels(model)
    known = None if "scale" in told.assumed else len(told.mean)
    if isinstance(getattr(model, "card", None), Card) or (known and first in (known, None)):
        return (len(told.mean),)
    if "size" not in told.assumed and first in (3, None):
        return (3,)
    likely = [first, known, 3, 1]
    return tuple(dict.fromkeys(n for n in likely if n in (1, 3)))


def _noted(
    told: Preprocessing, asked: PreprocessingOptions, channels: int, size: tuple[int, int]
) -> Preprocessing:
    """The whole preprocessing, and what was assumed of it in words."""
    mean, std = (
        _spread(name, getattr(asked, name), getattr(told, name), channels)
        for name in ("mean", "std")
    )
    if channels not in (1, 3):
        raise ImageError(
            f"a photo has 3 channels or, in grey, 1, and the input is to have {channels}: say "
            "transform=, a function that makes it, or hand over tensors as inputs="
        )
    resize = _resize(told, asked, size)
    assumed = told.assumed - {"size"}
    return replace(
        told,
        size=size,
        resize=resize,
        interpolation=asked.interpolation or told.interpolation,
        mean=mean,
        std=std,
        notes=_notes(told, asked, channels, size),
        assumed=assumed - {"scale"} if asked.mean and asked.std else assumed,
    )


def _notes(
    told: Preprocessing, asked: PreprocessingOptions, channels: int, size: tuple[int, int]
) -> tuple[str, ...]:
    notes = []
    if asked.size is None and size != told.size:
        notes.append(
            f"input size {size[0]} x {size[1]} found by trial; say size=... if it is another"
        )
    missing = [name for name in ("mean", "std") if getattr(asked, name) is None]
    if "scale" not in told.assumed:
        notes += told.notes
    elif missing:
        source = "" if notes or asked.size else told.notes[0].partition("ImageNet's")[0]
        notes.append(f"{source}ImageNet's {' and '.join(missing)} assumed")
    elif asked.size is None and size == told.size:
        notes.append(told.notes[0].partition("ImageNet's")[0].rstrip("; ,"))
    if channels != len(told.mean) and asked.said.keys().isdisjoint({"mean", "std"}):
        notes.append("grey, for the model takes 1 channel; mean and std averaged over the colours")
    return tuple(notes)


def _resize(
    told: Preprocessing, asked: PreprocessingOptions, size: tuple[int, int]
) -> int | tuple[int, int]:
    short, resize = min(size), asked.resize
    if resize is None:
        if size == told.size:
            return told.resize
        if "size" in told.assumed:
            return short
        if isinstance(told.resize, tuple):
            return size
        return max(round(short * told.resize / min(told.size)), short)
    small = resize < short if isinstance(resize, int) else any(map(lt, resize, size))
    if small:
        raise OptionError(
            f"resize={resize} is less than the input of {size[0]} x {size[1]}: give at least "
            "that, for the crop is cut from it"
        )
    return resize  # type: ignore[return-value]


def _transformed(asked: PreprocessingOptions) -> Preprocessing:
    """A transform; mean and std, said or read from its own last step, undo it for the eye."""
    parts = getattr(asked.transform, "transforms", ())
    last = next((p for p in reversed(list(parts)) if type(p).__name__ == "Normalize"), None)
    mean = asked.mean if asked.mean is not None else getattr(last, "mean", ())
    std = asked.std if asked.std is not None else getattr(last, "std", ())
    known = tuple(map(float, mean)), tuple(map(float, std))  # type: ignore[arg-type]
    if not all(known):
        known = (), ()
    return Preprocessing((0, 0), 0, "", *known, transform=asked.transform)


def _spread(name: str, asked: Any, told: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Numbers for each channel; colours' mean where grey is wanted."""
    if asked is None:
        return told if len(told) == channels else (sum(told) / len(told),) * channels
    if len(asked) not in (1, channels):
        raise OptionError(
            f"{name}={asked} has {len(asked)} numbers, but the model takes {channels} "
            f"channel{'s' if channels > 1 else ''}: give one, or one a channel"
        )
    return tuple(asked) * channels if len(asked) == 1 else tuple(asked)


def _sides(name: str, value: Any) -> int | tuple[int, int]:
    sides = value if isinstance(value, Sequence) else (value, value)
    counts = len(sides) == 2 and all(type(side) is int and side > 0 for side in sides)
    if not counts:
        raise OptionError(f"{name}={value!r} is no size: give one side, or (height, width)")
    return value if isinstance(value, int) else (sides[0], sides[1])


def _numbers(name: str, value: Any) -> tuple[float, ...]:
    given = value if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    try:
        numbers = tuple(float(v) for v in given)
    except (TypeError, ValueError):
        numbers = ()
    low = 0.0 if name == "std" else float("-inf")
    if not numbers or not all(isfinite(v) and v > low for v in numbers):
        kind = "positive numbers" if name == "std" else "numbers"
        raise OptionError(f"{name}={value!r}: give {kind} on the 0..1 scale, one or one a channel")
    return numbers
