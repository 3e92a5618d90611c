"""Outputs that lie over a photo: areas of classes, pictures restored from it, shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from ...models.inputs import drawn
from ...probe.errors import OptionError
from ...probe.sites import ReadShapes, Shape, adapt, detections
from ...probe.targets import Target
from ...probe.trace import exchange
from .contents import Areas, Shapes

if TYPE_CHECKING:
    from PIL.Image import Image

DrawnOutput: TypeAlias = Literal["classes", "picture", "boxes"] | ReadShapes
"""What an output holds: a score a class and place, a picture `b c y x`, boxes, any shapes."""

KnownOutput: TypeAlias = Literal["classes", "picture"] | ReadShapes
"""The same, with the function that reads boxes in their place."""


def kind_of_output(
    model: nn.Module, asked: DrawnOutput | None, *, pictures: bool
) -> KnownOutput | None:
    """What is to be drawn of an output: as asked, else the shapes that the model's family knows.

    Raises OptionError for an unknown kind, or one that is asked for what is no picture.
    """
    if asked is None:
        return adapt(model).shapes if pictures else None
    if asked not in ("classes", "picture", "boxes") and not callable(asked):
        raise OptionError(
            f"output={asked!r} is unknown: write 'classes', 'picture', 'boxes', or a function that "
            "makes limelight.Shape of the output"
        )
    if not pictures:
        raise OptionError(f"output={asked!r} lies over pictures, and these inputs are none")
    return detections if asked == "boxes" else asked


def areas_of(output: Tensor, names: Sequence[str]) -> list[Areas]:
    """The class with the highest score at each place, sample by sample."""
    _check(output, "classes", output.ndim == 4 and output.shape[1] > 1)
    return [Areas(scores.argmax(0).cpu(), names) for scores in output]


def restored_of(output: Tensor, mean: Any, std: Any) -> list[Image]:
    """An output as a picture, mean and std of the input undone, sample by sample."""
    _check(output, "picture", output.ndim == 4 and output.shape[1] in (1, 3))
    return [drawn(x, mean, std) for x in output]


def _check(output: Tensor, kind: str, fits: bool) -> None:
    if not fits:
        wanted = "a score for each class" if kind == "classes" else "1 or 3 channels"
        raise OptionError(
            f"output={kind!r} was said, but the output has shape {tuple(output.shape)} and not "
            f"{wanted} at each place, `b c y x`: leave it out"
        )


def shapes_of(
    output: Any, read: ReadShapes, wanted: Sequence[Target], names: Sequence[str], samples: int
) -> list[Shapes]:
    """The shapes of an output, sample by sample, and which of them each target reads.

    A target reads a shape where both depend on one number of the output: this is seen in the
    gradients of the target and of the shape's score and points, so that any target will do.
    names  of classes
    Raises OptionError where a function makes no shapes of it.
    """
    leaves: dict[int, Tensor] = {}

    def leaf(_: str, t: Tensor) -> Tensor:
        if not t.is_floating_point():
            return t
        usable = t.clone() if t.is_inference() else t
        return leaves.setdefault(id(t), usable.detach().requires_grad_())

    with torch.enable_grad():
        copy = exchange(output, leaf)
        found = _checked(read(copy), samples)
        held = [[_support(_sum_of(s), leaves) for s in shapes] for shapes in found]
        readers: list[dict[str, tuple[int, ...]]] = [{} for _ in found]
        for target in wanted:
            fixed = target.fix(copy)
            titles, scores = fixed.titles(copy, names, samples), fixed(copy, samples)
            for i, (title, score) in enumerate(zip(titles, scores, strict=True)):
                by = _support(score, leaves)
                readers[i][title] = tuple(k for k, s in enumerate(held[i]) if _meet(by, s))
    plain = [tuple(map(_plain, shapes)) for shapes in found]
    return [Shapes(s, r, names) for s, r in zip(plain, readers, strict=True)]


def _checked(found: Any, samples: int) -> list[list[Shape]]:
    """Shapes as a function gave them. Raises OptionError for what are none."""
    try:
        listed = [list(shapes) for shapes in found]
    except TypeError:
        listed = []
    if len(listed) != samples or not all(isinstance(s, Shape) for part in listed for s in part):
        raise OptionError(
            f"the function given as output= must return a list of limelight.Shape for each of the "
            f"{samples} pictures"
        )
    for shapes in listed:
        for shape in shapes:
            if shape.of is not None and not 0 <= shape.of < len(shapes):
                raise OptionError(f"a shape belongs to number {shape.of} of {len(shapes)} shapes")
    return listed


def _sum_of(shape: Shape) -> Tensor:
    """A number that depends on all numbers of a shape, each with a weight of its own."""
    points = shape.points.double().flatten()
    total = (points * torch.arange(1, len(points) + 1, device=points.device)).sum()
    return total + shape.score.double() if isinstance(shape.score, Tensor) else total


def _support(score: Tensor, leaves: dict[int, Tensor]) -> dict[int, Tensor]:
    """Where a number depends on those of the output."""
    if not score.requires_grad or not leaves:
        return {}
    found = torch.autograd.grad(score, list(leaves.values()), retain_graph=True, allow_unused=True)
    return {key: g != 0 for key, g in zip(leaves, found, strict=True) if g is not None}


def _meet(one: dict[int, Tensor], other: dict[int, Tensor]) -> bool:
    return any(bool((one[key] & other[key]).any()) for key in one.keys() & other.keys())


def _plain(shape: Shape) -> Shape:
    score = shape.score.detach() if isinstance(shape.score, Tensor) else shape.score
    score = None if score is None else float(score)
    return replace(shape, points=shape.points.detach().double().cpu(), score=score)
