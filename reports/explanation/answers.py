"""What a model says of its samples: probabilities, areas, a restored picture, shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...probe.engine import Batch, settled
from ...probe.errors import OptionError, TargetError
from ...probe.targets import Reading, Target, picked
from .contents import Areas, Guess, Shapes
from .drawn_outputs import KnownOutput, areas_of, restored_of, shapes_of

if TYPE_CHECKING:
    from PIL.Image import Image

_BEST = 5


@dataclass
class Answers:
    """What the model says of each sample, by name.

    targets  what is explained; the first one says which part of the output is read, and how
    strict   whether names were given for classes, and must be as many
    example  one input, in case an output hides what made it
    done     samples of the batch that were read already
    """

    model: nn.Module
    names: Sequence[str]
    targets: Sequence[Target]
    output: KnownOutput | None
    scale: tuple[Any, Any]
    strict: bool
    example: Tensor | Batch | None = None
    guesses: dict[str, list[Guess]] = field(default_factory=dict)
    areas: dict[str, Areas] = field(default_factory=dict)
    restored: dict[str, Image] = field(default_factory=dict)
    shapes: dict[str, Shapes] = field(default_factory=dict)
    done: int = 0

    def __post_init__(self) -> None:
        first = self.targets[0]
        usable = first.pick is not None or self.output is not None
        self.reading = (first.reading if usable else None) or Reading()

    def start(self, batch: Tensor | Batch) -> None:
        """Another batch is read from here on."""
        self.example = batch.take([0]) if isinstance(batch, Batch) else batch[:1]
        self.done = 0

    def read(self, output: Any, samples: int) -> list[Any]:
        """What an output says, sample by sample: areas, a picture, shapes, or probabilities.

        Raises OptionError where it is not as was said.
        """
        if self.output == "classes":
            return list(areas_of(self.reading.part(output).detach(), self.names))
        if self.output == "picture":
            return list(restored_of(self.reading.part(output).detach(), *self.scale))
        if callable(self.output):
            places = range(self.done, self.done + samples)
            self.done += samples
            wanted = self._settled([t.take(places) for t in self.targets], output)
            return shapes_of(output, self.output, wanted, self.names, samples)
        return self._probabilities(output, samples)

    def _settled(self, wanted: list[Target], output: Any) -> list[Target]:
        return settled(self.model, Batch.of(self.example), wanted, output)

    def _probabilities(self, output: Any, samples: int) -> list[Tensor]:
        """Of all classes, as the first target reads them; nothing where there are none."""
        reading = replace(self.reading, of="probability")
        try:
            if reading.open and reading.part(output).grad_fn is None:  # it hides what made it
                asked = Target("probabilities", picked, reading=reading)
                reading = settled(self.model, Batch.of(self.example), [asked])[0].reading or reading
                self.reading = replace(self.reading, made=reading.made, axes=reading.axes)
            places = reading.places(output, samples).detach().float()
        except TargetError:
            return [torch.empty(0)] * samples
        usable = places.ndim == 2 and places.shape[1] > 1
        return list(places) if usable else [torch.empty(0)] * samples

    def add(self, samples: Sequence[str], rows: Sequence[Any]) -> None:
        """Keep what was read of some samples. Raises OptionError for names of other classes."""
        if self.output is not None:
            word = "shapes" if callable(self.output) else self.output
            kept: dict[str, dict[str, Any]] = {
                "classes": self.areas,
                "picture": self.restored,
                "shapes": self.shapes,
            }
            kept[word].update(zip(samples, rows, strict=True))
            return
        for row in rows if self.strict else ():
            _check_count(self.names, row)
        self.guesses.update(zip(samples, (_guesses(r, self.names) for r in rows), strict=True))


def _check_count(names: Sequence[str], probabilities: Tensor) -> None:
    """Raise OptionError where as many names were given as the model has no classes."""
    classes = len(probabilities)
    if classes > 1 and classes != len(names):
        raise OptionError(
            f"labels= names {len(names)} classes, but the model tells {classes} apart: give a "
            "name for each, in the order of its outputs"
        )


def _guesses(probabilities: Tensor, names: Sequence[str]) -> list[Guess]:
    """The five most probable classes of a sample."""
    best = probabilities.topk(min(_BEST, len(probabilities)))
    return [
        Guess(names[c] if c < len(names) else f"class {c}", c, p)
        for p, c in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
