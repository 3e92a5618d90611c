"""How often shuffled labels score as high: p values per head, corrected for many heads."""

from __future__ import annotations

import torch
from torch import Tensor

from ...probe.errors import OptionError


def label_permutations(
    labels: Tensor, count: int = 20, generator: torch.Generator | None = None
) -> Tensor:
    """Shuffled labels, `count e`: each row holds as many positives as `labels` `e` does.

    The score of a row is a draw from the null that labels say nothing about codes. A row may
    repeat another, or the labels themselves, as independent draws do.
    """
    if labels.dim() != 1 or labels.dtype != torch.bool:
        raise OptionError(
            f"labels must be one bool per example, not {tuple(labels.shape)} {labels.dtype}: "
            "write True for positives"
        )
    if count < 1:
        raise OptionError(f"count={count} label permutations were asked for: ask for 1 or more")
    order = torch.rand(count, len(labels), generator=generator, dtype=torch.float64).argsort(1)
    return labels[order.to(labels.device)]


def p_values(score: Tensor, null: Tensor) -> Tensor:
    """p = (1 + #{null >= score}) / (1 + n), from `score` `... h` and `null` `n ... h`.

    The smallest possible value is 1 / (1 + n): 20 permutations reach .048, so after a correction
    over hundreds of heads nothing can be significant at .05 with fewer than thousands of them.
    """
    if null.dim() != score.dim() + 1 or null.shape[1:] != score.shape or not len(null):
        raise OptionError(
            f"null scores of shape {tuple(null.shape)} do not fit scores of {tuple(score.shape)}: "
            "stack one set of scores per permutation along the first dimension"
        )
    return (1 + (null >= score).sum(0)).to(torch.float64) / (1 + len(null))


def benjamini_hochberg(p: Tensor) -> Tensor:
    """q values: the smallest false discovery rate at which each head is kept; `... h` each.

    q of rank i of n = min over j >= i of n p_(j) / j, at most 1 (Benjamini and Hochberg 1995).
    It holds for independent or positively dependent heads.
    """
    if not bool(((p >= 0) & (p <= 1)).all()):
        raise OptionError("p values must lie between 0 and 1: pass what p_values returned")
    ordered, order = p.sort(-1)
    n = p.shape[-1]
    scaled = ordered * n / torch.arange(1, n + 1, device=p.device, dtype=p.dtype)
    smallest = scaled.flip(-1).cummin(-1).values.flip(-1).clamp(max=1)
    return torch.empty_like(p).scatter_(-1, order, smallest)
