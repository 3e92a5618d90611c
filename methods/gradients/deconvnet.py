"""Deconvolutional network: gradients that pass a ReLU only where they are positive."""

from __future__ import annotations

from torch import Tensor

from ...probe.attribution import method
from .gradient import Reduce, reduce_channels


@method("deconvnet", sites="input", regime="deconv")
def deconvnet(grad: Tensor, *, reduce: Reduce = "max") -> Tensor:
    """Gradient with ReLU backward p * 1[p > 0], by default max over channels of |.|.

    Source: Zeiler, Fergus, arXiv 1311.2901.
    """
    return reduce_channels(grad, reduce)
