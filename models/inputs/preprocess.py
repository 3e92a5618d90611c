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
from .recipe import Recipe, recipe

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
    crop     the crop as left, top, right, bottom in pixels of the upright photo
    """

    resized: tuple[int, int]
    corner: tuple[int, int]
    crop: Box


@dataclass(frozen=True)
class Prepared:
    """Inputs `b c y x` and, for each photo, the box the model sees, in pixels of the photo."""

    tensor: Tensor
    crops: tuple[Box, ...]
    notes: tuple[str, ...] = ()


def preprocess(model: nn.Module, images: Picture | Iterable[Picture]) -> Tensor:
    """One photo or several as the model's input `b c y x`, on its device and in its dtype.

    The short side is resized, the centre cropped, the pixels normalised as the model's card, its
    timm or its Hugging Face configuration says. Raises ImageError.
    """
    return prepare(model, images).tensor


def prepare(model: nn.Module, images: Picture | Iterable[Picture]) -> Prepared:
    """As `preprocess`, with the crop of each photo and notes on what had to be guessed."""
    how = recipe(model)
    ready = [make_ready(how, read(source)) for source in _each(images)]
    if not ready:
        raise ImageError("no pictures were given: pass at least one")
    batch = torch.stack([tensor for tensor, _ in ready])
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    crops = tuple(crop for _, crop in ready)
    return Prepared(batch if weight is None else batch.to(weight), crops, how.notes)


def make_ready(how: Recipe, photo: Image.Image) -> tuple[Tensor, Box]:
    """One photo as an input `c y x` by a recipe, and the box of it that is seen."""
    return _normalised(_crop(how, photo), how), geometry(how, photo.size).crop


def crop_image(model: nn.Module, image: Picture) -> Image.Image:
    """The 8-bit crop of a photo that the model sees."""
    return _crop(recipe(model), read(image))


def geometry(how: Recipe | nn.Module, size: tuple[int, int]) -> Geometry:
    """Resize and crop for a photo of (width, height); raises ImageError for a mere strip.

    Short side to `resize`, long side to int(resize x long / short), crop at
    round((side - crop) / 2). For an oblong input the photo is resized to cover it.
    """
    how = recipe(how) if isinstance(how, nn.Module) else how
    width, height = size
    if max(size) > LONGEST * min(size):
        raise ImageError(f"a picture of {width} x {height} is too narrow: crop it first")
    resized = _resized(how, width, height)
    crop_h, crop_w = how.size
    left, top = round((resized[0] - crop_w) / 2), round((resized[1] - crop_h) / 2)
    x, y = width / resized[0], height / resized[1]
    return Geometry(
        resized, (left, top), (left * x, top * y, (left + crop_w) * x, (top + crop_h) * y)
    )


def _resized(how: Recipe, width: int, height: int) -> tuple[int, int]:
    crop_h, crop_w = how.size
    if crop_h == crop_w:
        short = min(width, height)
        return int(how.resize * width / short), int(how.resize * height / short)
    scale = max(crop_w / width, crop_h / height) * how.resize / min(how.size)
    return max(int(scale * width), crop_w), max(int(scale * height), crop_h)


def _crop(how: Recipe, photo: Image.Image) -> Image.Image:
    found = geometry(how, photo.size)
    left, top = found.corner
    resized = photo.resize(found.resized, FILTERS[how.interpolation])
    return resized.crop((left, top, left + how.size[1], top + how.size[0]))


def _normalised(crop: Image.Image, how: Recipe) -> Tensor:
    grey = len(how.mean) == 1
    pixels = np.asarray(crop.convert("L") if grey else crop, np.float32)
    pixels = pixels[..., None] if grey else pixels
    mean, std = (np.asarray(values) * 255.0 for values in (how.mean, how.std))
    values = (pixels - mean.astype(np.float32)) / std.astype(np.float32)
    return torch.from_numpy(values.transpose(2, 0, 1).copy())


def _each(images: Picture | Iterable[Picture]) -> list[Picture]:
    if isinstance(images, np.ndarray | Tensor):
        return list(images) if images.ndim == 4 else [images]
    single = isinstance(images, str | bytes | Image.Image) or not isinstance(images, Iterable)
    return [images] if single else list(images)  # type: ignore[list-item, arg-type]
