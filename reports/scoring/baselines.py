"""Maps that know nothing of the model: its scores are worth what they exceed these by."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ...models.inputs import read
from ...probe.errors import LimelightError
from ..datasets import Parts, Sample, Samples, Size, is_ready

NAMES = ("center", "random", "sobel")
SITE = "input"


def baselines(size: Size, seed: int, place: int, grey: Tensor | None) -> Tensor:
    """`center`, `random` and `sobel` as maps `b y x`; without a picture sobel is all NaN."""
    edges = torch.full(size, torch.nan) if grey is None else sobel(grey)
    return torch.stack([center(size), noise(size, seed, place), edges])


def center(size: Size) -> Tensor:
    """A cone: 1 in the middle, 0 in the corners."""
    y, x = (torch.arange(n) - (n - 1) / 2 for n in size)
    away = (y[:, None] ** 2 + x**2).sqrt()
    return 1 - away / away.max().clamp(min=1e-9)


def noise(size: Size, seed: int, place: int) -> Tensor:
    """Uniform noise of a sample's own, the same in every session."""
    draw = np.random.default_rng([seed, place])
    return torch.from_numpy(draw.random(size, dtype=np.float32))


def sobel(grey: Tensor) -> Tensor:
    """The size of the brightness' gradient, `y x`."""
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    padded = F.pad(grey.float()[None, None], (1, 1, 1, 1), mode="replicate")
    gradient = F.conv2d(padded, torch.stack([across, across.T])[:, None])[0]
    return gradient.square().sum(0).sqrt()


def grey_of(
    samples: Samples, place: int, row: Sample, crop: list[float], size: Size
) -> Tensor | None:
    """The brightness of the part that the model sees; None where the picture cannot be had."""
    try:
        item, _ = samples.open(place, row)
        if isinstance(item, Parts):
            return None
        if is_ready(item):
            grey = item.float().mean(0) if item.ndim == 3 else item.float()
            return grey if tuple(grey.shape) == size else None
        return torch.from_numpy(np.asarray(seen(read(item), crop, size).convert("L"), np.float32))
    except (LimelightError, OSError, ValueError):
        return None


def seen(photo: Image.Image, crop: list[float], size: Size) -> Image.Image:
    """A crop of a photo at a size (rows, columns); what lies beyond its borders is black."""
    whole = [0.0, 0.0, float(photo.width), float(photo.height)]
    left, top, right, bottom = crop if len(crop) == 4 else whole
    shape = (size[1], size[0])
    within = (max(left, 0.0), max(top, 0.0), min(right, whole[2]), min(bottom, whole[3]))
    if max(abs(a - b) for a, b in zip(within, (left, top, right, bottom), strict=True)) < 0.01:
        return photo.resize(shape, Image.Resampling.BICUBIC, box=within)
    data = ((right - left) / shape[0], 0.0, left, 0.0, (bottom - top) / shape[1], top)
    return photo.transform(shape, Image.Transform.AFFINE, data, Image.Resampling.BILINEAR)
