"""LayerCAM: positive gradients as weights of single positions (Jiang et al., 2021)."""

from __future__ import annotations

from torch import Tensor

from ...probe.attribution import method


@method("layercam", sites="hidden")
def layercam(act: Tensor, grad: Tensor, *, relu: bool = True) -> Tensor:
    """max(sum_c max(g_c, 0) x_c, 0), of features without places each.

    Source: IEEE TIP 30, 2021, equations 6 and 7.
    """
    summed = (grad.clamp(min=0) * act).sum(1)
    return summed.clamp(min=0) if relu else summed
