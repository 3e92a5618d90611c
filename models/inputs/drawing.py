"""Inputs that are given as they are, and pictures of them for the eye."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...probe.errors import ImageError


def inputs_of(given: Any) -> list[Tensor]:
    """Tensors or arrays as inputs `c y x`: a batch `b c y x`, one `c y x`, or several of those.

    Raises ImageError for what is no picture's input.
    """
    whole = torch.as_tensor(given) if isinstance(given, (Tensor, np.ndarray)) else None
    if whole is not None:
        parts = [whole] if whole.ndim == 3 else list(whole) if whole.ndim == 4 else []
    else:
        listed = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else []
        known = all(isinstance(part, (Tensor, np.ndarray)) for part in listed)
        parts = [torch.as_tensor(part) for part in listed] if known else []
    if not parts or any(part.ndim != 3 or 0 in part.shape for part in parts):
        shape = f"shape {tuple(whole.shape)}" if whole is not None else type(given).__name__
        raise ImageError(
            f"inputs= is the model's input of pictures, `b c y x` or `c y x`, not {shape}: call "
            "limelight.maps for inputs of other kinds"
        )
    return [part.detach().cpu() for part in parts]


def drawn(x: Tensor, mean: Sequence[float] = (), std: Sequence[float] = ()) -> Image.Image:
    """An input `c y x` as a picture: mean and std undone, else its own range as black to white.

    One channel or two, and more than three, are drawn as the grey of their mean.
    """
    values = x.detach().float().cpu().nan_to_num()
    if len(mean) == len(std) == len(values) or len(mean) == len(std) == 1:
        scale, shift = (torch.tensor(list(v))[:, None, None] for v in (std, mean))
        values = values * scale + shift
    else:
        low, high = values.min(), values.max()
        values = (values - low) / (high - low) if high > low else torch.zeros_like(values)
    if len(values) != 3:
        values = values.mean(0, keepdim=True).expand(3, *values.shape[1:])
    pixels = (values.clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
