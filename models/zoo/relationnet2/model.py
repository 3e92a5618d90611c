"""RelationNet++ (arXiv 2010.15831): RetinaNet with the BVR head, and the head on any levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ....probe.errors import OptionError
from ...card import Card, Figure, State
from ...registry import Variant, load, register
from .backbone import FPN, Stages
from .convolutions import Norm, norm_in
from .head import BVRHead
from .keypoint_head import Selection
from .options import HeadOptions

NORM = "GroupNorm 32 groups, eps 1e-5"
FIRST = 1  # the pyramid leaves out the finest stage


class RelationNet2(nn.Module):
    """A residual network, a pyramid on all stages but the first, a BVR head on the pyramid."""

    def __init__(self, backbone: Stages, norm: Norm | None, options: HeadOptions) -> None:
        super().__init__()
        self.backbone = backbone
        widths = backbone.widths[FIRST:]
        self.neck = FPN(widths, options.channels, len(options.strides), norm)
        self.bbox_head = BVRHead(options)

    def convert_state(self, state: State) -> State:
        """A file's entries but for the sines that geometry is made of: they are computed here."""
        return self.bbox_head.convert_state(state)

    def forward(self, x: Tensor) -> dict[str, Any]:
        """Pictures `b c y x`; what comes out is the head's."""
        return self.bbox_head(self.neck(self.backbone(x)[FIRST:]))


def relationnet2(
    *,
    backbone: str | None = "resnet50",
    layers: Sequence[int] | None = None,
    width: int = 64,
    groups: int = 1,
    width_per_group: int = 64,
    stage_with_dcn: Sequence[bool] = (),
    in_channels: int = 3,
    norm_eps: float = 1e-5,
    channels: int = 256,
    num_classes: int = 80,
    anchors_per_location: int = 9,
    stacked_convs: int = 4,
    keypoint_stacked_convs: int = 2,
    keypoint_logits_convs: int = 1,
    num_attn_heads: int = 8,
    base_size: Sequence[int] = (400, 400),
    log_scale: bool = True,
    scale_position: bool = False,
    scale_factor: float = 1.0,
    strides: Sequence[int] = (8, 16, 32, 64, 128),
    max_keypoint_num: int = 20,
    cross_level_topk: int = 50,
    selection_method: str = "index",
    cross_level_selection: bool = True,
    keypoint_pos: str = "input",
    with_relative_positional_encoding: bool = True,
    with_appearance_relation: bool = True,
    shared_positional_encoding_inter: bool = True,
    shared_positional_encoding_outer: bool = False,
    reg_cat_pos: bool = False,
    norm: str | None = NORM,
) -> RelationNet2 | BVRHead:
    """A detector with the BVR head, or the head alone, on levels of any number.

    backbone                  a residual network of the zoo, None for the head alone; layers, width,
                              groups, width_per_group, in_channels and norm_eps are the network's
    stage_with_dcn            stages whose 3 x 3 convolutions are deformable
    channels                  of every level and tower
    stacked_convs             convolutions of each tower; keypoint_stacked_convs of each type of
                              key point, keypoint_logits_convs of its scores and of its offsets
    base_size                 width and height of the offsets that geometry tells apart, in strides
    log_scale                 geometry is max(T, 1e-6) as a factor of attention, else T is added
    scale_position            positions are divided by each level's own stride, else by the first;
                              times scale_factor
    max_keypoint_num          key points of each level; cross_level_topk of all levels together,
                              0 or less leaves each level its own
    selection_method          `index` or `interpolation`, how key points are read off a map
    cross_level_selection     each from its own level, else each level reads all on its own map
    keypoint_pos              what key points are found in: `input`, or the tower `cls` or `reg`
    with_appearance_relation  else attention is geometry alone; with_relative_positional_encoding:
                              else appearance alone
    shared_positional_encoding_inter  one geometry for both corners; ..._outer: for centres too
    reg_cat_pos               boxes also get the mean offset of the corners attended to
    norm                      of the pyramid and all towers, None for biases
    Raises OptionError for values that do not fit each other.
    """
    options = HeadOptions(
        channels=channels,
        num_classes=num_classes,
        anchors_per_location=anchors_per_location,
        stacked_convs=stacked_convs,
        keypoint_stacked_convs=keypoint_stacked_convs,
        keypoint_logits_convs=keypoint_logits_convs,
        num_attn_heads=num_attn_heads,
        base_size=tuple(base_size),
        log_scale=log_scale,
        scale_position=scale_position,
        scale_factor=scale_factor,
        strides=tuple(strides),
        selection=Selection(
            max_keypoint_num, cross_level_topk, selection_method, cross_level_selection
        ),
        keypoint_pos=keypoint_pos,
        with_relative_positional_encoding=with_relative_positional_encoding,
        with_appearance_relation=with_appearance_relation,
        shared_positional_encoding_inter=shared_positional_encoding_inter,
        shared_positional_encoding_outer=shared_positional_encoding_outer,
        reg_cat_pos=reg_cat_pos,
        norm=norm_in(norm, channels),
    )
    if backbone is None:
        return BVRHead(options)
    hyper: dict[str, Any] = {"width": width, "groups": groups, "width_per_group": width_per_group}
    hyper |= {"in_channels": in_channels} | ({} if layers is None else {"layers": layers})
    stages = Stages(load(backbone, weights=None, norm_eps=norm_eps, num_classes=1, **hyper))
    stages.deform(stage_with_dcn)
    if len(strides) < len(stages.stages) - FIRST:
        raise OptionError(
            f"strides={tuple(strides)} are fewer than the {len(stages.stages) - FIRST} stages "
            "that the pyramid stands on: give one for each at least"
        )
    return RelationNet2(stages, options.norm, options)


