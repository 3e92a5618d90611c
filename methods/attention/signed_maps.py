"""What maps are that need not be shares: negative weights, sums and ranks of their rows.

KArAt's maps are learned functions of scores (arXiv 2503.10632); those of any mixer can be asked.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...probe.attribution import Heads, Share, head_method

_ROWS = 256


@head_method("negative_mass")
def negative_mass(heads: Heads) -> Tensor:
    """The share of a head's weight that is negative: mean_i sum_j max(-A_ij, 0) / sum_j |A_ij|.

    0 for softmax. All tokens count, class tokens too; a row of zeros has no share of its own and
    is left out.
    """
    total, count = (torch.zeros(heads.shape[:2], dtype=torch.float64) for _ in range(2))
    for start in range(0, heads.shape[2], _ROWS):
        part = heads.rows(slice(start, min(start + _ROWS, heads.shape[2]))).double()
        whole = part.abs().sum(-1)
        share = part.clamp(max=0).neg().sum(-1) / whole
        total += share.masked_fill(whole == 0, 0.0).sum(-1).cpu()
        count += (whole != 0).sum(-1).cpu()
    return total / count


@head_method("row_sum")
def row_sum(heads: Heads, *, bias: bool = True) -> Tensor:
    """What a head's rows sum to in the mean, mean_i sum_j A_ij: 1 for softmax.

    Of sigmoid scores about n / 2 without a bias, about 1 with one of -ln n (arXiv 2409.04431).
    bias   false: of the same scores without the one number that is added to all of them; NaN for
           heads whose scores have no such number
    """
    rows = heads.rows
    if not bias:
        added = None if heads.op is None else heads.op.argument("bias")
        if heads.op is None or added is None or added.numel() != 1:
            return heads.nothing()
        rows = heads.op.without("bias")
    total = torch.zeros(heads.shape[:2], dtype=torch.float64)
    for start in range(0, heads.shape[2], _ROWS):
        part = rows(slice(start, min(start + _ROWS, heads.shape[2]))).double()
        total += part.sum((-1, -2)).cpu()
    return total / heads.shape[2]


@head_method("map_rank")
def map_rank(heads: Heads, *, share: Share = 0.99) -> Tensor:
    """How many singular values of the map hold that share of their squares' sum.

    The whole n x m map of one head at a time; class tokens count.
    """
    return rank(singular_values(heads.rows(slice(None))), share)


def singular_values(x: Tensor) -> Tensor:
    """Of each matrix, in falling order and float64: `.. n m` -> `.. min(n, m)`."""
    return torch.linalg.svdvals(x.double())


def rank(values: Tensor, share: float = 0.99) -> Tensor:
    """The fewest leading values whose squares add up to that share of all; 0 of a zero matrix."""
    held = values.square().cumsum(-1)
    whole = held[..., -1:]
    return ((held < share * whole).sum(-1) + 1).masked_fill(whole[..., 0] == 0, 0).double()
