"""Where a relevance pass starts, and with what: a gradient in each tensor of the output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...kernels.shared import wide
from ..ops import Edge
from ..trace import exchange, leaves
from .linear_rules import as_gradient
from .presets import Preset

Seed = tuple[Edge, Tensor]


def seeds(
    output: Any, outputs: Sequence[Tensor], target: Callable[[Any], Tensor], preset: Preset
) -> list[Seed]:
    """The target's gradient in each of the differentiable tensors `outputs` of an output.

    One may be made of another, as a mean of two heads is: each receives what is read from itself.
    """

    def cut(_: str, x: Tensor) -> Tensor:
        return x.detach().requires_grad_() if x.grad_fn is not None else x

    apart = exchange(output, cut)
    score = target(apart)
    ends = [t for _, t in leaves(apart) if t.requires_grad]
    grads = torch.autograd.grad(score.sum(), ends, allow_unused=True)
    return [
        ((t.grad_fn, t.output_nr), _start(t, g, score, preset))
        for t, g in zip(outputs, grads, strict=True)
        if g is not None and t.grad_fn is not None
    ]


def _start(output: Tensor, g: Tensor, score: Tensor, preset: Preset) -> Tensor:
    """The modified gradient at the output: plain, over the score, or against the other classes."""
    if preset.init == "one":
        return g / score.detach().reshape(-1, *[1] * (g.ndim - 1))
    if preset.init == "softmax-contrast":
        classes = -1 if g.ndim == 3 else 1
        others = wide(output.detach()).masked_fill(g > 0, float("-inf")).softmax(classes)
        return g - (others * wide(g).sum(classes, keepdim=True)).to(g)
    if preset.init == "clrp":
        classes = -1 if g.ndim == 3 else 1
        z = wide(output.detach())
        whole = (z * wide(g)).sum(classes, keepdim=True) / (z.shape[classes] - 1)
        return g - as_gradient(whole.expand_as(z).masked_fill(g != 0, 0), z).to(g)
    return g
