"""Gradient saliency: how strongly the score reacts to each position (Simonyan et al., 2013)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ...probe.attribution import method
from ...probe.errors import OptionError

Reduce = Literal["max", "sum", "norm", "mean"]


def reduce_channels(values: Tensor, how: Reduce, channels: bool = False) -> Tensor:
    """`b c` and positions -> `b` and positions: max |v|, signed sum, Euclidean norm or mean |v|.

    channels  leave the summands of the sum as they are. Raises OptionError for no sum.
    """
    if channels and how != "sum":
        raise OptionError(
            f"channels=true gives the summands of a sum over channels, but reduce={how!r} takes no "
            "sum; write reduce=sum"
        )
    if channels:
        return values
    if how == "sum":
        return values.sum(1)
    if how == "norm":
        return torch.linalg.vector_norm(values, dim=1)
    return values.abs().amax(1) if how == "max" else values.abs().mean(1)


@method("gradient", sites="input")
def gradient(grad: Tensor, *, reduce: Reduce = "max", channels: bool = False) -> Tensor:
    """Gradient of the score, by default the largest |g_c| over the channels.

    channels  with reduce=sum, a map of each channel instead of their sum
    Source: Simonyan, Vedaldi, Zisserman, arXiv 1312.6034. In the extract-aggregate grid this is
    the bias row of `normgrad` with |.| and max.
    """
    return reduce_channels(grad, reduce, channels)


@method("gradient_sum", sites="input")
def gradient_sum(grad: Tensor, *, channels: bool = False) -> Tensor:
    """Signed sum of the gradient over the channels: sum_c g_c; with `channels` each g_c."""
    return reduce_channels(grad, "sum", channels)
