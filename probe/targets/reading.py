"""What an output is: which part of it is read, what its dimensions are, and on which scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
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
    axes     what the dimensions of a part of the output are, `b c y x`, `?` where neither the ops
             nor anybody says it; the part and its path
    """

    samples: int | None = None
    tokens: int = 0
    axes: Callable[[Tensor, str], str] | None = field(default=None, compare=False)


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
    axes      of the part, as in `Given`; "" as long as nobody looked
    notes     what was assumed

    Outputs `b c`, and `b`, are scores of classes. More dimensions are read by their axes: where
    channels come first, or four or five dimensions have no known axes, they are dense, `b c t`,
    `b c y x`; `b n v` is read at its last position where the input is token ids or the model
    calls its output that of a language model; of others `dense` or `position` must say it.
    """

    form: Form = "classes"
    at: str = ""
    of: Of = "logit"
    dense: bool = False
    position: int | None = None
    tokens: int = 0
    made: Made | None = None
    axes: str = ""
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

    def wants_axes(self, output: Any) -> bool:
        """Whether the axes of the part matter, and nobody has looked for them."""
        return self.form != "part" and not self.axes and self.part(output).ndim > 2

    def settled(self, output: Any, given: Given | None = None) -> Reading:
        """The reading with what an output with its graph tells, for outputs without a graph."""
        if self.form == "part":
            return self
        given, part = given or Given(), self.part(output)
        reading = self
        if given.axes is not None and self.wants_axes(output):
            reading = replace(self, axes=given.axes(part, self.at))
        if reading.made is not None:
            return reading
        notes = (*self.notes, *_noted(reading, part, output))
        if self.of == "logit":
            return replace(reading, notes=tuple(dict.fromkeys(notes)))
        made, assumed = found_scale(part, reading._values(output, given.samples))
        return replace(reading, made=made, notes=tuple(dict.fromkeys(notes + assumed)))

    def _values(self, output: Any, samples: int | None) -> Tensor:
        part = self.part(output)
        ordered = _channels_second(part, self.axes)
        if self.form == "field":
            return _field(part if ordered is None else ordered)
        if self.form == "positions":
            positions = _positions(part)
            return positions.transpose(1, 2) if ordered is None else ordered
        return _classes(self, part, ordered, samples, reads_tokens(self, part, output))


def _channels_second(part: Tensor, axes: str) -> Tensor | None:
    """A part as `b c` and its places; None where its axes are not known."""
    words = axes.split()
    if part.ndim != len(words) or "b" not in words or "c" not in words:
        return None
    return part.movedim((words.index("b"), words.index("c")), (0, 1))


def reads_tokens(reading: Reading, part: Tensor, output: Any) -> bool:
    """Whether three dimensions are known to be `b n v`: token ids went in, or the type says so.

    Ids alone do not decide where the tokens lie in the third dimension.
    """
    if part.ndim != 3 or reading.dense or reading.position is not None:
        return False
    if not reading.at and "LM" in type(output).__name__:  # transformers' CausalLMOutput, ...
        return True
    if reading.tokens and "c" in (words := reading.axes.split()):
        return words.index("c") == 2
    count = reading.tokens
    return bool(count) and not (part.shape[2] == count != part.shape[1])


def _noted(reading: Reading, part: Tensor, output: Any) -> tuple[str, ...]:
    if reading.form == "classes" and reads_tokens(reading, part, output):
        return (f"output {tuple(part.shape)} read as b n v, at its last position",)
    if 4 <= part.ndim <= 5 and _channels_second(part, reading.axes) is None:
        usual = "b c y x" if part.ndim == 4 else "b c z y x"
        return (f"output {tuple(part.shape)} read as {usual}: no op says what its dimensions are",)
    return ()


def _classes(
    reading: Reading, part: Tensor, ordered: Tensor | None, samples: int | None, tokens: bool
) -> Tensor:
    """Scores `b c ...` before they are summed over places.

    ordered  the part as `b c` and places, where its axes are known
    """
    if reading.position is not None:
        turned = part if ordered is None else ordered.transpose(1, -1)
        return _at_position(turned, reading.position)
    if reading.dense:
        return _field(part if ordered is None else ordered)
    if tokens:
        return part[:, -1]
    if ordered is not None and (part.ndim > 3 or reading.axes.split().index("c") == 1):
        return ordered
    if part.ndim == 0:
        if samples == 1:
            return part[None, None]
        raise TargetError(
            "a class was asked for, but the model returns a single number for the batch"
        )
    if part.ndim == 1:
        return part[None] if samples == 1 else part[:, None]
    if part.ndim == 3 or part.ndim > 5:
        shape = f"an output {tuple(part.shape)}"
        raise TargetError(
            f"a class was asked for, but {shape} may be positions b n c or classes over places, "
            "b c t: write position=-1 (or limelight.token) or dense=True, "
            "name another part by at=, or give a function of the output"
            if ordered is None
            else f"a class was asked for, but {shape} is {reading.axes}: write position=-1 for the "
            "scores of one of them, or dense=True for their sum"
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
