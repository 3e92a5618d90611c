"""Attention over all tokens, a window of them, or where a softmax over positions selects it."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....kernels.attention import attention
from ....probe.errors import OptionError
from ....probe.mark import mark
from ...card import Figure
from ...layers import Memory
from .decoding import no_steps
from .mixers import mixer

SELECTION = Figure(
    "Selection",
    "values",
    sites=("**:selection",),
    about="The softmax over positions that multiplies attention; outside training those that are "
    "not among the most selected give 0.",
)


class CausalHeads(nn.Module):
    """out(softmax(q k' / sqrt(d)) v); ports q, k, v, heads and map.

    dropout   share of the map that is left out in training
    """

    shows: ClassVar[tuple[Figure, ...]] = ()
    kept: int | None = None  # keys that decoding keeps; all

    def __init__(self, d_model: int, num_heads: int, bias: bool, dropout: float) -> None:
        super().__init__()
        if num_heads < 1 or d_model % num_heads:
            raise OptionError(
                f"d_model={d_model} does not divide into num_heads={num_heads}: give a divisor"
            )
        self.num_heads, self.dropout = num_heads, dropout
        self.Wqkv = nn.Linear(d_model, 3 * d_model, bias=bias)
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """Tokens `b n c`; those that follow the ones of earlier calls where there is a memory."""
        q, k, v = self.Wqkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        if memory is not None:
            k, v = (
                torch.cat([memory[name], new], 2) if memory else new
                for name, new in (("k", k), ("v", v))
            )
            start = max(k.shape[2] - self.kept, 0) if self.kept is not None else 0
            memory.update(k=k[:, :, start:], v=v[:, :, start:])
        return self.out_proj(self.mix(q, k, v).transpose(1, 2).flatten(2))

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.training and self.dropout:
            return F.scaled_dot_product_attention(q, k, v, None, self.dropout, True)
        return attention(q, k, v, causal=True)


@mixer("attention", "zoology.mixers.attention.MHA")
class MHA(CausalHeads):
    """Causal softmax attention over all tokens before."""

    def __init__(
        self,
        d_model: int,
        *,
        layer_idx: int = 0,
        num_heads: int = 1,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(d_model, num_heads, bias, dropout)

    def state_size(self, length: int) -> int:
        """Keys and values of all tokens."""
        return 2 * self.out_proj.in_features * length


@mixer("sliding", "zoology.mixers.slide_attn.SlidingAttn")
class SlidingAttn(CausalHeads):
    """One head; a token sees itself and the `block_size` tokens before it."""

    def __init__(self, d_model: int, *, layer_idx: int = 0, block_size: int = 64) -> None:
        super().__init__(d_model, 1, bias=True, dropout=0.0)
        if block_size < 0:
            raise OptionError(f"block_size={block_size} of a sliding window must not be negative")
        self.block_size = self.kept = block_size

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        place = torch.arange(k.shape[2], device=q.device)
        back = place[k.shape[2] - q.shape[2] :, None] - place
        return attention(q, k, v, mask=(back >= 0) & (back <= self.block_size))

    def state_size(self, length: int) -> int:
        """Keys and values of a window."""
        return 2 * self.out_proj.in_features * self.block_size


@mixer("selective", "zoology.mixers.selective.SelectiveLookups")
class SelectiveLookups(CausalHeads):
    """x + selection attention(x), the selection a softmax over positions.

    In training all positions take part, otherwise the ceil(sqrt(n)) that are selected most: which
    those are depends on all positions, so that this mixer is not causal. Marks: `selection`,
    `b n 1`, as it multiplies.
    """

    shows: ClassVar[tuple[Figure, ...]] = (SELECTION,)

    def __init__(
        self,
        d_model: int,
        *,
        layer_idx: int = 0,
        num_heads: int = 1,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(d_model, num_heads, bias, dropout)
        self.selecting = nn.Linear(d_model, 1)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """Tokens `b n c`. Raises OptionError for a memory: what is selected depends on all."""
        if memory is not None:
            raise no_steps("a selective mixer", "selects among all positions at once")
        selection = self.selecting(x).softmax(1)
        if not self.training:
            most = selection.topk(math.ceil(math.sqrt(x.shape[1])), 1)
            selection = torch.zeros_like(selection).scatter(1, most.indices, most.values)
        return x + super().forward(x) * mark("selection", selection)

    def state_size(self, length: int) -> None:
        """No published figure."""
