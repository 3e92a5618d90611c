"""What stands for nothing at the input: zeros, means, or a tensor of one's own."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ...probe.axes import Layout
from ...probe.errors import OptionError

Baseline = Literal["zero", "mean"] | Tensor


def reference(x: Tensor, baseline: Baseline) -> Tensor:
    """The baseline of one sample x, `c` and the places: zeros, each channel's mean, or a tensor."""
    if isinstance(baseline, Tensor):
        return baseline.to(x).expand_as(x)
    if baseline == "zero":
        return torch.zeros_like(x)
    return x.mean(tuple(range(1, x.ndim)), keepdim=True).expand_as(x)


def laid_out(baseline: Baseline, layout: Layout, x: Tensor) -> Baseline:
    """A baseline as methods read inputs laid out as x is.

    A tensor is of the shape of one sample, or broadcastable to it, in the model's own order of
    dimensions; it comes back as `c` and the places. Raises OptionError for another shape, and for
    the mean of features, which have no places.
    """
    if not isinstance(baseline, Tensor):
        if baseline == "mean" and layout.axes == "c":
            raise OptionError(
                "baseline='mean' is the mean of a channel over its places, and features of a table "
                "have none; give a tensor, such as the mean of each feature over the data"
            )
        return baseline
    sample = [size for dim, size in enumerate(x.shape) if dim != layout.batch]
    one = baseline.to(x)
    if one.ndim == x.ndim and one.shape[layout.batch] == 1:
        one = one.squeeze(layout.batch)
    try:
        one = one.expand(sample)
    except RuntimeError:
        raise OptionError(
            f"a baseline of shape {tuple(baseline.shape)} was given, but one sample has shape "
            f"{tuple(sample)}; give a tensor of that shape, or one that broadcasts to it"
        ) from None
    return layout.canonical(one.unsqueeze(layout.batch))[0]
