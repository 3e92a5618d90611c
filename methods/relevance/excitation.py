"""Excitation backpropagation (Zhang et al., arXiv 1608.00507), plain and contrastive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...probe.attribution import method
from ...probe.relevance import LinearMap, PositiveWeights, Preset, ratio

_EPS = 1e-20
_RULE = PositiveWeights(_EPS)


@dataclass(frozen=True)
class Contrast:
    """The last layer against its dual: x W+ against itself, less x (-W)+ against itself."""

    eps: float = _EPS
    gradient: bool = True

    def __call__(self, a: LinearMap, r: Tensor) -> Tensor:
        parts = []
        for weight in (a.weight.clamp(min=0), (-a.weight).clamp(min=0)):
            parts.append(a.transpose(ratio(r, a.forward(a.x, weight, None), self.eps), weight))
        return parts[0] - parts[1]


def excitation(*, contrast: bool = False, **_: Any) -> Preset:
    """Positive weights everywhere, no bias; a batch norm hands on what it receives."""
    last = Contrast() if contrast else None
    return Preset("excitation", _RULE, _RULE, last=last, fold=False, norms="pass", init="one")


@method("excitation_backprop", sites="hidden", regime=excitation)
def excitation_backprop(relevance: Tensor) -> Tensor:
    """Chance that a winner is passed on to each position: x W+'(p / W+ x), summed over channels.

    For values that are not negative, behind a ReLU: it should not be read at pixels.
    """
    return relevance.sum(1)


@method("contrastive_excitation_backprop", sites="hidden", regime=lambda: excitation(contrast=True))
def contrastive_excitation_backprop(relevance: Tensor) -> Tensor:
    """The positive part of the winner's map less that of its dual, the last weights negated.

    All layers below the last are linear in what they receive, so that it makes no difference at
    which of them the two are subtracted.
    """
    return relevance.sum(1).clamp(min=0)
