"""What is explained: one scalar per sample, read from the model's output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import TargetError
from ..trace import first_tensor
from .class_scores import Names, Of, Which, dense, interleave, picked, read_classes, scaled, scores


@dataclass(frozen=True, eq=False)
class Target:
    """A scalar per sample.

    name   how results call it when a sample has no better name
    read   (output, rows) -> `b`; with a mask (output, rows, mask)
    rows   what differs from sample to sample, first dimension `b`, or 1 for all alike
    words  class names still to be looked up, in the places of `rows` that hold -1
    pick   output -> class index per sample, where a class is meant
    mask   a region `b y x`, or `1 y x` for all alike
    """

    name: str
    read: Callable[..., Tensor]
    rows: Tensor | None = None
    words: tuple[str, ...] = ()
    pick: Callable[[Any, Tensor | None], Tensor] | None = None
    mask: Tensor | None = None

    def __call__(self, output: Any) -> Tensor:
        """The scores, shape `b`. Raises TargetError when the output does not fit."""
        if self.words:
            raise TargetError(f"target {self.name!r} names classes; resolve(names) must come first")
        batch = first_tensor(output).shape[0] if first_tensor(output).ndim else 1
        self.check(batch)
        score = self.read(output, *(_usable(t) for t in self._arguments()))
        if not isinstance(score, Tensor) or score.shape != (batch,):
            returned = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise TargetError(
                f"target {self.name!r} must give one number per sample, shape ({batch},), "
                f"but gave {returned}"
            )
        return score

    def _arguments(self) -> tuple[Tensor | None, ...]:
        return (self.rows,) if self.mask is None else (self.rows, self.mask)

    def take(self, samples: Sequence[int] | Tensor) -> Target:
        """The target of some samples of the batch, in that order, repeats allowed."""
        places = torch.as_tensor(samples)
        rows, mask = (
            t if t is None or len(t) == 1 else t[places.to(t.device)]
            for t in (self.rows, self.mask)
        )
        return replace(self, rows=rows, mask=mask)

    def check(self, batch: int) -> None:
        """Raise TargetError when the target speaks of another number of samples."""
        for argument in (self.rows, self.mask):
            if argument is not None and len(argument) not in (1, batch):
                raise TargetError(
                    f"target {self.name!r} is given for {len(argument)} samples, "
                    f"but the batch has {batch}"
                )

    def resolve(self, index: Names) -> Target:
        """The target with class names looked up by `index`."""
        if not self.words or self.rows is None:
            return self
        resolved, words = self.rows.clone(), iter(self.words)
        for place in (resolved == -1).nonzero():
            resolved[tuple(place)] = index(next(words))
        return replace(self, rows=resolved, words=())

    def fix(self, output: Any) -> Target:
        """The target held to the classes it picks here, so that perturbed passes keep them."""
        if self.pick is None or self.rows is not None:
            return self
        return replace(self, rows=self.pick(output, None).cpu(), pick=_given)

    def titles(self, output: Any, labels: Sequence[str]) -> list[str]:
        """How to call the target of each sample: `daisy (985)`, or its name."""
        batch = first_tensor(output).shape[0]
        if self.pick is None:
            return [self.name] * batch
        classes = self.pick(output, self.rows).expand(batch).tolist()
        plain = self.name if self.name.startswith("top") else ""
        return [title(c, labels) if not plain else f"{plain}: {title(c, labels)}" for c in classes]


def _usable(rows: Tensor | None) -> Tensor | None:
    """Tensors made in inference mode can take part in no gradient; their copies can."""
    return rows.clone() if rows is not None and rows.is_inference() else rows


def _given(output: Any, rows: Tensor | None) -> Tensor:
    """The classes that were named when the target was made."""
    if rows is None:
        raise TargetError("the target names no class")
    return rows


def title(index: int, labels: Sequence[str]) -> str:
    """A class by name and number; by number alone where names are unknown."""
    return f"{labels[index]} ({index})" if 0 <= index < len(labels) else f"class {index}"


def label(which: Which, *, of: Of = "logit") -> Target:
    """The score of a class: an index, a name, or one of either per sample.

    Outputs `b c`; `b c y x` sums the class over positions; `b n c` reads the last position.
    `of` takes the probability or its logarithm (softmax over c) instead of the logit.
    """
    rows, words = read_classes(which)
    name = (
        f"class {which}"
        if isinstance(which, int)
        else str(which)
        if isinstance(which, str)
        else "label"
    )
    return Target(
        name,
        lambda output, rows: picked(scaled(scores(output), of), rows),
        rows,
        words,
        _given,
    )


def top(k: int = 1, *, of: Of = "logit") -> Target | tuple[Target, ...]:
    """The most probable class of each sample; with k > 1 the k most probable, one target each."""
    if k < 1:
        raise TargetError(f"top(k) counts from 1, not {k}")
    by_rank = tuple(ranked(rank, of=of) for rank in range(k))
    return by_rank[0] if k == 1 else by_rank


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
        lambda o, rows: picked(scaled(scores(o), of), pick(o, rows) if rows is None else rows),
        pick=pick,
    )


def margin(a: Which, b: Which, *, of: Of = "logit") -> Target:
    """Score of `a` minus score of `b`."""
    first, second = read_classes(a), read_classes(b)
    sizes = {len(first[0]), len(second[0])}
    size = max(sizes)
    if not sizes <= {1, size}:
        raise TargetError(
            f"margin takes one class or as many as samples on each side, not {len(first[0])} and "
            f"{len(second[0])}"
        )
    rows = torch.stack([r.expand(size) for r in (first[0], second[0])], 1)
    words = interleave(rows, first, second)

    def read(output: Any, rows: Tensor | None) -> Tensor:
        both = scaled(scores(output), of)
        return picked(both, rows[:, 0]) - picked(both, rows[:, 1])  # type: ignore[index]

    return Target(f"{a} - {b}", read, rows, words)


def contrast(
    good: Sequence[Sequence[int]], bad: Sequence[Sequence[int]], *, of: Of = "logit"
) -> Target:
    """The scores of several classes minus those of others, each sample with its own.

    Mean logit (or log-probability) of `good` minus that of `bad`; with of="probability" the sums.
    `b n c` reads the last position.
    """
    if len(good) != len(bad) or not all(map(len, [*good, *bad])):
        raise TargetError(
            f"contrast takes classes for every sample on both sides, not {len(good)} and "
            f"{len(bad)} lists of them, some of which may be empty"
        )
    width = max(map(len, [*good, *bad]), default=1)
    rows = torch.tensor([[_padded(g, width), _padded(b, width)] for g, b in zip(good, bad)])  # noqa: B905

    def read(output: Any, rows: Tensor | None) -> Tensor:
        every = scaled(scores(output), of)
        total = every.new_zeros(len(every))
        for side, sign in ((rows[:, 0], 1), (rows[:, 1], -1)):  # type: ignore[index]
            side = side.to(every.device)
            given = side >= 0
            if int(side.max()) >= every.shape[1]:
                raise TargetError(
                    f"class {int(side.max())} was asked, but the model has {every.shape[1]} classes"
                )
            gathered = every.gather(1, side.clamp(min=0).expand(len(every), -1)) * given
            summed = gathered.sum(1)
            total = total + sign * (summed if of == "probability" else summed / given.sum(1))
        return total

    return Target("good - bad", read, rows)


def _padded(classes: Sequence[int], width: int) -> list[int]:
    return [*classes, *([-1] * (width - len(classes)))]


def token(which: Which, position: int = -1, *, of: Of = "logit") -> Target:
    """The score of a token at a position of a language model's output `b n v`."""
    rows, words = read_classes(which)

    def read(output: Any, rows: Tensor | None) -> Tensor:
        logits = first_tensor(output)
        if logits.ndim != 3 or not -logits.shape[1] <= position < logits.shape[1]:
            raise TargetError(
                f"token(position={position}) needs an output b n v with that position, "
                f"but the output is {tuple(logits.shape)}"
            )
        return picked(scaled(logits[:, position], of), rows)

    return Target(f"token {which!r} at {position}", read, rows, words)


