"""Whatever a caller names as a target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import LimelightError, TargetError
from .class_scores import is_class
from .parse import target_in
from .scalar import Target
from .target import label


def targets(spec: Any) -> tuple[Target, ...]:
    """Any way of naming targets as a tuple: a Target, a class, text, a callable, or several.

    A class is a number of Python, numpy or torch, or a name; a tensor or array of integers is a
    class per sample; a list is several targets. Text is read as on a command line, so that
    "top:2" and "margin:daisy,bee" are no names; `label("top")` means a class of that name.
    """
    if isinstance(spec, Target):
        return (spec,)
    if isinstance(spec, str):
        read = target_in(spec)
        return read if isinstance(read, tuple) else (read,)
    if is_class(spec):
        return (label(spec),)
    if isinstance(spec, (list, tuple)) and spec:
        return tuple(t for item in spec for t in targets(item))
    if callable(spec):
        return (_function(spec),)
    raise TargetError(
        f"{spec!r} is no target: give a class, limelight.top(), or a function of the output"
    )


def _function(spec: Callable[[Any], Tensor]) -> Target:
    name = getattr(spec, "__name__", type(spec).__name__)

    def read(output: Any, rows: Tensor | None) -> Tensor:
        try:
            return spec(output)
        except (IndexError, RuntimeError) as error:
            if isinstance(error, (LimelightError, torch.OutOfMemoryError)) or _full(error):
                raise
            raise TargetError(
                f"target {name!r} fails on this output ({error}); samples may pass a few or one at "
                "a time: a function must find what it needs of each in the output"
            ) from error

    return Target(name, read)


def _full(error: Exception) -> bool:
    """Whether memory ran out, which on the CPU is a plain RuntimeError."""
    return "allocate memory" in str(error)
