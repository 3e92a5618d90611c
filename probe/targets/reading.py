"""What an output is: which part of it is read, what its dimensions are, and on which scale."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from ..errors import TargetError
from .parts import main_part, part_at
from .scale import Made, Of, check_scale, found_scale, scaled

Form = Literal["classes", "field", "positions", "part"]


@dataclass(frozen=True)
class Given:
    """What a model was given.

    samples  in the batch; None where that is not known
    tokens   how many token ids a sample, where the input is token ids `b n`; else 0
    """

    samples: int | None = None
    tokens: int = 0


@dataclass(frozen=True)
class Reading:
    """How a target reads an output.

    form      classes: scores `b c`; field: `b c` and one to three places; positions: `b n c`, read
              as a field `b c n`; part: as it is
    at        the path of the part; "" for the only one, or for `logits`
    of        the scale that is asked for
    dense     the part is `b c` and places: classes are summed over the places
    position  the part is `b n c`: its place `position` is read
    tokens    as in `Given`: such a model's `b n v` is read at its last position
    made      the scale that the output is on; None as long as that was not found out
    notes     what was assumed

    Outputs `b c`, and `b`, are scores of classes; `b c y x` and `b c z y x` are dense. Three
    dimensions are `b n v` where the input is token ids or the model calls its output that of a
    language model; others are not told from `b c t`, and `dense` or `position` must say it.
    """

    form: Form = "classes"
    at: str = ""
    of: Of = "logit"
    dense: bool = False
    position: int | None = None
    tokens: int = 0
    made: Made | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_scale(self.of)
        if not isinstance(self.dense, bool) or not isinstance(self.position, int | None):
            raise TargetError(
                f"dense is true or false and position a whole number, not {self.dense!r} and "
                f"{self.position!r}"
            )
        if self.dense and self.position is not None:
            raise TargetError("dense=True means b c and places, position= means b n c: give one")

    def __call__(self, output: Any, samples: int | None = None) -> Tensor:
        """The scores `b c`, the field or the part. Raises TargetError where it does not fit."""
        part = self.part(output)
        if self.form == "part":
            return _of_samples(part, part, samples)
        values = _of_samples(self.places(output, samples), part, samples)
        return values.flatten(2).sum(2) if self.form == "classes" and values.ndim > 2 else values

    def places(self, output: Any, samples: int | None = None) -> Tensor:
        """The scores before places are summed, on the scale asked for: `b c ...`."""
        values = self._values(output, samples)
        if not self.open:
            return scaled(values, self.of, self.made or "logits")
        made, _ = found_scale(self.part(output), values)
        return scaled(values, self.of, made)

    def part(self, output: Any) -> Tensor:
        """The tensor that is read."""
        return part_at(output, self.at) if self.at else main_part(output)

    @property
    def told_of(self) -> str:
        """What differs from the usual reading, as options: `,of=probability,dense=True`."""
        options = ("of", self.of), ("dense", self.dense), ("position", self.position)
        usual = Reading()
        return "".join(f",{k}={v}" for k, v in options if v != getattr(usual, k))

    def told(self, given: Given) -> Reading:
        """The reading of an output that a model makes of what it was given."""
        return replace(self, tokens=given.tokens) if given.tokens and not self.tokens else self

    @property
    def open(self) -> bool:
        """Whether it still has to be found out on what scale the output is."""
        return self.made is None and self.of != "logit" and self.form != "part"

    def settled(self, output: Any, samples: int | None = None) -> Reading:
        """The reading with what an output with its graph tells, for outputs without a graph."""
        if self.form == "part" or self.made is not None:
            return self
        part = self.part(output)
        notes = (*self.notes, *_noted(self, part, output))
        if self.of == "logit":
            return replace(self, notes=tuple(dict.fromkeys(notes)))
        made, assumed = found_scale(part, self._values(output, samples))
        return replace(self, made=made, notes=tuple(dict.fromkeys(notes + assumed)))

    def _values(self, output: Any, samples: int | None) -> Tensor:
        part = self.part(output)
        if self.form == "field":
            return _field(part)
        if self.form == "positions":
            return _positions(part).transpose(1, 2)
        return _classes(self, part, samples, reads_tokens(self, part, output))


def reads_tokens(reading: Reading, part: Tensor, output: Any) -> bool:
    """Whether three dimensions are known to be `b n v`: token ids went in, or the type says so.

    Ids alone do not decide where the tokens lie in the third dimension.
    """
    if part.ndim != 3 or reading.dense or reading.position is not None:
        return False
    if not reading.at and "LM" in type(output).__name__:  # transformers' CausalLMOutput, ...
        return True
    count = reading.tokens
    return bool(count) and not (part.shape[2] == count != part.shape[1])


def _noted(reading: Reading, part: Tensor, output: Any) -> tuple[str, ...]:
    if reading.form != "classes" or not reads_tokens(reading, part, output):
        return ()
    return (f"output {tuple(part.shape)} read as b n v, at its last position",)


def _classes(reading: Reading, part: Tensor, samples: int | None, tokens: bool) -> Tensor:
    """Scores `b c ...` before they are summed over places."""
    if reading.position is not None:
        return _at_position(part, reading.position)
    if reading.dense:
        return _field(part)
    if tokens:
        return part[:, -1]
    if part.ndim == 0:
        if samples == 1:
            return part[None, None]
        raise TargetError(
            "a class was asked for, but the model returns a single number for the batch"
        )
    if part.ndim == 1:
        return part[None] if samples == 1 else part[:, None]
    if part.ndim == 3 or part.ndim > 5:
        raise TargetError(
            f"a class was asked for, but an output {tuple(part.shape)} may be positions b n c or "
            "classes over places, b c t: write position=-1 (or limelight.token) or dense=True, "
            "name another part by at=, or give a function of the output"
        )
    return part


def _positions(part: Tensor) -> Tensor:
    if part.ndim != 3:
        raise TargetError(f"positions need an output b n c, but the output is {tuple(part.shape)}")
    return part


def _at_position(part: Tensor, position: int) -> Tensor:
    if part.ndim != 3 or not -part.shape[1] <= position < part.shape[1]:
        raise TargetError(
            f"position={position} needs an output b n c with that position, "
            f"but the output is {tuple(part.shape)}"
        )
    return part[:, position]


def _field(part: Tensor) -> Tensor:
    if not 3 <= part.ndim <= 5:
        raise TargetError(
            "a place needs a dense output b c and t, y x or z y x, but the output is "
            f"{tuple(part.shape)}"
        )
    return part


def _of_samples(values: Tensor, part: Tensor, samples: int | None) -> Tensor:
    if samples is not None and values.shape[:1] != (samples,):
        raise TargetError(
            f"a score a sample was asked for, but the input has {samples} samples and the output "
            f"is {tuple(part.shape)}: give a function of the output"
        )
    return values
