"""Photos as a model's input, and which part of each photo the model then sees."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ...probe.errors import ImageError
from .images import Picture, read
from .preprocessing import Preprocessing, preprocessing_of

LONGEST = 100  # sides in proportion; beyond, the resized strip would fill the memory
FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Geometry:
    """How a photo becomes an input: resized to (width, height), then cropped.

    corner   left, top of the crop in the resized photo
    box      the crop as left, top, right, bottom in pixels of the upright photo
    """

    resized: tuple[int, int]
    corner: tuple[int, int]
    box: Box


@dataclass(frozen=True, eq=False)
class PreparedPhoto:
    """One photo as a model takes it.

    tensor   the input `c y x`: float32, on the CPU
    crop     what the model sees, 8 bits a channel
    box      where the crop lies: left, top, right, bottom in pixels of the upright photo
    """

    tensor: Tensor
    crop: Image.Image
    box: Box


def preprocess(model: nn.Module, images: Picture | Iterable[Picture]) -> Tensor:
    """One photo or several as the model's input `b c y x`, on its device and in its dtype.

    The short side is resized, the centre cropped, the pixels normalised as the model's card, its
    timm or its Hugging Face configuration says. Raises ImageError.
    """
    preprocessing = preprocessing_of(model)
    photos = [prepare(preprocessing, read(source)).tensor for source in _each(images)]
    if not photos:
        raise ImageError("no pictures were given: pass at least one")
    return input_for(model, torch.stack(photos))


def prepare(preprocessing: Preprocessing, photo: Image.Image) -> PreparedPhoto:
    """One upright RGB photo resized, cropped and normalised, each once.

    Raises ImageError for a mere strip.
    """
    place = geometry(preprocessing, photo.size)
    left, top = place.corner
    rows, columns = preprocessing.size
    resized = photo.resize(place.resized, FILTERS[preprocessing.interpolation])
    crop = resized.crop((left, top, left + columns, top + rows))
    return PreparedPhoto(_normalised(crop, preprocessing), crop, place.box)


def input_for(model: nn.Module, x: Tensor) -> Tensor:
    """A batch on the model's device, floats in its precision."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    if weight is None:
        return x
    return x.to(weight) if x.is_floating_point() else x.to(weight.device)


def geometry(preprocessing: Preprocessing, size: tuple[int, int]) -> Geometry:
    """Resize and crop for a photo of (width, height); raises ImageError for a mere strip.

    Short side to `resize`, long side to int(resize x long / short), crop at
    round((side - crop) / 2). For an oblong input the photo is resized to cover it.
    """
    width, height = size
    if max(size) > LONGEST * min(size):
        raise ImageError(f"a picture of {width} x {height} is too narrow: crop it first")
    resized = _resized(preprocessing, width, height)
    crop_h, crop_w = preprocessing.size
    left, top = round((resized[0] - crop_w) / 2), round((resized[1] - crop_h) / 2)
    x, y = width / resized[0], height / resized[1]
    return Geometry(
        resized, (left, top), (left * x, top * y, (left + crop_w) * x, (top + crop_h) * y)
    )


def _resized(preprocessing: Preprocessing, width: int, height: int) -> tuple[int, int]:
    crop_h, crop_w = preprocessing.size
    resize = preprocessing.resize
    if crop_h == crop_w:
        short = min(width, height)
        return int(resize * width / short), int(resize * height / short)
    scale = max(crop_w / width, crop_h / height) * resize / min(preprocessing.size)
    return max(int(scale * width), crop_w), max(int(scale * height), crop_h)


def _normalised(crop: Image.Image, preprocessing: Preprocessing) -> Tensor:
    grey = len(preprocessing.mean) == 1
    pixels = np.asarray(crop.convert("L") if grey else crop, np.float32)
    pixels = pixels[..., None] if grey else pixels
    mean, std = (np.asarray(v) * 255.0 for v in (preprocessing.mean, preprocessing.std))
    values = (pixels - mean.astype(np.float32)) / std.astype(np.float32)
    return torch.from_numpy(values.transpose(2, 0, 1).copy())


def _each(images: Picture | Iterable[Picture]) -> list[Picture]:
    if isinstance(images, np.ndarray | Tensor):
        return list(images) if images.ndim == 4 else [images]
    single = isinstance(images, str | bytes | Image.Image) or not isinstance(images, Iterable)
    return [images] if single else list(images)  # type: ignore[list-item, arg-type]