def pixel(y: int, x: int, which: Which) -> Target:
    """The score of a class at one place of a dense output `b c y x`."""
    rows, words = read_classes(which)

    def read(output: Any, rows: Tensor | None) -> Tensor:
        field = dense(output)
        height, width = field.shape[2:]
        if not (-height <= y < height and -width <= x < width):
            raise TargetError(f"pixel ({y}, {x}) lies outside the output of {(height, width)}")
        return picked(field[:, :, y, x], rows)

    return Target(f"{which} at ({y}, {x})", read, rows, words)


def region(mask: Tensor, which: Which) -> Target:
    """The score of a class summed over a region of a dense output; mask `y x` or `b y x`."""
    rows, words = read_classes(which)
    marks = mask if mask.ndim == 3 else mask[None]

    def read(output: Any, rows: Tensor | None, marks: Tensor) -> Tensor:
        field = dense(output)
        if marks.shape[1:] != field.shape[2:]:
            raise TargetError(
                f"a mask of {tuple(mask.shape)} does not fit an output {tuple(field.shape)}"
            )
        return picked((field * marks[:, None].to(field)).sum((2, 3)), rows)

    return Target(f"{which} in a region", read, rows, words, mask=marks)


def similar(embedding: Tensor) -> Target:
    """Cosine similarity of the output `b d` to an embedding `d`, or `b d` for one per sample."""
    rows = embedding if embedding.ndim == 2 else embedding[None]

    def read(output: Any, rows: Tensor | None) -> Tensor:
        embedded = first_tensor(output)
        if embedded.ndim != 2 or embedded.shape[1] != rows.shape[1]:  # type: ignore[union-attr]
            raise TargetError(
                f"an embedding of {rows.shape[1]} numbers does not compare with an output "  # type: ignore[union-attr]
                f"{tuple(embedded.shape)}"
            )
        return torch.cosine_similarity(embedded, rows.to(embedded), dim=1)  # type: ignore[union-attr]

    return Target("similarity", read, rows)


def targets(spec: Any) -> tuple[Target, ...]:
    """Any way of naming targets as a tuple: a Target, a class, a callable, or several of them."""
    if isinstance(spec, Target):
        return (spec,)
    if isinstance(spec, (int, str)):
        return (label(spec),)
    if isinstance(spec, (list, tuple)) and spec:
        return tuple(t for item in spec for t in targets(item))
    if callable(spec):
        name = getattr(spec, "__name__", type(spec).__name__)
        return (Target(name, lambda output, rows: spec(output)),)
    raise TargetError(
        f"{spec!r} is no target: give a class, limelight.top(), or a function of the output"
    )
