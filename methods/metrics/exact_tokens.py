"""Maps against the truth, where a logit is a mean over tokens that never meet."""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from ...probe.capture import guarded
from ...probe.errors import OptionError
from ..perturbation import OnCopies
from .perturbed_scores import Scorer
from .registry import metric
from .similarity import pearson, spearman


@runtime_checkable
class OfTokens(Protocol):
    """A model whose logits are sums of one term a token, each of that token alone."""

    def token_shares(self, x: Tensor) -> Tensor:
        """What each token adds to each logit: `b classes` and the grid of tokens."""
        ...


@metric("exact_tokens", "Axiomatic")
def exact_tokens(
    saliency: Tensor, model: Scorer, *, by: Literal["pearson", "spearman"] = "pearson"
) -> float:
    """Correlation of a map with what each token adds to the logit, which is exact.

    The logit of Activator (arXiv 2405.15953) is the mean of N independent functions of patches,
    sum_i (w h_i + b) / N. A map finer than the grid of tokens counts by its mean over each; a
    map of pixels that was resized smoothly is therefore no longer that of its tokens.
    Raises OptionError for a model without such tokens, or a map that does not divide into them.
    """
    exact = exact_shares(model)
    found = _over_tokens(saliency, tuple(exact.shape))
    correlation = pearson if by == "pearson" else spearman
    return float(correlation(found[None], exact[None]))


@torch.no_grad()
def exact_shares(model: Scorer) -> Tensor:
    """What each token adds to the logit of the scorer's class, over their grid, in float64.

    Raises OptionError for a model whose logits are no such sum.
    """
    net = model.model.model if isinstance(model.model, OnCopies) else model.model
    if not isinstance(net, OfTokens):
        raise OptionError(
            "exact_tokens asks for what each token adds to a logit, but in "
            f"{type(net).__name__} tokens meet before the logits: take a model with token_shares, "
            "such as Activator, or a metric of faithfulness"
        )
    rows = model.target.rows if model.target.pick is not None else None
    if rows is None:
        raise OptionError(
            f"exact_tokens asks for what each token adds to the logit of a class, but target "
            f"{model.target.name!r} is no class: score a class"
        )
    with guarded(net, grad=False, evaluate=True):
        return net.token_shares(model.x[None])[0, int(rows[0])].double().cpu()


def _over_tokens(saliency: Tensor, grid: tuple[int, ...]) -> Tensor:
    """The mean of a map over each token of the grid."""
    shape = tuple(saliency.shape)
    if len(shape) != len(grid) or any(s % n for s, n in zip(shape, grid, strict=True)):
        raise OptionError(
            f"a map of {' x '.join(map(str, shape))} does not divide into the "
            f"{' x '.join(map(str, grid))} tokens of the model: give it at their size, or at that "
            "of the input"
        )
    cut = [side for s, n in zip(shape, grid, strict=True) for side in (n, s // n)]
    inside = tuple(range(1, 2 * len(grid), 2))
    return saliency.detach().double().cpu().reshape(cut).mean(inside)
