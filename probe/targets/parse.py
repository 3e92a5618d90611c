"""Targets and values as one writes them on a command line or in a plan."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ImageError, LimelightError, TargetError, near
from .comparison import difference, similar
from .places import box, peak, pixel, region
from .scalar import Target
from .target import choice, contrast, label, margin, ranked, token, top

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")  # longer ones fit no tensor of indices
_OPTION = re.compile(r"\s*(\w+)\s*=(.*)", re.DOTALL)


def target_in(text: str) -> Target | tuple[Target, ...]:
    """A target as it is written: a class, `207` or `daisy`, or a word, its values and options.

    `top:3`, `least`, `ranked:-1`, `margin:daisy,bee`, `contrast:1+2,0`, `label:3,of=probability`,
    `token:Paris,-1`, `choice:2,5`, `pixel:12,7,daisy`, `region:mask.png,2`, `box:0,12,7,3`,
    `peak:5`, `similar:query.jpg`, `difference:reference.png,mask.png`; options are the keywords of
    the function: `label:3,at=up5`. A reference is a picture, grey `1 y x` or RGB `3 y x` on the
    scale 0..1, or an array of numpy on the scale of the output.
    Raises TargetError for other words, ImageError for a file that cannot be read.
    """
    word, words = _words(text)
    if word not in _FORMS:
        return label(class_in(text.strip()))
    make, read, form = _FORMS[word]
    values, options = _split(words, make)
    try:
        given = read(values)
    except LimelightError:
        raise
    except (ValueError, IndexError):
        raise TargetError(f"target {text!r} is not understood: write {form}") from None
    made: Target | tuple[Target, ...] = make(*given, **options)
    return made


def _words(text: str) -> tuple[str, list[str]]:
    """The word in front and what follows; "" where a class stands alone."""
    word, colon, rest = text.partition(":")
    if colon:
        return word.strip(), rest.split(",")
    first, *words = text.split(",")  # `top` and `least` need no value
    return (first.strip(), words) if first.strip() in ("top", "least") else ("", [])


def _split(words: list[str], make: Callable[..., Any]) -> tuple[list[str], dict[str, Any]]:
    """Values, and after them options `key=value` of a function. Raises TargetError."""
    words, options = list(words), dict[str, Any]()
    known = [n for n, p in inspect.signature(make).parameters.items() if p.kind is p.KEYWORD_ONLY]
    while words and (found := _OPTION.fullmatch(words[-1])) and _is_option(found[1], known):
        key, value = found[1], found[2].strip()
        options[key] = value if key == "at" else value_in(value)
        words.pop()
    return words, options


def _is_option(key: str, known: list[str]) -> bool:
    if key in known:
        return True
    hint = near(key, known)
    if hint:
        raise TargetError(f"a target has no option {key!r} here (it has: {', '.join(known)}){hint}")
    return False


def _top(words: list[str]) -> tuple[int, ...]:
    if not words:
        return ()
    (count,) = words
    if not count.strip().isdecimal():
        raise ValueError(count)
    return (int(count),)


def _nothing(words: list[str]) -> tuple[()]:
    if words:
        raise ValueError(words)
    return ()


def _rank(words: list[str]) -> tuple[int]:
    (rank,) = words
    return (int(rank),)


def _label(words: list[str]) -> tuple[int | str]:
    return (_class(words),)


def _pair(words: list[str]) -> tuple[int | str, int | str]:
    first, second = words
    return _class([first.strip()]), _class([second.strip()])


def _sides(words: list[str]) -> tuple[list[list[int | str]], list[list[int | str]]]:
    """Classes joined by `+` on either side, the same for every sample."""
    good, bad = ([_class([part.strip()]) for part in side.split("+")] for side in words)
    return [good], [bad]


def _token(words: list[str]) -> tuple[int | str, int]:
    """A token, whose name may begin with a space, and its position."""
    *name, last = words
    if name and _INTEGER.fullmatch(last.strip()):
        return _class(name), int(last)
    return _class(words), -1


def _step(words: list[str]) -> tuple[int, int | str]:
    return int(words[0]), _class(words[1:])


def _place(words: list[str]) -> tuple[int | str, ...]:
    """Whole numbers, the last of them a class where no name follows."""
    count = next((i for i, w in enumerate(words) if not _INTEGER.fullmatch(w.strip())), len(words))
    numbers = [int(w) for w in words[:count]]
    named = [_class([",".join(words[count:]).strip()])] if count < len(words) else []
    if not 2 <= len(numbers) + len(named) <= 4:
        raise ValueError(words)
    return (*numbers, *named)


def _box(words: list[str]) -> tuple[int | str, ...]:
    """A level, by number or name, and a place with its class."""
    return class_in(words[0].strip()), *_place(words[1:])


def _region(words: list[str]) -> tuple[Tensor, int | str]:
    if len(words) < 2:
        raise ValueError(words)
    return _mask(words[0].strip()), _class(words[1:])


def _path(words: list[str]) -> tuple[str]:
    path = ",".join(words).strip()
    if not path:
        raise ValueError(words)
    return (path,)


def _class(words: list[str]) -> int | str:
    """A class whose name may hold commas. Raises ValueError for none."""
    text = ",".join(words)
    if not text.strip():
        raise ValueError(words)
    return class_in(text)


def _compared(words: list[str]) -> tuple[Tensor, ...]:
    """A reference, and a mask if there is one."""
    path, *mask = (word.strip() for word in words)
    if not path or len(mask) > 1:
        raise ValueError(words)
    return (_reference(path), *map(_mask, mask))


def _mask(path: str) -> Tensor:
    """A mask `y x` from a picture, black 0 and white 1, or any array from a file of numpy."""
    values = _from_file("mask", path, lambda picture: picture.convert("L"))
    return values if values.ndim != 3 or Path(path).suffix.lower() == ".npy" else values[0]


def _reference(path: str) -> Tensor:
    """A picture `c y x` on the scale 0..1, or any array from a file of numpy."""
    grey = ("1", "L", "I", "I;16", "F")
    return _from_file(
        "reference",
        path,
        lambda picture: picture.convert("L" if picture.mode in grey else "RGB"),
    ).float()


def _from_file(what: str, path: str, convert: Callable[[Any], Any]) -> Tensor:
    """An array of numpy as it is, or a picture, converted, as `c y x` on the scale 0..1."""
    place = Path(path).expanduser()
    try:
        if place.suffix.lower() == ".npy":
            return torch.from_numpy(np.load(place, allow_pickle=False))
        from PIL import Image

        with Image.open(place) as picture:
            pixels = torch.from_numpy(np.array(convert(picture))).float() / 255
    except (OSError, ValueError, SyntaxError, TypeError) as error:
        raise ImageError(f"{what} {path!r} cannot be read: {error}") from None
    return pixels[None] if pixels.ndim == 2 else pixels.movedim(2, 0)


_FORMS: dict[str, tuple[Callable[..., Any], Callable[[list[str]], tuple[Any, ...]], str]] = {
    "top": (top, _top, "top:3 for the three best"),
    "least": (partial(ranked, -1), _nothing, "least, the least probable"),
    "ranked": (ranked, _rank, "ranked:-1 for the least probable"),
    "label": (label, _label, "label:daisy"),
    "margin": (margin, _pair, "margin:daisy,bee"),
    "contrast": (contrast, _sides, "contrast:1+2,0, classes against others"),
    "token": (token, _token, "token:Paris,-1"),
    "choice": (choice, _step, "choice:2,5, a step and what is chosen"),
    "pixel": (pixel, _place, "pixel:12,7,daisy"),
    "region": (region, _region, "region:mask.png,2"),
    "box": (box, _box, "box:0,12,7,3, a level, a place and a class or a side"),
    "peak": (peak, _label, "peak:5"),
    "similar": (similar, _path, "similar:query.jpg"),
    "difference": (difference, _compared, "difference:reference.png,mask.png"),
}


def class_in(text: str) -> int | str:
    """A class as it is written: a number in digits, with or without a sign, else a name.

    Spaces around a number do not count; those of a name stay, as a token may begin with one. A
    class whose name is a number is meant by its index: `7` is class 7, never the class called "7";
    numbers below 0 are refused where a target is made of them.
    """
    word = text.strip()
    return int(word) if _INTEGER.fullmatch(word) else text


def value_in(text: str) -> object:
    """A value as Python writes it, `true`, `false` or `none` in any case; else the text itself."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    with suppress(ValueError, SyntaxError):
        return ast.literal_eval(text)
    return text
