"""Which key blocks a gate's scores choose, and what they should be: pooled attention."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ....kernels.attention import attention_statistics
from ....probe.errors import OptionError

PREFILL = ("threshold", "nz_ratio", "dense")
DECODE = ("threshold", "token_budget", "dense")


@dataclass(frozen=True)
class Sparsity:
    """How blocks are chosen from scores.

    method            threshold: probabilities above it; nz_ratio: the k highest of a row of n,
                      k = max(1, (1 - sqrt(1 - nz_ratio)) n) rounded down, those above the diagonal
                      counted; token_budget: while decoding, blocks that hold so many tokens; dense
    last_block_dense  the last two rows of blocks see everything before them
    """

    method: str
    threshold: float
    nz_ratio: float
    token_budget: int
    last_block_dense: bool

    def check(self, known: tuple[str, ...]) -> None:
        """Raise OptionError for a method that the gate does not have, or numbers out of range."""
        if self.method not in known:
            raise OptionError(
                f"seerattn_sparsity_method {self.method!r} is not one of this gate: "
                f"write {', '.join(known)}"
            )
        if not 0 <= self.threshold < 1 or not 0 <= self.nz_ratio <= 1 or self.token_budget < 1:
            raise OptionError(
                "seerattn_threshold lies in 0..1, seerattn_nz_ratio in 0..1 and "
                f"seerattn_token_budget is at least 1, not {self.threshold}, {self.nz_ratio} and "
                f"{self.token_budget}"
            )

    def scores(self, logits: Tensor) -> Tensor:
        """What is compared: probabilities for a threshold, else the logits."""
        return logits.softmax(-1) if self.method == "threshold" else logits

    def blocks(self, scores: Tensor, counts: Tensor | None = None) -> Tensor:
        """Block masks `b h n n` of a prompt; never above the diagonal, which is not forced.

        counts   `b`, blocks of each sequence where some are shorter
        """
        n = scores.shape[-1]
        if self.method == "dense":
            return torch.ones_like(scores, dtype=torch.bool).tril()
        if counts is None:
            counts = torch.full((len(scores),), n, device=scores.device)
        if self.method == "threshold":
            chosen = scores > self.threshold
        else:
            share = (1 - math.sqrt(1 - self.nz_ratio)) * counts.double()
            chosen = _rank(scores) < share.long().clamp(min=1)[:, None, None, None]
        if self.last_block_dense:
            rows = torch.arange(n, device=scores.device)[:, None]
            chosen = chosen | (rows >= counts[:, None, None, None] - 2)
        return chosen.tril()

    def decoded(self, logits: Tensor, block: int) -> Tensor:
        """Of full blocks, those that one query sees: `b g 1 n`."""
        if self.method == "dense":
            return torch.ones_like(logits, dtype=torch.bool)
        if self.method == "threshold":
            return logits.softmax(-1) > self.threshold
        return _rank(logits) < max(0, self.token_budget // block - 1)


def _rank(scores: Tensor) -> Tensor:
    """The place of each score in its row, 0 for the highest."""
    return scores.argsort(dim=-1, descending=True, stable=True).argsort(-1)


@torch.no_grad()
def ground_truth(q: Tensor, k: Tensor, v: Tensor, block: int) -> Tensor:
    """Causal attention's largest entry in each pair of blocks, rows divided by their sums.

    q: b h t d, k and v: b g t d, positions in -> `b h n n`
    """
    _, statistics = attention_statistics(q, k, v, causal=True, pool=block)
    peak = statistics["peak"]
    return peak / peak.sum(-1, keepdim=True)
