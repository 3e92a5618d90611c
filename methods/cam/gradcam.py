"""Grad-CAM: activation maps weighted by their mean gradient (Selvaraju et al., 2016)."""

from __future__ import annotations

from torch import Tensor

from ...probe.attribution import method

_LARGE = 1 << 19


def weigh(act: Tensor, weights: Tensor, relu: bool) -> Tensor:
    """sum_c w_c x_c, clamped at 0 when `relu`; act `b c` and positions, weights `b c`."""
    if act[:1].numel() < _LARGE:
        summed = (weights.reshape(*weights.shape, *(1,) * (act.ndim - 2)) * act).sum(1)
    else:  # without the product, which is as large as the activation
        summed = (weights.unsqueeze(1) @ act.flatten(2)).reshape(len(act), *act.shape[2:])
    return summed.clamp(min=0) if relu else summed


@method("gradcam", sites="last", places="one")
def gradcam(act: Tensor, grad: Tensor, *, relu: bool = True) -> Tensor:
    """max(sum_c a_c x_c, 0) with a_c the mean of the gradient over the positions.

    All zero for a class with negative evidence only; `relu=False` keeps the sign. Features without
    places are the channels of one place, as for Grad-CAM++, XGrad-CAM and CAM: one number a sample.
    Source: arXiv 1610.02391, equations 1 and 2.
    """
    return weigh(act, grad.flatten(2).mean(2), relu)
