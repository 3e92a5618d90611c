"""HiResCAM: the products of activation and gradient, not averaged first (Draelos, Carin, 2020)."""

from __future__ import annotations

from torch import Tensor

from ...probe.attribution import method


@method("hirescam", sites="last")
def hirescam(act: Tensor, grad: Tensor, *, relu: bool = True) -> Tensor:
    """max(sum_c g_c x_c, 0), of features without places each; source: arXiv 2011.08891."""
    summed = (act * grad).sum(1)
    return summed.clamp(min=0) if relu else summed


@method("gradcam_elementwise", sites="last")
def gradcam_elementwise(act: Tensor, grad: Tensor) -> Tensor:
    """sum_c max(g_c x_c, 0): each product is clamped before the sum."""
    return (act * grad).clamp(min=0).sum(1)
