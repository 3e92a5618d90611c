"""Class activation mapping: the class's own weight row on the last maps (Zhou et al., 2015)."""

from __future__ import annotations

from torch import Tensor

from ...probe.attribution import method
from ...probe.errors import MethodError
from .gradcam import weigh


@method("cam", sites="last", places="one")
def cam(act: Tensor, grad: Tensor, *, relu: bool = False) -> Tensor:
    """sum_c w_c x_c, w the class's weights in a linear head on globally averaged maps; signed.

    Such a head has the gradient w_c / (number of positions) everywhere, so w is read from it.
    Raises MethodError when the gradient differs between positions. Source: arXiv 1512.04150.
    """
    flat = grad.flatten(2)
    mean = flat.mean(2)
    uneven = (flat - mean[..., None]).abs().amax((1, 2))
    if bool((uneven > 1e-4 * flat.abs().amax((1, 2))).any()):
        raise MethodError(
            "cam was asked at a site whose gradient differs between positions: no linear head on "
            "globally averaged maps follows; take the last map before the pooling, or use gradcam"
        )
    return weigh(act, mean * flat.shape[2], relu)
