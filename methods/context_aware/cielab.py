"""RGB to CIE L*a*b* (D65, 2 degrees) in torch, and planes stretched to [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

TO_XYZ = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
WHITE = (0.95047, 1.0, 1.08883)
FLAT = 1e-9


def linear(rgb: Tensor) -> Tensor:
    """sRGB values in [0, 1] without their tone curve (IEC 61966-2-1)."""
    return torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)


def lab(rgb: Tensor) -> Tensor:
    """L* in [0, 100], a* and b* of an RGB image in [0, 1], `3 y x` -> `3 y x`.

    Works in the dtype it is given: with float32 the a* and b* of grey pixels are rounding noise.
    """
    matrix = rgb.new_tensor(TO_XYZ) / rgb.new_tensor(WHITE)[:, None]
    t = torch.einsum("ij,jyx->iyx", matrix, linear(rgb))
    fx, fy, fz = torch.where(t > 0.008856, t.clamp(min=0.008856) ** (1 / 3), 7.787 * t + 16 / 116)
    return torch.stack([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)])


def stretched(planes: Tensor) -> Tensor:
    """Each plane of `c y x` min-max normalised over the image; a constant plane becomes 0."""
    low = planes.amin((1, 2), keepdim=True)
    span = planes.amax((1, 2), keepdim=True) - low
    return torch.where(span > FLAT, (planes - low) / span.clamp(min=FLAT), 0.0)
