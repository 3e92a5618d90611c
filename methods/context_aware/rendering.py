"""Relevance as a picture: absolute values, one min-max over all pixels and channels."""

from __future__ import annotations

import torch
from torch import Tensor

from ...probe.errors import OptionError, near

RENDERINGS = ("relevance-rgb", "relevance-gray", "positive")


def rendered(relevance: Tensor, how: str = "relevance-rgb", *, quantise: bool = False) -> Tensor:
    """Relevance `c y x` as an image in [0, 1]: its min-max over pixels and channels together.

    "relevance-rgb": |R| of each channel, `c y x`; "relevance-gray": |sum of channels|, `y x`;
    "positive": the positive part of that sum, `y x`. `quantise` truncates to 255 steps, as an
    8-bit picture does. Constant relevance gives 0.
    """
    if how not in RENDERINGS:
        raise OptionError(
            f"rendered was asked for how={how!r}; "
            f"give one of {', '.join(RENDERINGS)}{near(how, RENDERINGS)}"
        )
    if relevance.ndim != 3:
        raise OptionError(
            f"rendered was given relevance of shape {tuple(relevance.shape)}; give `c y x`"
        )
    values = relevance.detach()
    if how != "relevance-rgb":
        values = values.sum(0)
    values = values.clamp(min=0) if how == "positive" else values.abs()
    low, span = values.min(), values.max() - values.min()
    image = torch.where(span > 0, (values - low) / torch.where(span > 0, span, 1.0), 0.0)
    return (image * 255).floor() / 255 if quantise else image
