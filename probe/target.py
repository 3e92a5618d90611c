"""What is explained: one scalar per sample, read from the model's output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from .errors import TargetError, near
from .tree import first_tensor

Names = Callable[[str], int]
Which = int | str | Sequence[int | str] | Tensor
Of = Literal["logit", "probability", "log_probability"]


@dataclass(frozen=True, eq=False)
class Target:
    """A scalar per sample.

    name   how results call it when a sample has no better name
    read   (output, rows) -> `b`
    rows   what differs from sample to sample, first dimension `b`, or 1 for all alike
    words  class names still to be looked up, in the places of `rows` that hold -1
    pick   output -> class index per sample, where a class is meant
    """

    name: str
    read: Callable[[Any, Tensor | None], Tensor]
    rows: Tensor | None = None
    words: tuple[str, ...] = ()
    pick: Callable[[Any, Tensor | None], Tensor] | None = None

    def __call__(self, output: Any) -> Tensor:
        """The scores, shape `b`. Raises TargetError when the output does not fit."""
        if self.words:
            raise TargetError(f"target {self.name!r} names classes; resolve(names) must come first")
        score = self.read(output, self.rows)
        batch = first_tensor(output).shape[0] if first_tensor(output).ndim else 1
        if not isinstance(score, Tensor) or score.shape != (batch,):
            found = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise TargetError(
                f"target {self.name!r} must give one number per sample, shape ({batch},), but gave {found}"
            )
        return score

    def take(self, samples: Sequence[int] | Tensor) -> Target:
        """The target of some samples of the batch, in that order, repeats allowed."""
        if self.rows is None or len(self.rows) == 1:
            return self
        return replace(self, rows=self.rows[torch.as_tensor(samples)])

    def check(self, batch: int) -> None:
        """Raise TargetError when the target speaks of another number of samples."""
        if self.rows is not None and len(self.rows) not in (1, batch):
            raise TargetError(
                f"target {self.name!r} is given for {len(self.rows)} samples, but the batch has {batch}"
            )

    def resolve(self, index: Names) -> Target:
        """The target with class names looked up by `index`."""
        if not self.words or self.rows is None:
            return self
        found, words = self.rows.clone(), iter(self.words)
        for place in (found == -1).nonzero():
            found[tuple(place)] = index(next(words))
        return replace(self, rows=found, words=())

    def fix(self, output: Any) -> Target:
        """The target held to the classes it picks here, so that perturbed passes keep them."""
        if self.pick is None or self.rows is not None:
            return self
        rows = self.pick(output, None).cpu()
        return replace(self, rows=rows, pick=lambda output, rows: rows)

    def titles(self, output: Any, labels: Sequence[str]) -> list[str]:
        """How to call the target of each sample: `daisy (985)`, or its name."""
        batch = first_tensor(output).shape[0]
        if self.pick is None:
            return [self.name] * batch
        classes = self.pick(output, self.rows).expand(batch).tolist()
        plain = self.name if self.name.startswith("top") else ""
        return [title(c, labels) if not plain else f"{plain}: {title(c, labels)}" for c in classes]


def title(index: int, labels: Sequence[str]) -> str:
    """A class by name and number; by number alone where names are unknown."""
    return f"{labels[index]} ({index})" if 0 <= index < len(labels) else f"class {index}"


def label(which: Which, *, of: Of = "logit") -> Target:
    """The score of a class: an index, a name, or one of either per sample.

    Outputs `b c`; `b c y x` sums the class over positions; `b n c` reads the last position.
    `of` takes the probability or its logarithm (softmax over c) instead of the logit.
    """
    rows, words = _rows(which)
    name = (
        f"class {which}"
        if isinstance(which, int)
        else str(which)
        if isinstance(which, str)
        else "label"
    )
    return Target(
        name,
        lambda output, rows: _pick(_scale(scores(output), of), rows),
        rows,
        words,
        lambda output, rows: rows,  # type: ignore[arg-type, return-value]
    )


def top(k: int = 1, *, of: Of = "logit") -> Target | tuple[Target, ...]:
    """The most probable class of each sample; with k > 1 the k most probable, one target each."""
    if k < 1:
        raise TargetError(f"top(k) counts from 1, not {k}")
    found = tuple(ranked(rank, of=of) for rank in range(k))
    return found[0] if k == 1 else found


def ranked(rank: int, *, of: Of = "logit") -> Target:
    """The class at a rank: 0 the most probable, -1 the least."""

    def pick(output: Any, rows: Tensor | None) -> Tensor:
        logits = scores(output)
        count = logits.shape[1]
        if not -count <= rank < count:
            raise TargetError(f"top {rank + 1} was asked, but the model has {count} classes")
        return logits.detach().argsort(dim=1, descending=True, stable=True)[:, rank]

    name = f"top {rank + 1}" if rank >= 0 else "least" if rank == -1 else f"bottom {-rank}"
    return Target(
        name,
        lambda o, rows: _pick(_scale(scores(o), of), pick(o, rows) if rows is None else rows),
        pick=pick,
    )


def margin(a: Which, b: Which, *, of: Of = "logit") -> Target:
    """Score of `a` minus score of `b`."""
    first, second = _rows(a), _rows(b)
    size = max(len(first[0]), len(second[0]))
    rows = torch.stack([r.expand(size) for r in (first[0], second[0])], 1)
    words = _interleave(rows, first, second)

    def read(output: Any, rows: Tensor | None) -> Tensor:
        scaled = _scale(scores(output), of)
        return _pick(scaled, rows[:, 0]) - _pick(scaled, rows[:, 1])  # type: ignore[index]

    return Target(f"{a} - {b}", read, rows, words)


def token(which: Which, position: int = -1, *, of: Of = "logit") -> Target:
    """The score of a token at a position of a language model's output `b n v`."""
    rows, words = _rows(which)

    def read(output: Any, rows: Tensor | None) -> Tensor:
        logits = first_tensor(output)
        if logits.ndim != 3 or not -logits.shape[1] <= position < logits.shape[1]:
            raise TargetError(
                f"token(position={position}) needs an output b n v with that position, "
                f"but the output is {tuple(logits.shape)}"
            )
        return _pick(_scale(logits[:, position], of), rows)

    return Target(f"token {which!r} at {position}", read, rows, words)


