"""Causal softmax attention with rotary positions, at most a window back: a Llama's layers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ....kernels.attention import attention
from ....probe.errors import OptionError
from ..sequence import Memory, pads_back, pads_first


class RotaryAttention(nn.Module):
    """Causal attention over `b n c`; query heads share keys in runs. Ports q, k, v, heads, map.

    num_value_heads   as many as there are of keys unless given; query heads share them in runs
    window   tokens that a query sees, itself included; None for all before it
    theta    base of the rotary frequencies, theta^(-2 i / d), halves rotated against each other
    bias     of q, k and v; out_bias that of the output
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_kv_heads: int | None,
        *,
        window: int | None,
        theta: float,
        bias: bool,
        out_bias: bool = False,
        head_dim: int | None = None,
        num_value_heads: int | None = None,
    ) -> None:
        super().__init__()
        groups = num_kv_heads or num_heads
        values = num_value_heads or groups
        size = head_dim or dim // num_heads
        shared = num_heads % groups or num_heads % values
        if (not head_dim and dim % num_heads) or shared or size % 2:
            raise OptionError(
                f"{dim} channels do not divide into {num_heads} even heads of {groups} groups: "
                "give attn num_heads that divide the width and num_kv_heads that divide those"
            )
        self.head_dim, self.window, self.theta = size, window, theta
        self.q_proj = nn.Linear(dim, num_heads * size, bias=bias)
        self.k_proj = nn.Linear(dim, groups * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(dim, values * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(num_heads * size, dim, bias=out_bias)

    def forward(
        self, x: Tensor, keep: Tensor | None = None, memory: Memory | None = None
    ) -> Tensor:
        if keep is not None:
            x = pads_first(x, keep)
        q, k, v = (
            y.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for y in (self.queries(x), self.k_proj(x), self.v_proj(x))
        )
        first = memory is None or not memory
        asking = _places(x, keep, memory)
        q, k = rotate(q, asking, self.theta), rotate(k, asking, self.theta)
        k, v, places = _remembered(k, v, asking, memory)
        plain = first and keep is None
        bias = None if plain else self.seen(asking, places).to(q.dtype)[:, None]
        left = self.window - 1 if plain and self.window is not None else None
        out = attention(q, k, v, bias=bias, causal=plain, left=left)
        out = self.o_proj(out.transpose(1, 2).flatten(2))
        return out if keep is None else pads_back(out, keep)

    def queries(self, x: Tensor) -> Tensor:
        """The queries of all heads, `b n c`, before they are turned."""
        return self.q_proj(x)

    def seen(self, asking: Tensor, places: Tensor) -> Tensor:
        """0 where a query sees a key, else -inf, `b n m`. Padding sees itself, for finite maps."""
        back = asking[:, :, None] - places[:, None, :]
        seen = (back >= 0) & (places >= 0)[:, None]
        if self.window is not None:
            seen = seen & (back < self.window)
        n, m = back.shape[1:]
        keys = torch.arange(m, device=asking.device)
        seen = seen | (keys == keys[m - n :, None])
        return torch.zeros_like(back, dtype=torch.float32).masked_fill(~seen, -math.inf)


def rotate(x: Tensor, places: Tensor, theta: float) -> Tensor:
    """Turn each pair (i, i + d/2) of `b h n d` by its place times theta^(-2 i / d)."""
    half = x.shape[-1] // 2
    powers = torch.arange(half, device=x.device, dtype=torch.float32) / half
    angle = places[:, None, :, None].float() * theta**-powers
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.split(half, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def _places(x: Tensor, keep: Tensor | None, memory: Memory | None) -> Tensor:
    """The number of each token in its sequence, `b n`; -1 at padding, which lies in front."""
    asking = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
    if keep is not None:
        asking = asking - (~keep).sum(1, keepdim=True)
    padding = asking < 0
    if memory and "next" in memory:
        asking = asking + memory["next"]
    return asking.masked_fill(padding, -1)


def _remembered(
    k: Tensor, v: Tensor, asking: Tensor, memory: Memory | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, values and their places, with those of earlier calls in front."""
    if memory is None:
        return k, v, asking
    if memory:
        k, v = torch.cat([memory["k"], k], 2), torch.cat([memory["v"], v], 2)
    places = torch.cat([memory["places"], asking], 1) if memory else asking
    memory.update(k=k, v=v, places=places, next=places.amax(1, keepdim=True) + 1)
    return k, v, places
