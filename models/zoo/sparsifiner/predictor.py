"""Which keys a query sees: a low-rank estimate of attention and the connectivity read off it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....probe.errors import OptionError
from ....probe.mark import mark


@dataclass(frozen=True)
class Sparsity:
    """How estimates are made sparse.

    basis              entries of the basis that are not larger are 0
    coefficients       how many coefficients a query keeps; None for those above their threshold
    coefficients_above that threshold; 0 keeps all
    scores             whether a query sees the keys of its largest estimates, as many as its
                       budget; else those above the threshold
    scores_above       that threshold
    rows               whether pruned tokens see nothing
    """

    basis: float
    coefficients: int | None
    coefficients_above: float
    scores: bool
    scores_above: float
    rows: bool


class MaskPredictor(nn.Module):
    """A = top(softmax(q' k'' h^-0.5)) |W| of h heads, and the mask of its largest entries.

    q', k' are queries and keys at fewer channels, k'' = k'^T proj_n are K keys made of all, and W
    is proj_back_n^T, K maps over the keys, small entries 0. Sites: `basis` W, `coefficients`
    `b h n-1 K` and `estimate` A `b h n-1 n`; the class token is no row of it.

    budget         how many keys a query sees; pruned_budget where tokens have been pruned
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        tokens: int,
        budget: int,
        pruned_budget: int,
        reduce_n_factor: float,
        reduce_c_factor: int,
        share: bool,
        sparsity: Sparsity,
    ) -> None:
        super().__init__()
        count, width = int(tokens // reduce_n_factor), head_dim // reduce_c_factor
        check_sizes(tokens, count, width, sparsity)
        self.num_heads, self.sparsity = num_heads, sparsity
        self.budget, self.pruned_budget = budget, pruned_budget
        self.proj_n = nn.Parameter(torch.zeros(tokens, count))
        self.proj_back_n = self.proj_n if share else nn.Parameter(torch.zeros(tokens, count))
        self.proj_c_q = nn.Linear(head_dim, width)
        self.proj_c_k = nn.Linear(head_dim, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the predictor anew."""
        for table in (self.proj_n, self.proj_back_n, self.proj_c_q.weight, self.proj_c_k.weight):
            nn.init.trunc_normal_(table, std=0.02)
        for layer in (self.proj_c_q, self.proj_c_k):
            nn.init.zeros_(layer.bias)

    def forward(
        self, q: Tensor, k: Tensor, kept: Tensor | None = None, *, dense: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The estimate `b h n-1 n` and the mask `b h n n`; the class token's row of it is full.

        kept   `b n`, False for pruned tokens, whose keys nobody else sees
        dense  nothing is made sparse, and the basis keeps its signs: how it learns to reconstruct
        """
        q, k = self.proj_c_q(q), self.proj_c_k(k)
        if kept is not None:
            q, k = (without(x, kept) for x in (q, k))
        coefficients = self._coefficients(q, k, dense=dense)
        basis = self.proj_back_n.T
        if not dense:
            basis = F.threshold(basis.abs(), self.sparsity.basis, 0.0)
        estimate = mark("estimate", mark("coefficients", coefficients) @ mark("basis", basis))
        return estimate, self._mask(estimate.detach(), kept)

    def _coefficients(self, q: Tensor, k: Tensor, *, dense: bool) -> Tensor:
        logits = q @ (k.mT @ self.proj_n) * self.num_heads**-0.5
        shares = logits[..., 1:, :].softmax(-1)
        if dense:
            return shares
        if self.sparsity.coefficients is None:
            return F.threshold(shares, self.sparsity.coefficients_above, 0.0)
        best, index = shares.topk(self.sparsity.coefficients, sorted=False)
        return torch.zeros_like(shares).scatter(-1, index, best)

    def _mask(self, estimate: Tensor, kept: Tensor | None) -> Tensor:
        budget = self.budget if kept is None else self.pruned_budget
        if kept is not None:
            estimate = estimate.masked_fill(~kept[:, None, None], -math.inf)
        if self.sparsity.scores:
            index = estimate.topk(budget, sorted=False)[1]
            seen = torch.zeros_like(estimate, dtype=torch.bool).scatter_(-1, index, True)
        else:
            seen = estimate > self.sparsity.scores_above
        if kept is not None and self.sparsity.rows:
            seen = seen & kept[:, None, 1:, None]
        return F.pad(seen, (0, 0, 1, 0), value=True)


def without(x: Tensor, kept: Tensor) -> Tensor:
    """`b h n d` with zeros for pruned tokens."""
    return x.masked_fill(~kept[:, None, :, None], 0.0)


def check_sizes(tokens: int, count: int, width: int, sparsity: Sparsity) -> None:
    """Raise OptionError where a predictor of these sizes cannot work."""
    if count < 1 or width < 1:
        raise OptionError(
            f"a mask predictor of {count} maps over {tokens} tokens and {width} channels a head "
            "predicts nothing: give a smaller reduce_n_factor or reduce_c_factor"
        )
    if sparsity.coefficients is not None and not 1 <= sparsity.coefficients <= count:
        raise OptionError(
            f"basis_coef_topk={sparsity.coefficients} coefficients were to be kept of {count}: "
            f"give 1 to {count}, or a smaller reduce_n_factor"
        )
