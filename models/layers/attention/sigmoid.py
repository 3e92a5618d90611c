"""Attention whose map is the sigmoid of its scores (arXiv 2409.04431)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ....kernels.attention import attention
from .softmax import Attention


class SigmoidAttention(Attention):
    """sigmoid(q k' / sqrt(d) + b) v over `b n c`; ports q, k, v, bias, heads, map.

    bias      b, one number for all scores; -ln n for n tokens keeps row sums near 1 at the start
    qk_norm   epsilon of layer norms of each head's queries and keys; None for none
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv_bias: bool,
        drop: float,
        *,
        bias: float,
        qk_norm: float | None = None,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, drop, 0.0)
        self.bias = bias
        size = dim // num_heads
        self.q_norm = nn.Identity() if qk_norm is None else nn.LayerNorm(size, qk_norm)
        self.k_norm = nn.Identity() if qk_norm is None else nn.LayerNorm(size, qk_norm)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        bias = torch.full((1,), self.bias, dtype=q.dtype, device=q.device)
        out = attention(self.q_norm(q), self.k_norm(k), v, bias=bias, score="sigmoid")
        return self.proj_drop(self.proj(out.transpose(1, 2).flatten(2)))
