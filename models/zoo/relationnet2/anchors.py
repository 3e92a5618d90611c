"""Boxes from what a head says of anchors: RetinaNet's anchors (arXiv 1708.02002), and deltas."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ....probe.errors import OptionError
from .keypoint_head import Levels

FARTHEST = math.log(1000 / 16)  # what side deltas are clamped to


def anchors(
    size: Sequence[int],
    stride: int,
    *,
    scale: float = 4.0,
    per_octave: int = 3,
    ratios: Sequence[float] = (0.5, 1.0, 2.0),
    like: Tensor,
) -> Tensor:
    """The anchors of a level, `y x a 4`: left, top, right, bottom in pixels.

    Anchor (ratio, octave) has height sqrt(ratio) and width 1 / sqrt(ratio) times stride scale
    2^(octave / per_octave), ratios in the outer order, around (column stride, row stride).
    """
    tall = like.new_tensor(ratios).sqrt()[:, None]
    side = stride * scale * 2 ** (torch.arange(per_octave).to(like) / per_octave)
    half = torch.stack([side / tall, side * tall], -1).flatten(0, 1) / 2
    y, x = (torch.arange(n).to(like) * stride for n in size)
    centre = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[:, :, None]
    return torch.cat([centre - half, centre + half], -1)


def decoded(anchor: Tensor, deltas: Tensor) -> Tensor:
    """Boxes `... 4` of anchors `... 4`: centres move by deltas of sides, sides grow by e^delta."""
    first, last = anchor[..., :2], anchor[..., 2:]
    side = last - first
    centre = (first + last) / 2 + deltas[..., :2] * side
    half = side * deltas[..., 2:].clamp(-FARTHEST, FARTHEST).exp() / 2
    return torch.cat([centre - half, centre + half], -1)


def encoded(anchor: Tensor, boxes: Tensor) -> Tensor:
    """The deltas that make boxes of anchors."""
    side, own = anchor[..., 2:] - anchor[..., :2], boxes[..., 2:] - boxes[..., :2]
    moved = (boxes[..., :2] + boxes[..., 2:] - anchor[..., :2] - anchor[..., 2:]) / 2
    return torch.cat([moved / side, (own / side).log()], -1)


def boxes_of(
    bbox_pred: Levels,
    strides: Sequence[int],
    *,
    scale: float = 4.0,
    per_octave: int = 3,
    ratios: Sequence[float] = (0.5, 1.0, 2.0),
) -> list[Tensor]:
    """The box of every anchor of every level, `b y x a 4` in pixels, from `bbox_pred` of a head.

    Raises OptionError where the head predicts another number of anchors.
    """
    count, found = per_octave * len(ratios), []
    for x, stride in zip(bbox_pred, strides, strict=True):
        if x.shape[1] != 4 * count:
            raise OptionError(
                f"per_octave={per_octave} and ratios={tuple(ratios)} make {count} anchors a place, "
                f"but the head predicts {x.shape[1] // 4}: give those that it was trained with"
            )
        how = {"scale": scale, "per_octave": per_octave, "ratios": ratios, "like": x}
        own = anchors(x.shape[2:], stride, **how)  # type: ignore[arg-type]
        deltas = x.permute(0, 2, 3, 1).unflatten(3, (count, 4))
        found.append(decoded(own, deltas))
    return found
