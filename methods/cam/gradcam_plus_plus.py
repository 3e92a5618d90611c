"""Grad-CAM++: positive gradients weighted position by position (Chattopadhay et al., 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

from ...probe.attribution import method
from .gradcam import weigh


@method("gradcam_plus_plus", sites="last", places="one")
def gradcam_plus_plus(act: Tensor, grad: Tensor, *, relu: bool = True) -> Tensor:
    """max(sum_c a_c x_c, 0), a_c = sum_u w_u max(g_u, 0), w = g^2 / (2 g^2 + sum(x) g^3 + 1e-6).

    w is 0 where the gradient is 0. Source: arXiv 1710.11063, equations 9 and 19, with the
    derivatives of exp(score).
    """
    x, g = act.flatten(2), grad.flatten(2)
    square = g * g
    w = square / (2 * square + x.sum(2, keepdim=True) * square * g + 1e-6)
    w = torch.where(g == 0, torch.zeros_like(w), w)
    return weigh(act, (w * g.clamp(min=0)).sum(2), relu)
