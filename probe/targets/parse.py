"""Targets and values as one writes them on a command line or in a plan."""

from __future__ import annotations

import ast
from contextlib import suppress

from ..errors import TargetError
from .target import Target, label, margin, top


def target_in(text: str) -> Target | tuple[Target, ...]:
    """A target from `207`, `daisy`, `top`, `top:3` or `margin:daisy,bee`."""
    word, colon, rest = text.partition(":")
    if word == "top":
        if colon and not rest.isdecimal():
            raise TargetError(f"target {text!r} is not understood: write top:3 for the three best")
        return top(int(rest or 1))
    if word == "margin" and colon:
        pair = [_class(side) for side in rest.split(",")]
        if len(pair) != 2:
            raise TargetError(f"target {text!r} is not understood: write margin:daisy,bee")
        return margin(*pair)
    return label(_class(text))


def _class(text: str) -> str | int:
    word = text.strip()
    return int(word) if word.removeprefix("-").isdecimal() else word


def value_in(text: str) -> object:
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    with suppress(ValueError, SyntaxError):
        return ast.literal_eval(text)
    return text
