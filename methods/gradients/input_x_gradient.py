"""Activation times gradient: the first-order share of each position in the score."""

from __future__ import annotations

from torch import Tensor

from ...probe.attribution import method


@method("input_x_gradient", sites="input")
def input_x_gradient(act: Tensor, grad: Tensor) -> Tensor:
    """Signed sum over the channels of value times gradient at the input: sum_c x_c g_c.

    Source: Shrikumar et al., arXiv 1605.01713.
    """
    return (act * grad).sum(1)


@method("linear_approx", sites="hidden")
def linear_approx(act: Tensor, grad: Tensor) -> Tensor:
    """The same product at hidden layers: sum_c x_c g_c, signed.

    Source: Rebuffi et al., arXiv 2004.02866: the scaling row with the sum.
    """
    return (act * grad).sum(1)
