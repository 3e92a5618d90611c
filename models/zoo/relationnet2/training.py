"""What key points are trained on: Gaussians around the corners and centres of boxes, offsets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ....probe.errors import ModelError
from .keypoint_head import TYPES, Levels, locations

OVERLAP = 0.7  # the least IoU of a box whose corner lies within the radius


@dataclass(frozen=True, eq=False)
class Goal:
    """What one level should say of one type of key point.

    score     `c y x`, in 0..1
    offset    `2 y x`, in strides, x before y
    positive  `y x`, true where the place is the nearest of some key point
    """

    score: Tensor
    offset: Tensor
    positive: Tensor


def key_points(boxes: Tensor) -> dict[str, Tensor]:
    """The key points `n 2` of boxes `n 4` (left, top, right, bottom), by type."""
    first, last = boxes[:, :2], boxes[:, 2:]
    return dict(zip(TYPES, (first, last, (first + last) / 2), strict=True))


def gaussian_radius(sides: Tensor, overlap: float = OVERLAP) -> Tensor:
    """How far both corners of boxes of sides `n 2` may move and keep an IoU of `overlap`.

    The least of three roots: one corner in and one out, both in, both out; each over 2 a, as
    CornerNet's corrected code has it.
    """
    total, area = sides.sum(1), sides.prod(1)
    equations = (
        (1.0, -total, area * (1 - overlap) / (1 + overlap)),
        (4.0, -2 * total, area * (1 - overlap)),
        (4 * overlap, 2 * overlap * total, area * (overlap - 1)),
    )
    roots = []
    for a, b, c in equations:
        root = (b.square() - 4 * a * c).sqrt()
        roots.append((-b + root if a == 4 * overlap else -b - root) / (2 * a))
    return torch.stack(roots).amin(0)


def goals(
    boxes: Tensor,
    labels: Tensor,
    sizes: Sequence[Sequence[int]],
    strides: Sequence[int],
    num_classes: int,
) -> dict[str, list[Goal]]:
    """What all levels should say of one picture, by type and level.

    score = exp(-d^2 / (2 s^2)), d from the place nearest to the key point, s = (2 r + 1) / 6 with
    r of `gaussian_radius`, all in pixels; of several boxes the largest, for its class alone.

    boxes   `n 4`, left, top, right, bottom in pixels; labels `n`
    sizes   rows and columns of each level
    """
    points, spread = key_points(boxes), (2 * gaussian_radius(boxes[:, 2:] - boxes[:, :2]) + 1) / 6
    return {
        kind: [
            _goal(points[kind], labels, spread, size, stride, num_classes)
            for size, stride in zip(sizes, strides, strict=True)
        ]
        for kind in TYPES
    }


def _goal(
    points: Tensor, labels: Tensor, spread: Tensor, size: Sequence[int], stride: int, classes: int
) -> Goal:
    places, shape = locations(size, stride, points), tuple(size)
    score, offset = points.new_zeros(len(places), classes), torch.zeros_like(places)
    positive = torch.zeros(len(places), dtype=torch.bool, device=points.device)
    if len(points):
        nearest = torch.cdist(points, places).argmin(1)
        away = (places[:, None] - places[nearest]).square().sum(-1)
        value, owner = (-away / (2 * spread.square())).exp().max(1)
        score.scatter_(1, labels[owner][:, None], value[:, None])
        positive[nearest] = True
        offset[positive] = (points[owner] - places)[positive] / stride
    score, offset = score.T.unflatten(1, shape), offset.T.unflatten(1, shape)
    return Goal(score, offset, positive.unflatten(0, shape))


def keypoint_loss(
    scores: Mapping[str, Levels],
    offsets: Mapping[str, Levels],
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    strides: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """The losses of scores and of offsets, each over the number of positive places.

    scores: 0.25 times the penalty-reduced focal loss, - (1 - p)^2 log p where the goal is 1, else
    - (1 - goal)^4 p^2 log(1 - p). offsets: smooth L1, at positive places. Raises ModelError where
    boxes and labels are not one a picture.
    """
    first = scores[TYPES[0]]
    if not len(boxes) == len(labels) == len(first[0]):
        raise ModelError(
            f"{len(boxes)} sets of boxes and {len(labels)} of labels were given for "
            f"{len(first[0])} pictures: give one of each a picture"
        )
    sizes, classes = [x.shape[2:] for x in first], first[0].shape[1]
    wanted = [
        goals(own, kinds, sizes, strides, classes) for own, kinds in zip(boxes, labels, strict=True)
    ]
    of_scores, of_offsets, count = [], [], 0
    for kind in TYPES:
        for n, (logits, moved) in enumerate(zip(scores[kind], offsets[kind], strict=True)):
            levels = [one[kind][n] for one in wanted]
            positive = torch.stack([goal.positive for goal in levels])
            count += int(positive.sum())
            of_scores.append(_focal(logits, torch.stack([goal.score for goal in levels])))
            away = F.smooth_l1_loss(
                moved, torch.stack([goal.offset for goal in levels]), reduction="none"
            )
            of_offsets.append((away * positive[:, None]).sum())
    total = max(count, 1)
    return 0.25 * torch.stack(of_scores).sum() / total, torch.stack(of_offsets).sum() / total


def _focal(logits: Tensor, goal: Tensor) -> Tensor:
    share = logits.sigmoid()
    hit = (1 - share).square() * F.logsigmoid(logits)
    miss = (1 - goal) ** 4 * share.square() * F.logsigmoid(-logits)
    return -hit.where(goal == 1, miss).sum()
