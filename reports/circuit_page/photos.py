"""The pictures that a circuit was sought on, as the model saw them."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...methods.circuits.circuit import Circuit
from ...models.inputs import preprocessing_of
from ...probe.axes import find_grid
from ..explanation import Photo, photo_uri

_LEAST = 192  # pixels of the shorter side; smaller pictures are enlarged without smoothing


def is_photo(x: Tensor) -> bool:
    """Whether an input is a picture `c y x` that can be shown."""
    return x.ndim == 3 and x.shape[0] in (1, 3) and x.is_floating_point()


def photo(circuit: Circuit, x: Tensor) -> str:
    """A picture with its preprocessing undone, as a data address; "" for other inputs."""
    if not is_photo(x):
        return ""
    used = preprocessing_of(circuit.evidence.model)
    mean, std = (torch.tensor(v)[:, None, None] for v in (used.mean, used.std))
    pixels = (x.float().cpu() * std + mean if len(mean) == len(x) else x).clamp(0, 1)
    array = (pixels * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    image = Image.fromarray(np.repeat(array, 3 // array.shape[2], axis=2))
    scale = -(-_LEAST // min(image.size))
    if scale > 1:
        size = image.width * scale, image.height * scale
        image = image.resize(size, Image.Resampling.NEAREST)
    return photo_uri(Photo("", image))


def patches(circuit: Circuit, x: Tensor, tokens: int) -> list[int] | None:
    """Rows, columns and leading tokens of a map's keys on a picture, if they lie on one."""
    if not is_photo(x):
        return None
    grid = find_grid(tokens, tuple(x.shape[1:]), circuit.evidence.outputs.adapter.prefix or 0)
    return None if grid is None else [grid.rows, grid.columns, grid.prefix]
