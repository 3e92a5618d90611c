"""Foci of attention: the most salient pixels, the distance to them, and their outlines."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from ...probe.errors import MethodError


def foci(saliency: Tensor, threshold: float) -> Tensor:
    """The pixels above `threshold` times the largest value, a mask `y x`."""
    return saliency > threshold * saliency.max()


def distance(mask: Tensor) -> Tensor:
    """Exact Euclidean distance of each pixel to the mask over its largest value, `y x` float32.

    An empty mask, or one that covers everything, gives 0 everywhere.
    """
    if not mask.any() or mask.all():
        return torch.zeros(mask.shape, dtype=torch.float32, device=mask.device)
    cv2 = _opencv()
    outside = (~mask).cpu().numpy().astype(np.uint8)
    apart = torch.from_numpy(cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE))
    return (apart / apart.max()).to(mask.device)


def contours(mask: Tensor) -> list[np.ndarray]:
    """The closed outlines of a mask `y x`, holes included, each `n 2` as x and y in pixels."""
    cv2 = _opencv()
    picture = mask.detach().cpu().numpy().astype(np.uint8)
    lines, _ = cv2.findContours(picture, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return [np.asarray(line).reshape(-1, 2) for line in lines]


def _opencv() -> ModuleType:
    """OpenCV, imported at its first use."""
    try:
        import cv2
    except ImportError as error:
        raise MethodError(
            "foci of attention need OpenCV, and the module cv2 was not found; "
            "install opencv-python-headless"
        ) from error
    return cv2
