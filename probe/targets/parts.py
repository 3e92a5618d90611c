"""The parts of what a model returns, by path: `logits`, `0.1`, `out`, `boxes.p3`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..errors import TargetError, near
from ..trace import leaves

_SHOWN = 8
_ABSENT = object()
_SCORES = ("logits", "logits_per_image")  # transformers' names for scores of classes


def main_part(output: Any) -> Tensor:
    """The part that is meant where none is named: the only tensor, or the one called `logits`.

    Of a model that compares pictures with texts it is `logits_per_image`. Raises TargetError for
    an output of several parts, which it lists.
    """
    if isinstance(output, Tensor):
        return output
    for name in _SCORES:
        named = _step(output, name)
        if isinstance(named, Tensor):
            return named
    parts = parts_of(output)
    if len(parts) == 1:
        return next(iter(parts.values()))
    if not parts:
        raise TargetError(f"the model returned {type(output).__name__} without a tensor in it")
    raise TargetError(
        f"the model returned several parts, {_listed(parts)}: name the one that is meant, "
        f"at={next(iter(parts))!r} say, or give a function of the output"
    )


def part_at(output: Any, path: str) -> Tensor:
    """The tensor at a path. Raises TargetError, with the parts that there are."""
    value = output
    words = path.split(".")
    while words:
        taken, value = _longest(value, words)
        if not taken:
            raise _no_part(output, path)
        words = words[taken:]
    inside = parts_of(value, path)
    if len(inside) != 1:
        raise (
            _no_part(output, path)
            if not inside
            else TargetError(
                f"at={path!r} holds several parts, {_listed(inside)}: name one of them"
            )
        )
    return next(iter(inside.values()))


def parts_of(output: Any, path: str = "") -> dict[str, Tensor]:
    """Every tensor by its path, one that stands at several places once."""
    seen: dict[int, tuple[str, Tensor]] = {}
    for place, tensor in leaves(output, path):
        seen.setdefault(id(tensor), (place, tensor))
    return dict(seen.values())


def _longest(value: Any, words: list[str]) -> tuple[int, Any]:
    """The longest beginning of a path that is a key here, as keys may hold dots; what it names."""
    for count in range(len(words), 0, -1):
        found = _step(value, ".".join(words[:count]))
        if found is not _ABSENT:
            return count, found
    return 0, None


def _step(value: Any, key: str) -> Any:
    """What lies under a key, an index, a field or an attribute."""
    if isinstance(value, Tensor):
        return _ABSENT
    if isinstance(value, Mapping):
        return next((part for name, part in value.items() if str(name) == key), _ABSENT)
    if dataclasses.is_dataclass(value) or hasattr(value, "_fields") or not _indexed(value):
        public = not key.startswith("_")
        part = getattr(value, key, _ABSENT) if public else _ABSENT
        if part is not _ABSENT or not _indexed(value):
            return part
    number = int(key) if key.removeprefix("-").isdecimal() else len(value)
    return value[number] if -len(value) <= number < len(value) else _ABSENT


def _indexed(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _no_part(output: Any, path: str) -> TargetError:
    parts = parts_of(output)
    if list(parts) == [""]:
        shape = tuple(parts[""].shape)
        return TargetError(
            f"at={path!r} names no part: the model returns one tensor, {shape}; leave at= out"
        )
    found = _listed(parts) if parts else f"a {type(output).__name__} without a tensor in it"
    return TargetError(
        f"at={path!r} names no part of what the model returned: {found}{near(path, parts)}"
    )


def _listed(parts: Mapping[str, Tensor]) -> str:
    shown = [f"{place} {tuple(t.shape)}" for place, t in list(parts.items())[:_SHOWN]]
    return ", ".join(shown) + ", ..." * (len(parts) > _SHOWN)
