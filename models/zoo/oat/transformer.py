"""The encoder over a shelf's objects and the decoder over fixations: post-norm, with ReLU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....kernels.attention import attention


class MultiHeadAttention(nn.Module):
    """softmax(q k' / sqrt(d)) v over the tokens themselves, or over those of a memory."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(
        self, x: Tensor, memory: Tensor | None = None, *, keep: Tensor | None = None
    ) -> Tensor:
        """Tokens `b n d` that see `memory b m d`; without one each sees those before it if `keep`
        `b n` says which of them count, else all."""
        q, k, v = (self._split(t) for t in self._projected(x, memory))
        if self.training and self.dropout:
            seen = None if keep is None else _seen(keep)
            out = F.scaled_dot_product_attention(q, k, v, seen, dropout_p=self.dropout)
        else:
            out = attention(q, k, v, keep=keep, causal=keep is not None)
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def _projected(self, x: Tensor, memory: Tensor | None) -> tuple[Tensor, ...]:
        if memory is None:
            return F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        width = x.shape[-1]
        w_q, w_kv = self.in_proj_weight.split((width, 2 * width))
        b_q, b_kv = self.in_proj_bias.split((width, 2 * width))
        return F.linear(x, w_q, b_q), *F.linear(memory, w_kv, b_kv).chunk(2, -1)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _seen(keep: Tensor) -> Tensor:
    """Who sees whom, `b 1 n n`: tokens that count, up to the own place."""
    n = keep.shape[1]
    return keep[:, None, None] & torch.ones(n, n, dtype=torch.bool, device=keep.device).tril()


class FeedForward(nn.Module):
    """What the layers share: the two linear maps, and residuals that are normalised after."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def mlp(self, x: Tensor) -> Tensor:
        return self.linear2(self.dropout(F.relu(self.linear1(x))))


class EncoderLayer(FeedForward):
    """x = norm(x + attention(x)); x = norm(x + mlp(x))."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__(width, hidden, dropout)
        self.self_attn = MultiHeadAttention(width, heads, dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.dropout(self.self_attn(x)))
        return self.norm2(x + self.dropout(self.mlp(x)))


class DecoderLayer(FeedForward):
    """The same, with attention to the memory between."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__(width, hidden, dropout)
        self.norm3 = nn.LayerNorm(width)
        self.self_attn = MultiHeadAttention(width, heads, dropout)
        self.multihead_attn = MultiHeadAttention(width, heads, dropout)

    def forward(self, x: Tensor, memory: Tensor, keep: Tensor) -> Tensor:
        x = self.norm1(x + self.dropout(self.self_attn(x, keep=keep)))
        x = self.norm2(x + self.dropout(self.multihead_attn(x, memory)))
        return self.norm3(x + self.dropout(self.mlp(x)))


class Layers(nn.Module):
    """Layers one after another, without a norm at the end."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, *besides: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, *besides)
        return x
