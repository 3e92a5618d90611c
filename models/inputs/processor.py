"""Hugging Face's image processors, as their `preprocessor_config.json` describes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..card import IMAGENET_MEAN, IMAGENET_STD

RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by PIL's numbers
_SQUASHED_FROM = 384  # ConvNeXT's crop_pct counts below

Size = tuple[int, int]
Told = tuple[Size, int | Size, str, tuple[float, ...], tuple[float, ...]]


def from_processor(config: Mapping[str, Any]) -> Told | None:
    """Crop, resize, filter, mean and std on the 0..1 scale; None where it tells no size."""
    size = _read(config.get("size"))
    if size is None:
        return None
    crop, resize = _places(config, size)
    resample = config.get("resample")
    name = RESAMPLE[resample] if isinstance(resample, int) else "bilinear"
    return crop, resize, name, *_scale(config)


def _read(size: object) -> int | Size | None:
    """A short side, or height and width."""
    if isinstance(size, int):
        return size
    if not isinstance(size, Mapping):
        return None
    if "shortest_edge" in size:
        return int(size["shortest_edge"])
    return (int(size["height"]), int(size["width"])) if "height" in size else None


def _places(config: Mapping[str, Any], size: int | Size) -> tuple[Size, int | Size]:
    """What the model sees of the photo, and to what the photo is resized before."""
    cut = _read(config.get("crop_size")) if config.get("do_center_crop") else None
    if cut is not None:
        # old processors of CLIP's kind write the short side as a plain number
        return (cut if isinstance(cut, tuple) else (cut, cut)), size
    if isinstance(size, tuple):
        return size, size
    fraction = config.get("crop_pct")
    if fraction and size < _SQUASHED_FROM:
        return (size, size), int(size / float(fraction))
    return (size, size), (size, size)


def _scale(config: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """mean and std of `(x factor - offset - mean) / std`, for x in 0..1 in place of 0..255."""
    rescaled = config.get("do_rescale", True)
    factor = 255 * float(config.get("rescale_factor", 1 / 255)) if rescaled else 255.0
    offset = 1.0 if rescaled and config.get("rescale_offset") else 0.0
    normalised = config.get("do_normalize", True)
    mean = config.get("image_mean") or IMAGENET_MEAN if normalised else (0.0, 0.0, 0.0)
    std = config.get("image_std") or IMAGENET_STD if normalised else (1.0, 1.0, 1.0)
    return (
        tuple((float(m) + offset) / factor for m in mean),
        tuple(float(s) / factor for s in std),
    )
