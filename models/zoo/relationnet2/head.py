"""The BVR head (arXiv 2010.15831): a dense head that attends to key points before it predicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ....probe.errors import ModelError
from ...card import State
from .convolutions import Norm, tower
from .keypoint_head import KeypointHead, Levels, locations, of_types
from .options import SOURCES, HeadOptions
from .transformer import BVRTransformer, Geometry

CLS_TYPES = ("center",)
REG_TYPES = ("top_left_corner", "bottom_right_corner")


class RetinaHead(nn.Module):
    """Two towers, and a 3 x 3 convolution behind each: classes and box deltas of each anchor."""

    def __init__(
        self, channels: int, num_classes: int, anchors: int, stacked: int, norm: Norm | None
    ) -> None:
        super().__init__()
        self.cls_convs = tower(channels, stacked, norm)
        self.reg_convs = tower(channels, stacked, norm)
        self.retina_cls = nn.Conv2d(channels, anchors * num_classes, 3, 1, 1)
        self.retina_reg = nn.Conv2d(channels, anchors * 4, 3, 1, 1)


class BVRHead(nn.Module):
    """Towers, key points, attention of every place to the strongest of them, predictions.

    Scores of classes attend to centres, sides of boxes to top left and bottom right corners.
    """

    def __init__(self, options: HeadOptions) -> None:
        super().__init__()
        o = self.options = options
        stacked, keypoints = o.stacked_convs, (o.keypoint_stacked_convs, o.keypoint_logits_convs)
        anchors = o.anchors_per_location
        self.bbox_head = RetinaHead(o.channels, o.num_classes, anchors, stacked, o.norm)
        self.keypoint_head = KeypointHead(o.channels, o.num_classes, *keypoints, o.norm)
        shared: bool | Geometry = o.shared_positional_encoding_inter
        self.cls_transformer = BVRTransformer(o, CLS_TYPES, shared_geometry=shared)
        known = self.cls_transformer.relative_positional_encoding
        if o.shared_positional_encoding_outer and isinstance(known, Geometry):
            shared = known
        self.reg_transformer = BVRTransformer(
            o, REG_TYPES, shared_geometry=shared, cat_pos=o.reg_cat_pos
        )

    def convert_state(self, state: State) -> State:
        """A file's entries but for the sines that geometry is made of: they are computed here."""
        return {name: x for name, x in state.items() if not name.endswith(".base_embedding")}

    def forward(self, *levels: Tensor | Sequence[Tensor]) -> dict[str, Any]:
        """Levels `b c y x`, each an argument or all in a list, from the finest to the coarsest.

        `cls_score`, of each level `b (anchor class) y x`, and `bbox_pred`, `b (anchor 4) y x`; in
        training also `keypoint_scores` and `keypoint_offsets`, by type and level. Raises
        ModelError for another number of levels or channels, and for too few key points.
        """
        maps = self._checked(levels)
        cls = [self.bbox_head.cls_convs(x) for x in maps]
        reg = [self.bbox_head.reg_convs(x) for x in maps]
        sources = dict(zip(SOURCES, (maps, cls, reg), strict=True))
        scores, offsets = self.keypoint_head(sources[self.options.keypoint_pos])
        known = scores, offsets
        cls = self._enhanced(self.cls_transformer, cls, *known, CLS_TYPES)
        reg = self._enhanced(self.reg_transformer, reg, *known, REG_TYPES)
        found: dict[str, Any] = {
            "cls_score": [self.bbox_head.retina_cls(x) for x in cls],
            "bbox_pred": [self.bbox_head.retina_reg(x) for x in reg],
        }
        if self.training:
            found |= {"keypoint_scores": scores, "keypoint_offsets": offsets}
        return found

    def _enhanced(
        self,
        transformer: BVRTransformer,
        levels: Levels,
        scores: dict[str, list[Tensor]],
        offsets: dict[str, list[Tensor]],
        types: Sequence[str],
    ) -> list[Tensor]:
        """What each place has, with what it attends to among the key points of some types."""
        keys = of_types(
            levels, scores, offsets, types, self.options.strides, self.options.selection
        )
        sides = zip(levels, self.options.strides, strict=True)
        like = keys[0][0].position
        places = [locations(x.shape[2:], stride, like) for x, stride in sides]
        return transformer(levels, keys, places, self.options.scales)

    def _checked(self, given: Sequence[Tensor | Sequence[Tensor]]) -> list[Tensor]:
        first = given[0] if given else ()
        levels = [x for x in (given if isinstance(first, Tensor) else first)]
        strides = tuple(self.options.strides)
        if len(levels) != len(strides):
            raise ModelError(
                f"the head was given {len(levels)} levels, but its strides are {strides}: give "
                f"{len(strides)} levels, the finest first, or build it with strides= of yours"
            )
        for n, x in enumerate(levels):
            if not isinstance(x, Tensor) or x.ndim != 4 or x.shape[1] != self.options.channels:
                found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
                raise ModelError(
                    f"level {n} is {found}, but the head reads `b c y x` of "
                    f"{self.options.channels} channels: give such a map"
                )
        return levels  # type: ignore[return-value]
