"""Where the object of a map's class lies in the input, or why that is not known."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...probe.errors import LimelightError
from ..datasets import Sample, Size, annotations_of, mask_of, others

_HARD = 0.25  # a difficult picture's object covers less of it (arXiv 1608.00507)


@dataclass(frozen=True, eq=False)
class ObjectPlace:
    """Where the object of one target lies, or why that is not known."""

    mask: Tensor | None
    difficult: bool = False
    note: str = ""


def place_of(
    sample: Sample | None, key: tuple[int | None, str], crop: list[float], size: Size
) -> ObjectPlace:
    """The place of a sample's objects of a class; `key` is the class and the map's target."""
    of_class, target = key
    if sample is None:
        return ObjectPlace(None, note="the data hold no such sample")
    if of_class is None:
        return ObjectPlace(None, note="the target has no class")
    marked = annotations_of(sample, of_class, target)
    if not marked:
        return ObjectPlace(None, note="nothing of this class is marked")
    if all(annotation.difficult for annotation in marked):
        return ObjectPlace(None, note="all of this class is marked as difficult")
    if broken := next((annotation.fault for annotation in marked if annotation.fault), ""):
        return ObjectPlace(None, note=broken)
    try:
        mask = mask_of(marked, crop, size)
    except LimelightError as error:
        return ObjectPlace(None, note=str(error))
    if not mask.any():
        return ObjectPlace(None, note="nothing of this class is in the crop")
    hard = float(mask.float().mean()) < _HARD and others(sample, of_class, target)
    return ObjectPlace(mask, hard)
