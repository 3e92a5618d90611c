"""Guided backpropagation: gradients that pass a ReLU only where they and its input are positive."""

from __future__ import annotations

from torch import Tensor

from ...probe.attribution import method
from .gradient import Reduce, reduce_channels


@method("guided_backprop", sites="input", regime="guided")
def guided_backprop(grad: Tensor, *, reduce: Reduce = "max", channels: bool = False) -> Tensor:
    """Gradient with ReLU backward p * 1[p > 0] * 1[x > 0], by default max over channels of |.|.

    channels  with reduce=sum, a map of each channel instead of their sum
    Source: Springenberg et al., arXiv 1412.6806. Known to depend little on the class and on the
    upper weights (Adebayo et al., arXiv 1810.03292).
    """
    return reduce_channels(grad, reduce, channels)
