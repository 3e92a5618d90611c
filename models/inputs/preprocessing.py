"""How a model wants its photos: from the zoo's card, timm, Hugging Face, or ImageNet's custom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from ..card import IMAGENET_MEAN, IMAGENET_STD, Card, sides


@dataclass(frozen=True)
class Preprocessing:
    """Crop (height, width), short side before the crop, filter, mean and std on the 0..1 scale.

    notes   what had to be guessed
    """

    size: tuple[int, int]
    resize: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...] = ()


def preprocessing_of(model: nn.Module) -> Preprocessing:
    """The preprocessing of any model; a foreign one's gaps are filled and noted."""
    card = getattr(model, "card", None)
    if isinstance(card, Card):
        return Preprocessing(sides(card.size), card.resize, card.interpolation, card.mean, card.std)
    timm = getattr(model, "pretrained_cfg", None)
    if isinstance(timm, Mapping) and "input_size" in timm:
        return _timm(timm)
    size, source = _configured_size(model)
    if size is not None:
        note = f"size {size[0]} x {size[1]} from {source}; ImageNet's mean and std assumed"
        return _imagenet(size, note)
    return _imagenet(
        (224, 224), "no preprocessing known: size 224, ImageNet's mean and std assumed"
    )


def _timm(config: Mapping[str, object]) -> Preprocessing:
    shape, fraction = config["input_size"], config.get("crop_pct") or 0.875
    size = (int(shape[-2]), int(shape[-1]))  # type: ignore[index]
    mean = tuple(map(float, config.get("mean") or IMAGENET_MEAN))  # type: ignore[call-overload]
    std = tuple(map(float, config.get("std") or IMAGENET_STD))  # type: ignore[call-overload]
    filter_name = str(config.get("interpolation") or "bilinear")
    available = filter_name in ("bilinear", "bicubic", "lanczos", "nearest")
    notes = () if available else (f"resized bicubic for timm's {filter_name!r}",)
    resize = max(int(min(size) / float(fraction)), min(size))  # type: ignore[arg-type]
    return Preprocessing(size, resize, filter_name if available else "bicubic", mean, std, notes)


def _configured_size(model: nn.Module) -> tuple[tuple[int, int] | None, str]:
    """The input size that a Hugging Face configuration or torchvision's ViT tells."""
    config = getattr(model, "config", None)
    vision = getattr(config, "vision_config", None)
    places = ((config, "its config"), (vision, "its vision config"), (model, "its image_size"))
    for place, name in places:
        size = getattr(place, "image_size", None)
        if isinstance(size, Mapping):
            size = (size.get("height"), size.get("width"))
        if isinstance(size, int):
            return (size, size), name
        if isinstance(size, list | tuple) and len(size) == 2 and all(map(_is_int, size)):
            return (int(size[0]), int(size[1])), name
    return None, ""


def _is_int(value: object) -> bool:
    return isinstance(value, int)


def _imagenet(size: tuple[int, int], note: str) -> Preprocessing:
    resize = int(min(size) * 256 / 224)
    return Preprocessing(size, resize, "bilinear", IMAGENET_MEAN, IMAGENET_STD, (note,))
