"""The block of Sparsifiner: attention behind predicted masks, an MLP, and tokens pruned away."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ....kernels.attention import attention
from ....probe.mark import mark
from ...layers import dropped
from .predictor import MaskPredictor, without


class SparseAttention(nn.Module):
    """Softmax attention over the keys that a predictor picks; the class token sees all.

    keep  how many patches stay behind this layer: those that the class token attends to most;
          None prunes none
    The op's port `mask` holds the connectivity, `kept` the tokens that are left.
    """

    def __init__(
        self, dim: int, qkv_bias: bool, drop: float, keep: int | None, predictor: MaskPredictor
    ) -> None:
        super().__init__()
        self.num_heads, self.keep, self.reconstruct = predictor.num_heads, keep, False
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(drop)
        self.mask_predictor = predictor

    def forward(
        self, x: Tensor, kept: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """The mixed tokens, the tokens that are left `b n`, and the estimate `b h n-1 n`."""
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        if kept is not None:
            q, k, v = (without(y, kept) for y in (q, k, v))
        dense = self.training and self.reconstruct
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.training):
            estimate, mask = self.mask_predictor(q, k, kept, dense=dense)
        out = attention(q, k, v, mask=None if dense else mask)
        if self.keep is not None and not self.reconstruct:
            kept = mark("kept", self._pruned(q.detach(), k.detach(), kept, self.keep))
        return self.proj_drop(self.proj(out.transpose(1, 2).reshape(b, n, c))), kept, estimate

    def _pruned(self, q: Tensor, k: Tensor, kept: Tensor | None, keep: int) -> Tensor:
        """The class token and the patches that it attends to most, mean over heads."""
        logits = (q[:, :, 0, None] * k).sum(-1) * q.shape[-1] ** -0.5
        score = logits.softmax(-1).mean(1)
        if kept is not None:
            score = score.masked_fill(~kept, -math.inf)
        index = score[:, 1:].topk(keep, sorted=False)[1] + 1
        left = torch.zeros_like(score, dtype=torch.bool).scatter_(-1, index, True)
        left[:, 0] = True
        return left


class SparseBlock(nn.Module):
    """x + attention(norm(x)) / lam, then x + MLP(norm(x)) / lam; pruned tokens are zeros."""

    def __init__(
        self, dim: int, attn: SparseAttention, mlp: nn.Module, eps: float, drop: float, lam: float
    ) -> None:
        super().__init__()
        self.drop, self.skip_lam = drop, lam
        self.norm1 = nn.LayerNorm(dim, eps)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps)
        self.mlp = mlp

    def forward(
        self, x: Tensor, kept: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        mixed, kept, estimate = self.attn(self.norm1(x), kept)
        x = x + self._branch(mixed)
        x = x + self._branch(self.mlp(self.norm2(x)))
        if kept is not None:
            x = x.masked_fill(~kept[..., None], 0.0)
        return x, kept, estimate

    def _branch(self, x: Tensor) -> Tensor:
        x = dropped(x, self.drop, self.training)
        return x if self.skip_lam == 1 else x / self.skip_lam
