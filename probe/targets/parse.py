"""Targets and values as one writes them on a command line or in a plan."""

from __future__ import annotations

import ast
import re
from contextlib import suppress

from ..errors import TargetError
from .target import Target, label, margin, top

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")  # longer ones fit no tensor of indices


def target_in(text: str) -> Target | tuple[Target, ...]:
    """A target from `207`, `daisy`, `top`, `top:3` or `margin:daisy,bee`."""
    word, colon, rest = text.partition(":")
    if word == "top":
        if colon and not rest.isdecimal():
            raise TargetError(f"target {text!r} is not understood: write top:3 for the three best")
        return top(int(rest or 1))
    if word == "margin" and colon:
        pair = [class_in(side.strip()) for side in rest.split(",")]
        if len(pair) != 2:
            raise TargetError(f"target {text!r} is not understood: write margin:daisy,bee")
        return margin(*pair)
    return label(class_in(text.strip()))


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
