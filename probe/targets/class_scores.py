"""Classes by number and by name, and their scores in whatever a model returns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import TargetError, near
from ..trace import first_tensor

Names = Callable[[str], int]
Which = int | str | Sequence[int | str] | Tensor
Of = Literal["logit", "probability", "log_probability"]


def scores(output: Any) -> Tensor:
    """The class scores `b c` in whatever a model returns."""
    logits = first_tensor(output)
    if logits.ndim == 1:
        return logits[:, None]
    if logits.ndim == 3:
        return logits[:, -1]
    if logits.ndim > 3:
        return logits.flatten(2).sum(2)
    if logits.ndim == 2:
        return logits
    raise TargetError("a class was asked for, but the model returns a single number for the batch")


def dense(output: Any) -> Tensor:
    dense = first_tensor(output)
    if dense.ndim != 4:
        raise TargetError(
            f"a place needs a dense output b c y x, but the output is {tuple(dense.shape)}"
        )
    return dense


def scaled(logits: Tensor, of: Of) -> Tensor:
    if of == "logit":
        return logits
    return logits.softmax(1) if of == "probability" else logits.log_softmax(1)


def picked(logits: Tensor, rows: Tensor | None) -> Tensor:
    classes = rows.to(logits.device).expand(len(logits))  # type: ignore[union-attr]
    wrong = classes[(classes >= logits.shape[1]) | (classes < 0)]
    if len(wrong):
        raise TargetError(
            f"class {wrong[0].item()} was asked, but the model has {logits.shape[1]} classes"
        )
    return logits.gather(1, classes[:, None])[:, 0]


def read_classes(which: Which) -> tuple[Tensor, tuple[str, ...]]:
    if isinstance(which, Tensor):
        return which.reshape(-1).long().cpu(), ()
    listed: list[Any] = list(which) if isinstance(which, Iterable) else [which]
    listed = [which] if isinstance(which, str) else listed
    valid = [isinstance(w, str) or (isinstance(w, Integral) and int(w) >= 0) for w in listed]
    if not listed or not all(valid):
        raise TargetError(f"classes are named or counted from 0, not {which!r}")
    words = tuple(w for w in listed if isinstance(w, str))
    return torch.tensor([-1 if isinstance(w, str) else int(w) for w in listed]), words


def interleave(
    rows: Tensor, first: tuple[Tensor, tuple[str, ...]], second: tuple[Tensor, tuple[str, ...]]
) -> tuple[str, ...]:
    """The words of two columns in the order in which `resolve` meets their -1."""
    columns = [_spread(side, len(rows)) for side in (first, second)]
    return tuple(w for pair in zip(*columns, strict=True) for w in pair if w is not None)


def _spread(side: tuple[Tensor, tuple[str, ...]], size: int) -> list[str | None]:
    words = iter(side[1])
    listed = [next(words) if r == -1 else None for r in side[0].tolist()]
    return listed * (size if len(listed) == 1 else 1)


def by_name(labels: Sequence[str]) -> Names:
    """Look class names up in a list, upper and lower case alike."""

    def index(name: str) -> int:
        matches = [i for i, text in enumerate(labels) if text.lower() == name.lower()]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise TargetError(
                f"class name {name!r} is ambiguous: it names {matches}; give the number"
            )
        hint = near(name, labels) if labels else "; this model has no class names, give the number"
        raise TargetError(f"class name {name!r} is unknown{hint}")

    return index
