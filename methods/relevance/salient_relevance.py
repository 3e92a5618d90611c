"""Salient relevance (Li et al. 2019, arXiv 1712.08268): LRP, then context-aware saliency."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ...kernels.shared import wide
from ...probe.attribution import (
    BoundMethod,
    Count,
    Positive,
    Share,
    Spread,
    pass_method,
    use,
)
from ...probe.engine import Runner
from ...probe.errors import MethodError
from ...probe.relevance import Epsilon, Preset, ZPlus
from ...probe.results import SaliencyMap
from ...probe.targets import Target
from ..context_aware import context_aware, contours, rendered
from ..context_aware import foci as focus_mask

if TYPE_CHECKING:
    import numpy as np

PAPER = Preset("sr", Epsilon(1e-9), ZPlus(1e-9, bias=False))
UPSTREAM = Preset(
    "sr_upstream",
    Epsilon(1e-9, signed=False),
    ZPlus(1e-9, bias=False),
    pool="unpool-overwrite",
)


@pass_method("salient_relevance")
def salient_relevance(
    runner: Runner,
    x: Tensor,
    target: Target,
    *,
    base: str = "paper",
    render: Literal["relevance-rgb", "relevance-gray", "positive"] = "relevance-rgb",
    c: Spread = 3.0,
    k: Count = 64,
    scales: tuple[Positive, ...] = (1.0, 0.8, 0.5, 0.3),
    patch: Count = 7,
    stride: Count = 3,
    threshold: Share = 0.8,
    longest: Count = 250,
    colour: Literal["lab", "rgb", "gray"] = "lab",
    neighbours: Literal["exact", "fast"] = "fast",
    focus: bool = True,
) -> Tensor:
    """Context-aware saliency of the picture that relevance paints, weighted towards its foci.

    base     `paper`: epsilon 1e-9 in convolutions, z+ without bias in linear layers, relevance
             kept through pools; `upstream`: as the paper's code runs it, with an unsigned
             stabiliser, pools that lose relevance and 8-bit rendering; or any of our maps by
             name, such as `lrp:epsilon_plus_flat`, `normgrad` or `gradcam`
    The other options are those of `context_aware` and `rendered`; `foci(map)` gives the foci.
    """
    (values,) = runner.maps(x, target, [_base(base)])
    image = rendered(_channels(values, x, base), render, quantise=base == "upstream")
    saliency = context_aware(
        image, c=c, k=k, scales=scales, patch=patch, stride=stride, threshold=threshold,
        longest=longest, colour=colour, neighbours=neighbours, focus=focus,
    )  # fmt: skip
    return saliency.values[None].to(wide(x).dtype)


def _base(base: str) -> BoundMethod:
    presets = {"paper": PAPER, "upstream": UPSTREAM}
    if base in presets:
        return use("lrp", preset=presets[base], channels=True, sites="input")
    bound = use(base)
    if bound.method.kind != "site":
        raise MethodError(
            f"salient_relevance was asked for the map of {base!r}, which takes passes of its own; "
            "give 'paper', 'upstream' or a method of one pass"
        )
    if bound.method.name == "lrp":
        return use(bound, channels=True, sites="input")
    return use(
        bound,
        sites=bound.sites or (bound.method.sites if bound.method.sites == "input" else "last"),
    )


def _channels(values: Tensor, x: Tensor, base: str) -> Tensor:
    """One sample's map as `c y x` of the input's size."""
    planes = values[0] if values.ndim == 4 else values[0][None]
    if planes.ndim != 3:
        raise MethodError(
            f"salient_relevance needs a map over y and x, and {base!r} gives none here"
        )
    if planes.shape[1:] != x.shape[2:]:
        planes = F.interpolate(
            wide(planes)[None], x.shape[2:], mode="bilinear", align_corners=False
        )[0]
    return planes if len(planes) in (1, 3) else planes.sum(0, keepdim=True)


def foci(found: SaliencyMap, threshold: float = 0.8) -> tuple[Tensor, list[np.ndarray]]:
    """The attention foci of a salient-relevance map: a mask `y x`, and outlines as x and y.

    The foci are the pixels above `threshold` times the largest value; the weighting leaves them
    as they are and lowers all others, so the final map still tells them exactly.

    Example:
        >>> mask, outlines = ll.foci(ll.maps(net, x, "salient_relevance", target=1)[0])
        >>> mask.shape
        torch.Size([8, 8])
    """
    mask = focus_mask(torch.nan_to_num(found.values), threshold)
    return mask, contours(mask)
