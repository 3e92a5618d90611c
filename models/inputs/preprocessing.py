"""How a model wants its photos, as its card or configuration says, or by ImageNet's custom."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..card import IMAGENET_MEAN, IMAGENET_STD, Card, sides
from .processor import from_processor

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
INTERPOLATIONS = ("bilinear", "bicubic", "lanczos", "nearest", "box", "hamming")

Transform = Callable[[Any], Any]
"""A photo (PIL, RGB) as the model's input `c y x`: one of torchvision's transforms, say."""


@dataclass(frozen=True)
class Preprocessing:
    """Crop (height, width), what is resized before, filter, mean and std on the 0..1 scale.

    resize     the photo's short side, or (height, width) whatever the photo's proportions
    notes      what had to be guessed
    assumed    which of "size" and "scale" (mean and std) nothing tells
    transform  what makes the input in place of all this; the size is then 0 x 0, and mean and std
               undo it for the eye: empty where it is not known
    """

    size: tuple[int, int]
    resize: int | tuple[int, int]
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...] = ()
    assumed: frozenset[str] = frozenset()
    transform: Transform | None = None


def transform_name(transform: Transform) -> str:
    """A transform in words that stay the same from run to run, on one line."""
    name = getattr(transform, "__qualname__", "") or repr(transform)
    return " ".join(_ADDRESS.sub("", name).split())


def preprocessing_of(model: nn.Module) -> Preprocessing:
    """What a model tells of its preprocessing, without running it; gaps are filled and noted."""
    card = getattr(model, "card", None)
    if isinstance(card, Card):
        return Preprocessing(sides(card.size), card.resize, card.interpolation, card.mean, card.std)
    timm = getattr(model, "pretrained_cfg", None)
    if isinstance(timm, Mapping) and "input_size" in timm:
        return _timm(timm, _sides(getattr(getattr(model, "patch_embed", None), "img_size", None)))
    processor = getattr(model, "preprocessor_config", None)
    if isinstance(processor, Mapping) and (told := from_processor(processor)) is not None:
        return Preprocessing(*told)
    if type(getattr(model, "transform", None)).__name__ == "GeneralizedRCNNTransform":
        note = "the detector scales and normalises pictures itself: 0 to 1 enters it"
        zero, one = (0.0,) * 3, (1.0,) * 3
        return Preprocessing((224, 224), 256, "bilinear", zero, one, (note,), frozenset({"size"}))
    size, source = _configured_size(model)
    if size is not None:
        note = f"size {size[0]} x {size[1]} from {source}; ImageNet's mean and std assumed"
        return _imagenet(size, note, "scale")
    note = "no preprocessing known: size 224, ImageNet's mean and std assumed"
    return _imagenet((224, 224), note, "size", "scale")


def _timm(config: Mapping[str, object], built: tuple[int, int] | None) -> Preprocessing:
    """timm's configuration; a model that was built for another size says so itself."""
    shape, fraction = config["input_size"], config.get("crop_pct") or 0.875
    size = built or (int(shape[-2]), int(shape[-1]))  # type: ignore[index]
    mean = tuple(map(float, config.get("mean") or IMAGENET_MEAN))  # type: ignore[call-overload]
    std = tuple(map(float, config.get("std") or IMAGENET_STD))  # type: ignore[call-overload]
    filter_name = str(config.get("interpolation") or "bilinear")
    available = filter_name in INTERPOLATIONS
    notes = () if available else (f"resized bicubic for timm's {filter_name!r}",)
    resize = max(int(min(size) / float(fraction)), min(size))  # type: ignore[arg-type]
    return Preprocessing(size, resize, filter_name if available else "bicubic", mean, std, notes)


def _configured_size(model: nn.Module) -> tuple[tuple[int, int] | None, str]:
    """The input size that a Hugging Face configuration or torchvision's ViT tells."""
    config = getattr(model, "config", None)
    vision = getattr(config, "vision_config", None)
    places = ((config, "its config"), (vision, "its vision config"), (model, "its image_size"))
    for place, name in places:
        if (size := _sides(getattr(place, "image_size", None))) is not None:
            return size, name
    return None, ""


def _sides(size: object) -> tuple[int, int] | None:
    if isinstance(size, Mapping):
        size = (size.get("height"), size.get("width"))
    if isinstance(size, int):
        return (size, size)
    if isinstance(size, list | tuple) and len(size) == 2 and all(map(_is_int, size)):
        return (int(size[0]), int(size[1]))
    return None


def _is_int(value: object) -> bool:
    return isinstance(value, int)


def _imagenet(size: tuple[int, int], note: str, *assumed: str) -> Preprocessing:
    resize = int(min(size) * 256 / 224)
    return Preprocessing(
        size, resize, "bilinear", IMAGENET_MEAN, IMAGENET_STD, (note,), frozenset(assumed)
    )
