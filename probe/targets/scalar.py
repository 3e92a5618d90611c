"""What is explained: one scalar per sample, read from the model's output."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import TargetError
from ..trace import first_tensor
from .class_scores import Names
from .reading import Given, Reading

_RANK = re.compile(r"top \d+")


@dataclass(frozen=True, eq=False)
class Target:
    """A scalar per sample.

    name     how results call it when a sample has no better name
    read     (output, rows) -> `b`; with a mask (output, rows, mask)
    rows     what differs from sample to sample, first dimension `b`, or 1 for all alike
    words    class names still to be looked up, in the places of `rows` that hold -1
    pick     output -> class index per sample, where a class is meant
    mask     what else differs: a region, `b` and the places, or 1 in front for all alike; positions
    reading  what of the output `read` and `pick` are handed: scores `b c`, a field, a part; None
             hands them the output itself
    query    a picture whose embedding by the model `rows` are to be, as long as they are not

    Example:
        >>> target = ll.Target("energy", lambda output, rows: output.square().sum(1))
        >>> ll.maps(net, x, "gradient", target=target)[0].target
        'energy'
    """

    name: str
    read: Callable[..., Tensor]
    rows: Tensor | None = None
    words: tuple[str, ...] = ()
    pick: Callable[[Any, Tensor | None], Tensor] | None = None
    mask: Tensor | None = None
    reading: Reading | None = None
    query: Path | None = None

    def __call__(self, output: Any, samples: int | None = None) -> Tensor:
        """The scores, shape `b`. Raises TargetError when the output does not fit.

        samples  how many the input holds; where it is not given, the output must tell
        """
        if self.words:
            raise TargetError(f"target {self.name!r} names classes; resolve(names) must come first")
        if self.query is not None:
            raise TargetError(
                f"target {self.name!r} needs the model to embed a picture, as limelight.explain, "
                "limelight.run and the command line do: give similar(net(query)) here"
            )
        given = self._given(output, samples)
        count = samples if samples is not None else _rows_of(given)
        self.check(count)
        score = self.read(given, *(_usable(t) for t in self._arguments()))
        if isinstance(score, Tensor) and score.numel() == count == (*score.shape, 1)[0]:
            return score.reshape(count)  # also `b 1`, and a lone number of a lone sample
        if not isinstance(score, Tensor) or score.shape != (count,):
            returned = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise TargetError(
                f"target {self.name!r} must give one number per sample, shape ({count},), "
                f"but gave {returned}"
            )
        return score

    def _given(self, output: Any, samples: int | None) -> Any:
        return output if self.reading is None else self.reading(output, samples)

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

    def embedded(self, embedding: Tensor) -> Target:
        """The target with the embedding `d` of its picture, or `b d` with one for each sample."""
        rows = embedding.detach()
        return replace(self, rows=rows if rows.ndim == 2 else rows[None], query=None)

    def told(self, given: Given) -> Target:
        """The target of a model that is given this."""
        if self.reading is None:
            return self
        return replace(self, reading=self.reading.told(given))

    def settle(self, output: Any, given: Given | None = None) -> Target:
        """The target with what this output, and what the model was given, tell of its reading.

        A pass without a graph does not show whether the model ends in a softmax: what was settled
        on one that has a graph holds for all others.
        """
        if self.reading is None:
            return self
        given = given or Given()
        reading = self.reading.told(given).settled(output, given)
        return self if reading is self.reading else replace(self, reading=reading)

    def fix(self, output: Any, given: Given | None = None) -> Target:
        """The target settled, and held to the classes it picks here: other passes keep them."""
        target = self.settle(output, given)
        if self.pick is None or self.rows is not None:
            return target
        rows = self.pick(target._given(output, given.samples if given else None), None)
        return replace(target, rows=rows.cpu(), pick=given_classes)

    @property
    def notes(self) -> tuple[str, ...]:
        """What had to be assumed of the output."""
        return () if self.reading is None else self.reading.notes

    def titles(self, output: Any, labels: Sequence[str], samples: int | None = None) -> list[str]:
        """How to call the target of each sample: `daisy (985)`, or its name."""
        given = self._given(output, samples)
        batch = samples if samples is not None else _rows_of(given)
        if self.pick is None:
            return [self.name] * batch
        classes = self.pick(given, self.rows).expand(batch).tolist()
        part = of_part(self.reading)
        name = self.name.removesuffix(part)
        rank = f"{name}: " if _RANK.fullmatch(name) else ""
        return [rank + title(c, labels) + part for c in classes]


def _rows_of(given: Any) -> int:
    """How many samples an output holds, if nothing else tells."""
    first = first_tensor(given)
    return first.shape[0] if first.ndim else 1


def _usable(rows: Tensor | None) -> Tensor | None:
    """Tensors made in inference mode can take part in no gradient; their copies can."""
    return rows.clone() if rows is not None and rows.is_inference() else rows


def given_classes(scores: Any, rows: Tensor | None) -> Tensor:
    """The classes that were named when the target was made."""
    if rows is None:
        raise TargetError("the target names no class")
    return rows


def title(index: int, labels: Sequence[str]) -> str:
    """A class by name and number; by number alone where names are unknown."""
    return f"{labels[index]} ({index})" if 0 <= index < len(labels) else f"class {index}"


def of_part(reading: Reading | None) -> str:
    """What names of targets say of the part they read."""
    return f" of {reading.at}" if reading is not None and reading.at else ""
