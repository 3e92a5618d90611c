"""Cosine attention over neighbours and pooled keys, and over all keys."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....kernels.aggregated import aggregated_attention
from ....kernels.attention import attention
from .positions import Pair, PositionBias, window_sizes

TEMPERATURE = math.log(math.expm1(1 / 0.24))  # its softplus is 1 / 0.24


class CosineAttention(PositionBias):
    """What both kinds share: heads, temperature, an embedding added to every query."""

    def __init__(
        self, dim: int, num_heads: int, grid: Pair, pretrained: Pair, *, pool: Pair, drop: float
    ) -> None:
        super().__init__(num_heads, grid, pool, pretrained)
        self.num_heads, self.grid, self.pool_size = num_heads, grid, pool
        self.temperature = nn.Parameter(torch.full((num_heads, 1, 1), TEMPERATURE))
        self.query_embedding = nn.Parameter(torch.empty(num_heads, 1, dim // num_heads))
        nn.init.trunc_normal_(self.query_embedding, std=0.02)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(drop)

    def projected(self, heads: Tensor) -> Tensor:
        """`b h n d` -> `b n c`."""
        return self.proj_drop(self.proj(heads.transpose(1, 2).flatten(2)))


class PlainAttention(CosineAttention):
    """softmax(softplus(temperature) log(n) (q^ + embedding) k^' + bias) v over all tokens."""

    def __init__(
        self, dim: int, num_heads: int, grid: Pair, pretrained: Pair, *, bias: bool, drop: float
    ) -> None:
        super().__init__(dim, num_heads, grid, pretrained, pool=grid, drop=drop)
        self.qkv = nn.Linear(dim, 3 * dim, bias=bias)
        self.length_scale = math.log(grid[0] * grid[1])

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(2, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        scale = F.softplus(self.temperature) * self.length_scale
        q = (F.normalize(q, dim=-1) + self.query_embedding) * scale
        k = F.normalize(k, dim=-1)
        return self.projected(attention(q, k, v, bias=self.position_bias(), scale=1.0))


class AggregatedAttention(CosineAttention):
    """Attention over the window around a query and over pooled keys, in one softmax.

    The op's ports: `scale` is softplus(temperature) times the log of how many keys a query sees,
    `pool_bias` the bias by position, `table` what each query adds to its window behind the
    softmax, q^ . learnable_tokens + learnable_bias.
    """

    length_scale: Tensor

    def __init__(
        self,
        dim: int,
        num_heads: int,
        grid: Pair,
        pretrained: Pair,
        *,
        pool: Pair,
        window: int,
        bias: bool,
        drop: float,
        eps: float,
    ) -> None:
        super().__init__(dim, num_heads, grid, pretrained, pool=pool, drop=drop)
        self.window, cells, width = window, window**2, dim // num_heads
        self.relative_pos_bias_local = nn.Parameter(torch.empty(num_heads, cells))
        self.learnable_tokens = nn.Parameter(torch.empty(num_heads, width, cells))
        self.learnable_bias = nn.Parameter(torch.zeros(num_heads, 1, cells))
        nn.init.trunc_normal_(self.relative_pos_bias_local, std=0.0004)
        nn.init.trunc_normal_(self.learnable_tokens, std=0.02)
        self.q = nn.Linear(dim, dim, bias=bias)
        self.kv = nn.Linear(dim, 2 * dim, bias=bias)
        self.sr = nn.Conv2d(dim, dim, 1)
        self.act = nn.GELU()
        self.norm = nn.LayerNorm(dim, eps)
        keys = window_sizes(grid, window) + pool[0] * pool[1]
        self.register_buffer("length_scale", keys.log().float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        tokens = torch.cat([x, self.pooled(x)], 1)
        k, v = self.kv(tokens).unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        out = aggregated_attention(
            q,
            k,
            v,
            grid=self.grid,
            pool=self.pool_size,
            kernel_size=self.window,
            embedding=self.query_embedding[:, 0],
            scale=F.softplus(self.temperature[:, 0]) * self.length_scale,
            local_bias=self.relative_pos_bias_local,
            pool_bias=self.position_bias(),
            table=F.normalize(q, dim=-1) @ self.learnable_tokens + self.learnable_bias,
        )
        return self.projected(out)

    def pooled(self, x: Tensor) -> Tensor:
        """The layer's input on the coarse grid, as tokens."""
        picture = self.act(self.sr(x.mT.unflatten(2, self.grid)))
        return self.norm(F.adaptive_avg_pool2d(picture, self.pool_size).flatten(2).mT)