def pixel(y: int, x: int, which: Which) -> Target:
    """The score of a class at one place of a dense output `b c y x`."""
    rows, words = _rows(which)

    def read(output: Any, rows: Tensor | None) -> Tensor:
        dense = _dense(output)
        if not (-dense.shape[2] <= y < dense.shape[2] and -dense.shape[3] <= x < dense.shape[3]):
            raise TargetError(
                f"pixel ({y}, {x}) lies outside the output of {tuple(dense.shape[2:])}"
            )
        return _pick(dense[:, :, y, x], rows)

    return Target(f"{which} at ({y}, {x})", read, rows, words)


def region(mask: Tensor, which: Which) -> Target:
    """The score of a class summed over a region of a dense output; mask `y x` or `b y x`."""
    rows, words = _rows(which)
    marks = mask if mask.ndim == 3 else mask[None]

    def read(output: Any, rows: Tensor | None) -> Tensor:
        dense = _dense(output)
        if marks.shape[1:] != dense.shape[2:] or len(marks) not in (1, len(dense)):
            raise TargetError(
                f"a mask of {tuple(mask.shape)} does not fit an output {tuple(dense.shape)}"
            )
        inside = dense * marks[:, None].to(dense)
        return _pick(inside.sum((2, 3)), rows)

    return Target(f"{which} in a region", read, rows, words)


def similar(embedding: Tensor) -> Target:
    """Cosine similarity of the output `b d` to an embedding `d`, or `b d` for one per sample."""
    rows = embedding if embedding.ndim == 2 else embedding[None]

    def read(output: Any, rows: Tensor | None) -> Tensor:
        found = first_tensor(output)
        if found.ndim != 2 or found.shape[1] != rows.shape[1]:  # type: ignore[union-attr]
            raise TargetError(
                f"an embedding of {rows.shape[1]} numbers does not compare with an output "  # type: ignore[union-attr]
                f"{tuple(found.shape)}"
            )
        return torch.cosine_similarity(found, rows.to(found), dim=1)  # type: ignore[union-attr]

    return Target("similarity", read, rows)


def targets(spec: Any) -> tuple[Target, ...]:
    """Any way of naming targets as a tuple: a Target, a class, a callable, or several of them."""
    if isinstance(spec, Target):
        return (spec,)
    if isinstance(spec, (int, str)):
        return (label(spec),)
    if isinstance(spec, (list, tuple)):
        return tuple(t for one in spec for t in targets(one))
    if callable(spec):
        name = getattr(spec, "__name__", type(spec).__name__)
        return (Target(name, lambda output, rows: spec(output)),)
    raise TargetError(
        f"{spec!r} is no target: give a class, limelight.top(), or a function of the output"
    )


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


def _dense(output: Any) -> Tensor:
    dense = first_tensor(output)
    if dense.ndim != 4:
        raise TargetError(
            f"a place needs a dense output b c y x, but the output is {tuple(dense.shape)}"
        )
    return dense


def _scale(logits: Tensor, of: Of) -> Tensor:
    if of == "logit":
        return logits
    return logits.softmax(1) if of == "probability" else logits.log_softmax(1)


def _pick(logits: Tensor, rows: Tensor | None) -> Tensor:
    classes = rows.to(logits.device).expand(len(logits))  # type: ignore[union-attr]
    wrong = classes[(classes >= logits.shape[1]) | (classes < 0)]
    if len(wrong):
        raise TargetError(
            f"class {wrong[0].item()} was asked, but the model has {logits.shape[1]} classes"
        )
    return logits.gather(1, classes[:, None])[:, 0]


def _rows(which: Which) -> tuple[Tensor, tuple[str, ...]]:
    if isinstance(which, Tensor):
        return which.reshape(-1).long().cpu(), ()
    several: Iterable[int | str] = [which] if isinstance(which, (int, str)) else which
    listed = list(several)
    if not listed or any(isinstance(w, int) and w < 0 for w in listed):
        raise TargetError(f"classes are named or counted from 0, not {which!r}")
    words = tuple(w for w in listed if isinstance(w, str))
    return torch.tensor([-1 if isinstance(w, str) else int(w) for w in listed]), words


def _interleave(rows: Tensor, first: tuple, second: tuple) -> tuple[str, ...]:
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
        found = [i for i, text in enumerate(labels) if text.lower() == name.lower()]
        if len(found) == 1:
            return found[0]
        if found:
            raise TargetError(
                f"class name {name!r} is ambiguous: it names {found}; give the number"
            )
        hint = near(name, labels) if labels else "; this model has no class names, give the number"
        raise TargetError(f"class name {name!r} is unknown{hint}")

    return index
