"""Outputs with a value at every place: areas of classes, or pictures restored from a photo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from torch import Tensor

from ...models.inputs import drawn
from ...probe.errors import OptionError
from .contents import Areas

if TYPE_CHECKING:
    from PIL.Image import Image

DenseOutput: TypeAlias = Literal["classes", "picture"]
"""What an output `b c y x` holds: a score a class and place, or a picture."""


def check_kind(asked: DenseOutput | None, *, pictures: bool) -> None:
    """Raise OptionError for an unknown kind, or one that is asked for what is no picture."""
    if asked is None:
        return
    if asked not in ("classes", "picture"):
        raise OptionError(f"output={asked!r} is unknown: write 'classes' or 'picture'")
    if not pictures:
        raise OptionError(f"output={asked!r} lies over pictures, and these inputs are none")


def areas_of(output: Tensor, names: Sequence[str]) -> list[Areas]:
    """The class with the highest score at each place, sample by sample."""
    _check(output, "classes", output.ndim == 4 and output.shape[1] > 1)
    return [Areas(scores.argmax(0).cpu(), names) for scores in output]


def restored_of(output: Tensor, mean: Any, std: Any) -> list[Image]:
    """An output as a picture, mean and std of the input undone, sample by sample."""
    _check(output, "picture", output.ndim == 4 and output.shape[1] in (1, 3))
    return [drawn(x, mean, std) for x in output]


def _check(output: Tensor, kind: DenseOutput, fits: bool) -> None:
    if not fits:
        wanted = "a score for each class" if kind == "classes" else "1 or 3 channels"
        raise OptionError(
            f"output={kind!r} was said, but the output has shape {tuple(output.shape)} and not "
            f"{wanted} at each place, `b c y x`: leave it out"
        )
