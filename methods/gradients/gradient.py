"""Gradient saliency: how strongly the score reacts to each position (Simonyan et al., 2013)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ...probe.attribution import method

Reduce = Literal["max", "sum", "norm", "mean"]


def reduce_channels(values: Tensor, how: Reduce) -> Tensor:
    """`b c` and positions -> `b` and positions: max |v|, signed sum, Euclidean norm or mean |v|."""
    if how == "sum":
        return values.sum(1)
    if how == "norm":
        return torch.linalg.vector_norm(values, dim=1)
    return values.abs().amax(1) if how == "max" else values.abs().mean(1)


@method("gradient", sites="input")
def gradient(grad: Tensor, *, reduce: Reduce = "max") -> Tensor:
    """Gradient of the score, by default the largest |g_c| over the channels.

    Source: Simonyan, Vedaldi, Zisserman, arXiv 1312.6034. In the extract-aggregate grid this is
    the bias row of `normgrad` with |.| and max.
    """
    return reduce_channels(grad, reduce)


@method("gradient_sum", sites="input")
def gradient_sum(grad: Tensor) -> Tensor:
    """Signed sum of the gradient over the channels: sum_c g_c."""
    return grad.sum(1)
