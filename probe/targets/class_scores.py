"""Classes by number and by name, and the scores of some of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from ..errors import TargetError, near
from .reading import Given, Reading

if TYPE_CHECKING:
    import numpy as np

Names = Callable[[str], int]
Which: TypeAlias = "int | str | np.integer | Sequence[int | str] | np.ndarray | Tensor"
_LAST = 2**31  # no model has more classes


def scores(output: Any, given: Given | None = None) -> Tensor:
    """The class scores `b c` in whatever a model returns, as it returns them."""
    given = given or Given()
    return Reading().told(given)(output, given.samples)


def picked(logits: Tensor, rows: Tensor | None) -> Tensor:
    """The score of a class for each sample: `b c`, or `b c ...` to `b ...`."""
    classes = rows.to(logits.device).expand(len(logits))  # type: ignore[union-attr]
    wrong = classes[(classes >= logits.shape[1]) | (classes < 0)]
    if len(wrong):
        raise TargetError(
            f"class {wrong[0].item()} was asked, but the model has {logits.shape[1]} classes"
        )
    places = logits.shape[2:]
    chosen = classes.view(-1, 1, *[1] * len(places)).expand(-1, 1, *places)
    return logits.gather(1, chosen)[:, 0]


def read_classes(which: Which) -> tuple[Tensor, tuple[str, ...]]:
    """Classes as indices, -1 where a name stands; and the names.

    A class is an int of Python or numpy, a tensor or array of integers, or a name; no bool is one.
    """
    listed = _listed(which)
    valid = [isinstance(w, str) or (_counts(w) and int(w) >= 0) for w in listed]
    if not listed or not all(valid):
        raise TargetError(f"classes are named or counted from 0, not {which!r}")
    if big := [w for w in listed if not isinstance(w, str) and int(w) > _LAST]:
        raise TargetError(f"class {big[0]} was asked, which no model has: count classes from 0")
    words = tuple(w for w in listed if isinstance(w, str))
    rows = [-1 if isinstance(w, str) else int(w) for w in listed]
    return torch.tensor(rows, device="cpu"), words


def _listed(which: Any) -> list[Any]:
    if hasattr(which, "tolist"):  # a tensor, an array, a number of numpy
        return list(which.reshape(-1).tolist())
    if isinstance(which, str) or not isinstance(which, Iterable):
        return [which]
    return [w for part in which for w in (_listed(part) if hasattr(part, "tolist") else [part])]


def _counts(number: object) -> bool:
    return isinstance(number, Integral) and not isinstance(number, bool)


def is_class(spec: Any) -> bool:
    """Whether something is a class or a class per sample: a number, a name, integers in a row."""
    if hasattr(spec, "tolist"):
        return spec.ndim < 2 and all(map(_counts, _listed(spec)))
    return isinstance(spec, str) or _counts(spec)


def said(which: Which) -> str:
    """How a class is called in the name of a target."""
    rows, words = read_classes(which)
    if len(rows) > 1:
        return "each sample's class"
    return words[0] if words else str(int(rows))


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
