"""What a model's output draws over its picture: boxes, points and lines, each with its score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from ..errors import OptionError

Kind: TypeAlias = Literal["box", "points", "line"]
Corners: TypeAlias = Literal["xyxy", "xywh", "cxcywh"]
_KINDS = ("box", "points", "line")


@dataclass(frozen=True, eq=False)
class Shape:
    """A box, points, or a line over a picture.

    points    `n 2`, x and y of each, in pixels of the model's input from its upper left corner: of
              a box two opposite corners, of a line its corners in order
    label     the number of a class, or words
    score     a number, such as a probability; None for none
    relative  whether the points are shares of the input's sides
    of        the place of the shape that it belongs to among those of its picture, and with which
              it is chosen: of lines from a box to what it attends to, of the points of a person

    Points and scores that are still part of the output tell which shapes a target reads.
    Raises OptionError for another kind, and for points that are none of it.

    Example:
        >>> ll.Shape(torch.tensor([[2.0, 3.0], [10.0, 12.0]]), label="cat").kind
        'box'
    """

    points: Tensor
    kind: Kind = "box"
    label: int | str = ""
    score: Tensor | float | None = None
    relative: bool = False
    of: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise OptionError(f"a shape is a 'box', 'points' or a 'line', not {self.kind!r}")
        shape = tuple(self.points.shape)
        least = {"box": 2, "points": 1, "line": 2}[self.kind]
        right = self.kind != "box" or shape[0] == 2
        if len(shape) != 2 or shape[1] != 2 or shape[0] < least or not right:
            wanted = {"box": "two corners, 2 2", "points": "n 2", "line": "two or more, n 2"}
            raise OptionError(f"a {self.kind} has points {wanted[self.kind]}, not {shape}")

    @staticmethod
    def boxes(
        corners: Tensor,
        scores: Tensor | None = None,
        labels: Tensor | Sequence[int | str] | None = None,
        *,
        form: Corners = "xyxy",
        relative: bool = False,
    ) -> list[Shape]:
        """Boxes `n 4` of one picture, with a score and a class each.

        form  left, top, right, bottom; `xywh` left, top, width, height; `cxcywh` their centre
        Raises OptionError for boxes of another shape or form, and for other numbers of scores.
        """
        if corners.ndim != 2 or corners.shape[1] != 4:
            raise OptionError(f"boxes are n 4, a row each, not {tuple(corners.shape)}")
        for name, values in (("scores", scores), ("labels", labels)):
            if values is not None and len(values) != len(corners):
                raise OptionError(f"{len(values)} {name} were given for {len(corners)} boxes")
        found = _corners(corners, form).unflatten(1, (2, 2))
        named = labels.tolist() if isinstance(labels, Tensor) else labels
        return [
            Shape(
                found[i],
                label="" if named is None else named[i],
                score=None if scores is None else scores[i],
                relative=relative,
            )
            for i in range(len(found))
        ]


ReadShapes: TypeAlias = Callable[[Any], Sequence[Sequence[Shape]]]
"""The output of a batch -> the shapes of each of its pictures."""


def _corners(boxes: Tensor, form: Corners) -> Tensor:
    """Boxes of any form as left, top, right, bottom."""
    if form == "xyxy":
        return boxes
    place, size = boxes[:, :2], boxes[:, 2:]
    if form == "xywh":
        return torch.cat([place, place + size], 1)
    if form == "cxcywh":
        return torch.cat([place - size / 2, place + size / 2], 1)
    raise OptionError(f"form={form!r} is unknown: write 'xyxy', 'xywh' or 'cxcywh'")


def detections(output: Any) -> list[list[Shape]]:
    """What detectors of torchvision return: of each picture `boxes`, `scores`, `labels`.

    The boxes are left, top, right, bottom in pixels of the input; `keypoints` `n k 3`, if there are
    any, belong to them. Raises OptionError for another output.
    """
    parts = output if isinstance(output, (list, tuple)) else [output]
    wanted = ("boxes", "scores", "labels")
    if not parts or not all(isinstance(p, Mapping) and all(w in p for w in wanted) for p in parts):
        raise OptionError(
            "output='boxes' was said, but the output is no list with boxes, scores and labels of "
            "each picture: give output= a function that makes limelight.Shape of it"
        )
    return [_detected(part) for part in parts]


def _detected(part: Mapping[str, Any]) -> list[Shape]:
    found = Shape.boxes(part["boxes"], part["scores"], part["labels"])
    joints = part.get("keypoints", ())
    return found + [Shape(j[:, :2], "points", of=i) for i, j in enumerate(joints)]
