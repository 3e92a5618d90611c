"""The precision in which maps and sums are computed."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(x: Tensor) -> Tensor:
    """In float32, or float64 where it is; complex numbers stay as they are."""
    return x if x.dtype == torch.float64 or x.is_complex() else x.float()
