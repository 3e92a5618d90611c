"""Activation times gradient: the first-order share of each position in the score."""

from __future__ import annotations

from torch import Tensor

from ...probe.attribution import method
from .gradient import reduce_channels


@method("input_x_gradient", sites="input")
def input_x_gradient(act: Tensor, grad: Tensor, *, channels: bool = False) -> Tensor:
    """Signed sum over the channels of value times gradient at the input: sum_c x_c g_c.

    channels  a map of each channel instead of their sum
    Source: Shrikumar et al., arXiv 1605.01713.
    """
    return reduce_channels(act * grad, "sum", channels)


@method("linear_approx", sites="hidden")
def linear_approx(act: Tensor, grad: Tensor, *, channels: bool = False) -> Tensor:
    """The same product at hidden layers: sum_c x_c g_c, signed.

    channels  a map of each channel instead of their sum
    Source: Rebuffi et al., arXiv 2004.02866: the scaling row with the sum.
    """
    return reduce_channels(act * grad, "sum", channels)
