"""Attention without relevance: the last map, rollout (Abnar and Zuidema 2020), its Grad-CAM."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ...probe.attribution import Natural, pass_method
from ...probe.errors import MethodError
from .token_rows import read_row
from .transformer_attribution import attending, explained, gradient_of

Fuse = Literal["mean", "max", "min"]


@pass_method("rollout")
def rollout(
    runner: Any,
    x: Tensor,
    target: Any,
    *,
    heads: Fuse = "mean",
    normalise: bool = True,
    start: Natural = 0,
) -> Tensor:
    """The product of (A + I) over blocks, heads fused; the row that the model reads.

    normalise  rows of each A + I sum to one, as in the paper
    start      the first block that takes part
    Not about any class. The row of the class token, else the mean row; of a language model, the
    last token's. The grid of the tokens follows from the ops that made them, else from the
    picture's proportions, which the notes then say. Raises MethodError where rows to be normalised
    have negative weights.
    """
    with attending(runner, target, relevance=False, gradients=False) as (probe, paths):
        parts = [_fused(probe.trace[f"{path}:map"].act, heads) for path in paths[start:]]
        signed = [path for path, part in zip(paths[start:], parts, strict=True) if part.min() < 0]
        if normalise and signed:
            raise MethodError(
                f"rollout makes shares of every row, but the map of {signed[0]!r} has negative "
                "weights, which may add up to nothing: ask with normalise=false, or for relevance"
            )
        return explained(probe, parts, normalise=normalise, runner=runner)


@pass_method("raw_attention")
def raw_attention(runner: Any, x: Tensor, target: Any, *, heads: Fuse = "mean") -> Tensor:
    """The last block's attention, heads fused: the row that the model reads."""
    with attending(runner, target, relevance=False, gradients=False) as (probe, paths):
        return read_row(probe, _fused(probe.trace[f"{paths[-1]}:map"].act, heads), runner)


@pass_method("attention_gradcam")
def attention_gradcam(runner: Any, x: Tensor, target: Any) -> Tensor:
    """Grad-CAM of the last block's attention (Chefer et al. 2021): heads weighted by gradients.

    max(0, mean over heads of w_h A_h) in the row that the model reads, w_h the mean gradient of
    that row.
    """
    with attending(runner, target, relevance=False) as (probe, paths):
        last = probe.trace[f"{paths[-1]}:map"]
        row, grad_row = (
            torch.stack([read_row(probe, head, runner) for head in heads.unbind(1)], 1)
            for heads in (last.act, gradient_of(last))
        )
        weight = (
            grad_row.flatten(2).mean(2).reshape(*grad_row.shape[:2], *[1] * (grad_row.ndim - 2))
        )
        return (weight * row).mean(1).clamp(min=0)


def _fused(attention: Tensor, heads: Fuse) -> Tensor:
    if heads == "mean":
        return attention.mean(1)
    if heads in ("max", "min"):
        return attention.amax(1) if heads == "max" else attention.amin(1)
    raise MethodError(f"heads are fused by mean, max or min, not {heads!r}")
