"""Eigen-Grad-CAM: Eigen-CAM of activation times gradient, so that it depends on the class."""

from __future__ import annotations

from torch import Tensor

from ...probe.attribution import method
from .eigencam import principal


@method("eigengradcam", sites="last", places="several")
def eigengradcam(act: Tensor, grad: Tensor, *, relu: bool = True, orient: bool = False) -> Tensor:
    """max(P v, 0): P the centred products x_c g_c, v their first right singular vector.

    The sign of v is numpy's, as in pytorch-grad-cam, unless `orient` makes the map grow with
    sum_c x_c g_c.
    """
    saliency = principal(act * grad, orient)
    return saliency.clamp(min=0) if relu else saliency
