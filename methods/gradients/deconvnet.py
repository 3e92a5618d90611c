"""Deconvolutional network: gradients that pass a ReLU only where they are positive."""

from __future__ import annotations

from torch import Tensor

from ...probe.attribution import method
from .gradient import Reduce, reduce_channels


@method("deconvnet", sites="input", regime="deconv")
def deconvnet(grad: Tensor, *, reduce: Reduce = "max", channels: bool = False) -> Tensor:
    """Gradient with ReLU backward p * 1[p > 0], by default max over channels of |.|.

    channels  with reduce=sum, a map of each channel instead of their sum
    Source: Zeiler, Fergus, arXiv 1311.2901.
    """
    return reduce_channels(grad, reduce, channels)
