"""Gaussian smoothing of a map, as pointing benchmarks apply it to input-level methods."""

from __future__ import annotations

from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor

from ...probe.errors import OptionError


def smooth(values: Tensor, s: float = 0.02) -> Tensor:
    """Blur `y x`, or anything before them, by a separable Gaussian; `s` = 0 changes nothing.

    Standard deviation s * max(rows, columns), half-width 4 of them rounded up, edges replicated.
    Source: TorchRay's pointing benchmark, where s = 0.02.
    """
    if s < 0:
        raise OptionError(f"smooth takes s of 0 or more, the share of the longer side, not {s}")
    sigma = s * max(values.shape[-2:])
    if sigma == 0:
        return values
    half = ceil(4 * sigma)
    t = torch.arange(-half, half + 1, dtype=values.dtype, device=values.device)
    kernel = torch.exp(-((t / sigma) ** 2) / 2)
    kernel = kernel / kernel.sum()
    flat = values.reshape(-1, 1, *values.shape[-2:])
    padded = F.pad(flat, (half,) * 4, mode="replicate")
    rows = F.conv2d(padded, kernel[None, None, :, None])
    return F.conv2d(rows, kernel[None, None, None, :]).reshape(values.shape)
