"""The census's cases of timm and torchvision: the smallest variants, the smallest sizes."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import torch
from foreign import import_foreign, import_torchvision
from sweep_models import picture
from torch import Tensor, nn

from .case import Case, shapes

SIDES = (64, 96, 128, 224)
_FEW = {"num_classes": 10}


def timm_cases() -> list[Case]:
    """The smallest variant of every set of layer types, as `timm_families.py` found them."""
    rows = (files(__package__) / "timm.txt").read_text().split("\n")
    return [_timm_case(*row.split()) for row in rows if row and not row.startswith("#")]


def _timm_case(family: str, name: str, side: str) -> Case:
    def attempts() -> Iterator[tuple[str, nn.Module, Any]]:
        import_torchvision()
        timm = import_foreign("timm")
        model = timm.create_model(name, **_FEW)
        channels = model.default_cfg.get("input_size", (3,))[0]
        for size in dict.fromkeys((*(s for s in SIDES if s < int(side)), int(side))):
            x = picture(size)[:, :1].expand(-1, channels, -1, -1).contiguous()
            x = picture(size) if channels == 3 else x
            yield shapes(x), model, x

    return Case("timm", family, name, attempts)


def plain_nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Non-maximum suppression where torchvision's compiled part is missing."""
    boxes = boxes.detach()
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    left, kept = scores.detach().argsort(descending=True), []
    while len(left):
        first, left = left[0], left[1:]
        kept.append(first)
        low = torch.maximum(boxes[left, :2], boxes[first, :2])
        high = torch.minimum(boxes[left, 2:], boxes[first, 2:])
        shared = (high - low).clamp(min=0).prod(1)
        left = left[shared / (areas[left] + areas[first] - shared) <= iou_threshold]
    return torch.stack(kept) if kept else torch.empty(0, dtype=torch.long)


def torchvision_cases() -> list[Case]:
    """Every model that torchvision registers, quantizable ones with their float weights."""
    torchvision = import_torchvision()
    if not torchvision.extension._has_ops():
        torchvision.ops.boxes.nms = plain_nms
    names = torchvision.models.list_models()
    return [_torchvision_case(name) for name in names]


def _torchvision_case(name: str) -> Case:
    models = import_torchvision().models
    builder = models.get_model_builder(name)
    room = builder.__module__.removeprefix("torchvision.models.")
    kind = room.partition(".")[0] if "." in room else "classification"

    def attempts() -> Iterator[tuple[str, nn.Module, Any]]:
        for options in _options(name, kind):
            try:
                model = builder(**options)
            except TypeError:
                continue
            for x in _inputs(name, kind):
                yield shapes(x), model, x
            return

    return Case("torchvision", kind, name, attempts)


def _options(name: str, kind: str) -> list[dict[str, Any]]:
    """Keywords to build with; the first that the builder takes."""
    bare: dict[str, Any] = {"weights": None}
    if kind == "optical_flow":
        return [bare]
    inner = {"weights_backbone": None} if kind in ("detection", "segmentation") else {}
    if kind == "detection":
        few = {"box_score_thresh": 0.0, "box_detections_per_img": 4}
        single = {"score_thresh": 0.0, "detections_per_img": 4, "topk_candidates": 4}
        small = {"min_size": 128, "max_size": 192}
        known = (few | small, single | small, single)
        return [*(bare | inner | _FEW | more for more in known), bare | inner]
    if "googlenet" in name or "inception" in name:
        return [bare | _FEW | {"init_weights": False, "aux_logits": False}]
    return [bare | inner | _FEW]


def _inputs(name: str, kind: str) -> Iterator[Any]:
    if kind == "video":
        for frames, side in ((4, 32), (8, 64), (16, 112), (16, 224)):
            draw = torch.Generator().manual_seed(side)
            yield torch.randn(2, 3, frames, side, side, generator=draw)
    elif kind == "optical_flow":
        yield {"image1": picture(128), "image2": picture(128).flip(3)}
    else:
        for side in SIDES:
            yield picture(side).sigmoid() if kind == "detection" else picture(side)