X101 = {
    "backbone": "resnet101",
    "groups": 64,
    "width_per_group": 4,
    "stage_with_dcn": (False, True, True, True),
    "base_size": (300, 300),
    "norm": None,
}


def shows(path: str) -> tuple[Figure, ...]:
    """The figures of a head at a path, with its dot."""
    return (
        Figure(
            "Key points and lines to them",
            "points",
            sites=(f"{path}*_transformer.decoder.*",),
            about="How many of the chosen key points lie where in the picture, and what the place "
            "in its middle attends to, as lines to them; the finest level.",
        ),
        Figure(
            "Geometry",
            "tables",
            sites=(f"{path}*_transformer.**:geometry",),
            about="What attention to a key point is multiplied by, over its offset from the place "
            "in strides, the place itself in the middle; next to nothing where it is below 0.",
        ),
        Figure(
            "Classes without key points",
            "without",
            sites=(f"{path}bbox_head.retina_cls",),
            cut=(f"{path}cls_transformer.decoder.*",),
            about="The largest logit at each place of the finest level, as it is, with what places "
            "attend to cut, and what that takes away.",
        ),
    )


CARD = Card(
    "RelationNet++",
    "RelationNet++: bridging visual representations for object detection, arXiv 2010.15831",
    hidden=("backbone.layer?.*",),
    heads=("bbox_head.*_transformer.decoder.*",),
    size=(800, 1344),
    resize=800,
    mean=(123.675 / 255, 116.28 / 255, 103.53 / 255),
    std=(58.395 / 255, 57.12 / 255, 57.375 / 255),
    labels="",
    shows=shows("bbox_head."),
)
VARIANTS = (
    Variant(
        "relationnet2_retinanet_r50_fpn",
        also=("retinanet_r50_fpn_relation_coco_1x",),
        about="COCO val2017 mAP 38.5 % (AP50 59.1, AP75 40.9)",
    ),
    Variant(
        "relationnet2_retinanet_x101_dcn_fpn",
        also=("retinanet_x101_dcn_fpn_relation_coco_2x",),
        build=X101,
        about="COCO val2017 mAP 46.5 % (AP50 66.3, AP75 50.6)",
    ),
    Variant(
        "relationnet2_head",
        also=("relationnet2_retinanet_r50_head", "relationnet2_small_head"),
        build={"backbone": None},
        about="the head of relationnet2_retinanet_r50_fpn, on levels of 256 channels",
        card={
            "hidden": ("bbox_head.cls_convs.*", "bbox_head.reg_convs.*"),
            "heads": ("*_transformer.decoder.*",),
            "shows": shows(""),
        },
    ),
)
register(relationnet2, CARD, VARIANTS)
