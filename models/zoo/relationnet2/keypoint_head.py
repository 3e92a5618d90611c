"""The head that finds key points, and how the strongest of them are chosen on each level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....probe.errors import ModelError, OptionError
from .convolutions import Norm, tower

TYPES = ("top_left_corner", "bottom_right_corner", "center")
METHODS = ("index", "interpolation")
Levels = Sequence[Tensor]


class KeypointHead(nn.Module):
    """Class scores and offsets of each type of key point, at each place of each level."""

    def __init__(
        self, channels: int, num_classes: int, stacked: int, logits: int, norm: Norm | None
    ) -> None:
        super().__init__()

        def heads(out: int) -> nn.ModuleDict:
            return nn.ModuleDict({t: tower(channels, logits, norm, out) for t in TYPES})

        self.keypoint_layers = nn.ModuleDict({t: tower(channels, stacked, norm) for t in TYPES})
        self.keypoint_cls_heads = heads(num_classes)
        self.keypoint_offset_heads = heads(2)

    def forward(self, levels: Levels) -> tuple[dict[str, list[Tensor]], dict[str, list[Tensor]]]:
        """Logits `b c y x` and offsets `b 2 y x`, in strides, x before y, by type and level."""
        scores: dict[str, list[Tensor]] = {}
        offsets: dict[str, list[Tensor]] = {}
        for kind in TYPES:
            inner = [self.keypoint_layers[kind](x) for x in levels]
            scores[kind] = [self.keypoint_cls_heads[kind](x) for x in inner]
            offsets[kind] = [self.keypoint_offset_heads[kind](x) for x in inner]
        return scores, offsets


@dataclass(frozen=True, eq=False)
class Candidates:
    """The strongest key points of one level.

    score     `b k`, in 0..1; 0 where there were fewer local maxima
    place     `b k`, row x width + column
    position  `b k 2`, x and y in pixels
    """

    score: Tensor
    place: Tensor
    position: Tensor


@dataclass(frozen=True, eq=False)
class Keys:
    """What a level attends to: features `b k c` at positions `b k 2`, x and y in pixels."""

    features: Tensor
    position: Tensor


@dataclass(frozen=True)
class Selection:
    """How key points are chosen.

    most        of each level
    topk        of all levels together; 0 or less keeps each level's own
    method      features are those of the place, `index`, or read between places, `interpolation`
    own_level   whether a feature comes from the level where its key point was found, else each
                level reads all key points on its own map
    """

    most: int
    topk: int
    method: str
    own_level: bool

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise OptionError(
                f"selection_method={self.method!r} is not known: write 'index' or 'interpolation'"
            )
        if self.method == "index" and self.topk > 0 and not self.own_level:
            raise OptionError(
                "selection_method='index' reads key points where they were found, but "
                "cross_level_selection=False asks for them on every level: write 'interpolation'"
            )
        if self.most < 1:
            raise OptionError(f"max_keypoint_num={self.most} leaves no key point: give 1 or more")


def strongest(scores: Tensor, count: int) -> Tensor:
    """The places of the `count` largest of `b n`, largest first and of equal ones the first.

    Scores are at least 0 and are compared in float32, whose bits then are in the same order.
    """
    bits = scores.detach().float().contiguous().view(torch.int32).long()
    first = torch.arange(scores.shape[1], 0, -1, device=scores.device)
    return ((bits << 32) + first).topk(count).indices


def locations(size: Sequence[int], stride: int, like: Tensor) -> Tensor:
    """Where the places of a level lie, `(y x) 2`: column stride + stride // 2, and so the row."""
    x, y = (
        torch.arange(n, device=like.device, dtype=like.dtype) * stride + stride // 2
        for n in (size[1], size[0])
    )
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)


def candidates(logits: Tensor, offsets: Tensor, stride: int, most: int) -> Candidates:
    """The strongest local maxima of 3 x 3 places, a class at a time, of logits `b c y x`.

    position = location + offset stride; a place may stand for several classes. Positions are in
    float32 or wider.
    """
    places = logits.shape[2] * logits.shape[3]
    heat = logits.detach().sigmoid()
    heat = heat.where(F.max_pool2d(heat, 3, 1, 1) == heat, 0).flatten(1)
    best = strongest(heat, min(places, most))
    score, place = heat.gather(1, best), best % places
    wide = offsets if offsets.dtype == torch.float64 else offsets.float()
    moved = wide.flatten(2).transpose(1, 2).gather(1, place[..., None].expand(-1, -1, 2))
    return Candidates(
        score, place, locations(logits.shape[2:], stride, wide)[place] + moved * stride
    )


def keys_of(
    features: Levels,
    logits: Levels,
    offsets: Levels,
    strides: Sequence[int],
    how: Selection,
) -> list[Keys]:
    """What each level attends to of one type of key point.

    Raises ModelError where all levels together have fewer candidates than are to be chosen.
    """
    found = [
        candidates(heat, moved, stride, how.most)
        for heat, moved, stride in zip(logits, offsets, strides, strict=True)
    ]
    extent = [side * strides[0] for side in features[0].shape[:1:-1]]
    if how.topk <= 0:
        return [
            Keys(_read(x, one, extent, how.method), one.position)
            for x, one in zip(features, found, strict=True)
        ]
    chosen = _chosen(found, how.topk)
    position = _rows(torch.cat([one.position for one in found], 1), chosen)
    if not how.own_level:
        return [Keys(between(x, position, extent), position) for x in features]
    read = [_read(x, one, extent, how.method) for x, one in zip(features, found, strict=True)]
    return [Keys(_rows(torch.cat(read, 1), chosen), position)] * len(features)


def _chosen(found: Sequence[Candidates], topk: int) -> Tensor:
    scores = torch.cat([one.score for one in found], 1)
    if scores.shape[1] < topk:
        counts = " + ".join(str(one.score.shape[1]) for one in found)
        raise ModelError(
            f"cross_level_topk={topk} key points are to be chosen, but the levels have {counts} = "
            f"{scores.shape[1]} candidates: give a larger picture, or build the model with a "
            "larger max_keypoint_num or a smaller cross_level_topk"
        )
    return strongest(scores, topk)


def _read(x: Tensor, found: Candidates, extent: Sequence[int], method: str) -> Tensor:
    if method == "index":
        return _rows(x.flatten(2).transpose(1, 2), found.place)
    return between(x, found.position, extent)


def between(x: Tensor, position: Tensor, extent: Sequence[int]) -> Tensor:
    """Features `b k c` of `b c y x` at positions in pixels, bilinear, beyond the border the border.

    extent  width and height that the map covers, in pixels
    """
    grid = position * 2 / position.new_tensor(extent) - 1
    found = F.grid_sample(x, grid[:, None].to(x.dtype), padding_mode="border", align_corners=False)
    return found.squeeze(2).transpose(1, 2)


def _rows(x: Tensor, rows: Tensor) -> Tensor:
    """Rows `b k` of `b n c`."""
    return x.gather(1, rows[..., None].expand(-1, -1, x.shape[2]))


def of_types(
    features: Levels,
    scores: Mapping[str, Levels],
    offsets: Mapping[str, Levels],
    types: Sequence[str],
    strides: Sequence[int],
    how: Selection,
) -> list[list[Keys]]:
    """What each level attends to, for each of some types of key points."""
    return [keys_of(features, scores[kind], offsets[kind], strides, how) for kind in types]
