"""Options of methods: read from a signature, converted from text, refused with a near name."""

from __future__ import annotations

import types
from typing import Any, Literal, Union, get_args, get_origin

from ..errors import OptionError, near


def split_spec(spec: str) -> tuple[str, list[str]]:
    head, *words = [word.strip() for word in spec.split(",")]
    name, colon, variant = head.partition(":")
    return name, ([f"={variant}"] if colon else []) + words


def convert(owner: str, key: str, value: Any, hint: Any) -> Any:
    """A value checked against, and text read as, the type of an option."""
    if hint is None or hint is Any:
        return value
    if get_origin(hint) is Literal:
        for choice in get_args(hint):
            if value == choice or str(choice) == value:
                return choice
        choices = [str(choice) for choice in get_args(hint)]
        raise OptionError(
            f"{owner}: {key} is one of {', '.join(choices)}, not {value!r}"
            + near(str(value), choices)
        )
    if get_origin(hint) in (Union, types.UnionType):
        return _convert_union(owner, key, value, get_args(hint))
    return _convert_plain(owner, key, value, hint)


def _convert_union(owner: str, key: str, value: Any, hints: tuple[Any, ...]) -> Any:
    if type(None) in hints and value in (None, "none", "None"):
        return None
    for hint in hints:
        if hint is not type(None):
            try:
                return convert(owner, key, value, hint)
            except OptionError:
                continue
    raise OptionError(f"{owner}: {key} cannot be {value!r}")


def _convert_plain(owner: str, key: str, value: Any, hint: Any) -> Any:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if hint is bool and isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    if (
        hint in (int, float)
        and isinstance(value, (str, int, float))
        and not isinstance(value, bool)
    ):
        try:
            return (
                hint(value)
                if hint is float or float(value).is_integer()
                else _refuse(owner, key, value, hint)
            )
        except ValueError:
            _refuse(owner, key, value, hint)
    if hint in (int, float, bool, str) and not isinstance(value, hint):
        _refuse(owner, key, value, hint)
    return value


def _refuse(owner: str, key: str, value: Any, hint: type) -> Any:
    raise OptionError(f"{owner}: {key} is a {hint.__name__}, not {value!r}")
