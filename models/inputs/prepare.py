"""Photos as a model's input, and which part of each photo the model then sees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ...probe.errors import ImageError
from .drawing import drawn
from .images import Picture, read
from .options import Numbers, PreprocessingOptions, Sides, fitted
from .preprocessing import INTERPOLATIONS, Preprocessing, Transform
from .trial import input_for

LONGEST = 100  # sides in proportion; beyond, the resized strip would fill the memory
FILTERS = {name: getattr(Image.Resampling, name.upper()) for name in INTERPOLATIONS}

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
    crop     what the model sees, 8 bits a channel; drawn from the tensor where a transform made it
    box      where the crop lies: left, top, right, bottom in pixels of the upright photo; empty
             where a transform does not tell
    """

    tensor: Tensor
    crop: Image.Image
    box: Box | tuple[()]


def preprocess(
    model: nn.Module,
    images: Picture | Iterable[Picture],
    *,
    size: Sides | None = None,
    resize: Sides | None = None,
    interpolation: str | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    transform: Transform | None = None,
) -> Tensor:
    """One photo or several as the model's input `b c y x`, on its device and in its dtype.

    The short side is resized, the centre cropped, the pixels normalised as the options say; else
    as the model's card, its timm or its Hugging Face configuration does; else channels and size
    are found by trial and ImageNet's mean and std are assumed. `transform` makes the input of a
    photo instead. Raises ImageError, OptionError.

    Example:
        >>> ll.preprocess(digits, ll.example("flower")).shape
        torch.Size([1, 3, 32, 32])
    """
    asked = PreprocessingOptions(size, resize, interpolation, mean, std, transform)
    photos = [read(source) for source in _each(images)]
    if not photos:
        raise ImageError("no pictures were given: pass at least one")
    preprocessing = fitted(model, asked)
    tensors = [prepare(preprocessing, photo).tensor for photo in photos]
    if len({tensor.shape for tensor in tensors}) > 1:
        shapes = " and ".join(sorted({_shape(tensor) for tensor in tensors}))
        raise ImageError(f"the transform makes inputs of {shapes}: let it resize and crop to one")
    return input_for(model, torch.stack(tensors))


def prepare(preprocessing: Preprocessing, photo: Image.Image) -> PreparedPhoto:
    """One upright RGB photo resized, cropped and normalised, each once; or transformed.

    Raises ImageError for a mere strip, and for a transform that makes no input.
    """
    if preprocessing.transform is not None:
        tensor = _transformed(preprocessing.transform, photo)
        return PreparedPhoto(tensor, drawn(tensor, preprocessing.mean, preprocessing.std), ())
    place = geometry(preprocessing, photo.size)
    left, top = place.corner
    rows, columns = preprocessing.size
    resized = photo.resize(place.resized, FILTERS[preprocessing.interpolation])
    crop = resized.crop((left, top, left + columns, top + rows))
    return PreparedPhoto(_normalised(crop, preprocessing), crop, place.box)


def _transformed(transform: Transform, photo: Image.Image) -> Tensor:
    """What a transform, or a Hugging Face processor, makes of a photo: `c y x`."""
    try:
        made = transform(photo)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ImageError(
            f"the transform fails on a picture of {photo.width} x {photo.height} ({reason}): it is "
            "given a PIL image in RGB"
        ) from error
    if isinstance(made, Mapping) and "pixel_values" in made:
        made = made["pixel_values"]
    if isinstance(made, list) and len(made) == 1:
        made = made[0]
    made = torch.as_tensor(made) if isinstance(made, np.ndarray) else made
    if isinstance(made, Tensor) and made.ndim == 4 and len(made) == 1:
        made = made[0]
    if not isinstance(made, Tensor) or made.ndim != 3:
        given = _shape(made) if isinstance(made, Tensor) else f"a {type(made).__name__}"
        raise ImageError(f"the transform makes {given} of a photo: let it return a tensor c y x")
    return made.detach().cpu()


def _shape(x: Tensor) -> str:
    return " x ".join(map(str, x.shape))


def geometry(preprocessing: Preprocessing, size: tuple[int, int]) -> Geometry:
    """Resize and crop for a photo of (width, height); raises ImageError for a mere strip.

    Short side to `resize`, long side to int(resize x long / short), crop at
    round((side - crop) / 2). For an oblong input the photo is resized to cover it; a `resize` of
    height and width stretches it to just that.
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
    if isinstance(resize, tuple):
        return resize[1], resize[0]
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
