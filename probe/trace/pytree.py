"""Tensors inside whatever a module takes or returns: tuples, dicts, dataclasses, and mixtures."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from ..errors import TargetError


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor with its place: ``, `0`, `logits`, `hidden.2`."""
    if isinstance(value, Tensor):
        yield path, value
        return
    for key, part in _parts(value):
        yield from leaves(part, f"{path}.{key}" if path else key)


def first_tensor(value: Any) -> Tensor:
    """The main tensor of an output: `logits` where it has them, else the first one."""
    if isinstance(value, Tensor):
        return value
    named = value.get("logits") if isinstance(value, Mapping) else getattr(value, "logits", None)
    if isinstance(named, Tensor):
        return named
    for _, tensor in leaves(value):
        return tensor
    raise TargetError(f"the model returned {type(value).__name__} without a tensor in it")


def exchange(value: Any, change: Callable[[str, Tensor], Tensor], path: str = "") -> Any:
    """The structure with `change(place, tensor)` per tensor; `value` itself if none changed."""
    if isinstance(value, Tensor):
        return change(path, value)
    parts = {
        key: (part, exchange(part, change, f"{path}.{key}" if path else key))
        for key, part in _parts(value)
    }
    if all(old is new for old, new in parts.values()):
        return value
    return _rebuild(value, [new for _, new in parts.values()])


def _parts(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [(str(k), v) for k, v in value.items()]
    if isinstance(value, (list, tuple)):
        return [(str(k), v) for k, v in enumerate(value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(f.name, getattr(value, f.name)) for f in dataclasses.fields(value)]
    return []


def _rebuild(value: Any, parts: list[Any]) -> Any:
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*parts)
    if isinstance(value, (list, tuple)):
        return type(value)(parts)
    twin: Any = copy.copy(value)
    if isinstance(value, Mapping):
        for key, part in zip(value, parts, strict=True):
            twin[key] = part
    else:
        for f, part in zip(dataclasses.fields(value), parts, strict=True):
            object.__setattr__(twin, f.name, part)
    return twin
