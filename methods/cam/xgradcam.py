"""XGrad-CAM: channel weights that fulfil sensitivity and conservation (Fu et al., 2020)."""

from __future__ import annotations

from torch import Tensor

from ...probe.attribution import method
from .gradcam import weigh


@method("xgradcam", sites="last", places="one")
def xgradcam(act: Tensor, grad: Tensor, *, relu: bool = True) -> Tensor:
    """max(sum_c a_c x_c, 0) with a_c = sum_u g_u x_u / (sum_u x_u + 1e-7).

    Source: arXiv 2008.02312, equation 8.
    """
    x, g = act.flatten(2), grad.flatten(2)
    return weigh(act, (g * x).sum(2) / (x.sum(2) + 1e-7), relu)
