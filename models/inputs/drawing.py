"""Inputs as pictures for the eye."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor


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
