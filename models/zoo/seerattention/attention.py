"""Causal attention whose gate chooses the blocks of keys that a block of queries sees."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ....kernels.attention import attention
from ....kernels.routed import routed_attention
from ....probe.errors import OptionError
from ....probe.mark import mark
from ...layers import Memory
from .gates import DecodeGate, PrefillGate
from .positions import Rotation
from .sparsity import Sparsity, ground_truth


@dataclass(frozen=True)
class Sizes:
    """Widths and counts of a layer; bias is that of q, k and v, out_bias the output's."""

    dim: int
    heads: int
    groups: int
    head_dim: int
    bias: bool
    out_bias: bool


class SeerAttention(nn.Module):
    """Causal attention over `b n c`; ports q, k, v, heads, map and marks gate and blocks.

    While training and with the method "dense" every query sees all keys before it. Padding is as
    if removed: blocks count from the first token of each sequence.
    """

    missing = False  # whether a file brought the layer's weights without those of its gate

    def __init__(
        self,
        sizes: Sizes,
        gate: PrefillGate | DecodeGate,
        block: int,
        sparsity: Sparsity,
        turn: Rotation,
    ) -> None:
        super().__init__()
        inner, shared = sizes.heads * sizes.head_dim, sizes.groups * sizes.head_dim
        self.head_dim, self.block, self.sparsity, self.turn = sizes.head_dim, block, sparsity, turn
        self.q_proj = nn.Linear(sizes.dim, inner, bias=sizes.bias)
        self.k_proj = nn.Linear(sizes.dim, shared, bias=sizes.bias)
        self.v_proj = nn.Linear(sizes.dim, shared, bias=sizes.bias)
        self.o_proj = nn.Linear(inner, sizes.dim, bias=sizes.out_bias)
        self.attn_gate = gate

    def forward(
        self, x: Tensor, keep: Tensor | None = None, memory: Memory | None = None
    ) -> Tensor:
        order = None if keep is None else (~keep).byte().argsort(dim=1, stable=True)
        if order is not None:
            x = torch.take_along_dim(x, order[..., None], 1)
        lengths = None if keep is None else keep.sum(1)
        out = self._mixed(x, lengths, memory)
        out = self.o_proj(out.transpose(1, 2).flatten(2))
        if keep is None or order is None:
            return out
        out = torch.take_along_dim(out, order.argsort(1)[..., None], 1)
        return out.masked_fill(~keep[..., None], 0)

    def _mixed(self, x: Tensor, lengths: Tensor | None, memory: Memory | None) -> Tensor:
        """Tokens come first and padding last; gives `b h n d`."""
        sparse = not self.training and self.sparsity.method != "dense"
        first, n = not memory, x.shape[1]
        if sparse:
            self._ready(first, n, lengths, memory)
        places = torch.arange(n, device=x.device).expand(len(x), -1)
        if lengths is not None:
            places = places.masked_fill(places >= lengths[:, None], -1)
        if memory:
            places = torch.where(places < 0, places, places + memory["next"])
        plain_q, plain_k, v = self.projected(x)
        q, k = self.turn(plain_q, places), self.turn(plain_k, places)
        keys = _remember(k, v, places, memory)
        if isinstance(self.attn_gate, DecodeGate) and sparse and memory is not None:
            self._compress(self.attn_gate, plain_k, memory)
            if not first:
                seen = self._decoded(self.attn_gate, plain_q, places, memory)
                return attention(q, keys[0], keys[1], mask=seen)
        elif isinstance(self.attn_gate, PrefillGate) and sparse and first and n > 1:
            seen = self._chosen(self.attn_gate, plain_q, plain_k, lengths)
            return routed_attention(q, k, v, mask=seen, block=min(self.block, n), causal=True)
        if first and lengths is None:
            return attention(q, k, v, causal=True)
        return attention(q, keys[0], keys[1], bias=_seen(places, keys[2]).to(q.dtype)[:, None])

    def projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of `b n c` before positions, `b h n d`."""
        q, k, v = (
            part(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        return q, k, v

    def gate_and_truth(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The gate's logits and the pooled attention it should predict, `b h n n` of `b n c`.

        Only the gate's weights get gradients. Raises OptionError for decode gates.
        """
        if not isinstance(self.attn_gate, PrefillGate):
            raise OptionError(
                "the ground truth of a decode gate is not told by its paper's sheet: distil a "
                "prefill gate, as seerattn_gate_type='Qavg_Kmaxminavg'"
            )
        q, k, v = (part.detach() for part in self.projected(x.detach()))
        logits = self.attn_gate(q, k, self.turn, self.block)
        places = torch.arange(x.shape[1], device=x.device)[None]
        return logits, ground_truth(self.turn(q, places), self.turn(k, places), v, self.block)

    def _chosen(self, gate: PrefillGate, q: Tensor, k: Tensor, lengths: Tensor | None) -> Tensor:
        scores = self.sparsity.scores(gate(q, k, self.turn, self.block, lengths))
        counts = None if lengths is None else -(-lengths // self.block)
        return mark("blocks", self.sparsity.blocks(mark("gate", scores), counts))

    def _compress(self, gate: DecodeGate, k: Tensor, memory: Memory) -> None:
        """Moves the compressed keys on: a full block once, keys of the open block wait."""
        waiting = torch.cat([memory["open"], k], 2) if "open" in memory else k
        done = memory["blocks"].shape[2] if "blocks" in memory else 0
        full = waiting.shape[2] // self.block * self.block
        memory["open"] = waiting[:, :, full:]
        if full:
            fresh = gate.blocks(waiting[:, :, :full], self.turn, self.block, done)
            memory["blocks"] = torch.cat([memory["blocks"], fresh], 2) if done else fresh

    def _decoded(self, gate: DecodeGate, q: Tensor, places: Tensor, memory: Memory) -> Tensor:
        """The keys that one query sees, `b h 1 m`: chosen full blocks, and always its own."""
        last, m = int(places[0, -1]) // self.block, int(places[0, -1]) + 1
        if not last:
            return torch.ones(1, 1, 1, m, dtype=torch.bool, device=q.device)
        logits = gate(gate.query(q, places, self.turn), memory["blocks"][:, :, :last])
        chosen = mark("blocks", self.sparsity.decoded(mark("gate", logits), self.block))
        seen = chosen.repeat_interleave(self.block, -1)
        seen = torch.cat([seen, seen.new_ones(*seen.shape[:-1], m - seen.shape[-1])], -1)
        return seen.repeat_interleave(q.shape[1] // seen.shape[1], 1)

    def _ready(self, first: bool, n: int, lengths: Tensor | None, memory: Memory | None) -> None:
        """Raise OptionError for calls that the gates cannot serve."""
        if self.missing:
            raise OptionError(
                "the gates of this model have no weights, only its base has: call load_gates with "
                "their file, or ask for seerattn_sparsity_method='dense'"
            )
        if not first and n > 1:
            raise OptionError(
                f"gates choose blocks for a whole prompt, but {n} tokens came after the first "
                "call: give the prompt in one call and then token by token"
            )
        if memory is not None and lengths is not None and isinstance(self.attn_gate, DecodeGate):
            raise OptionError(
                "a decode gate takes sequences of one length: leave attention_mask out, or decode "
                "each sequence by itself"
            )


def _remember(
    k: Tensor, v: Tensor, places: Tensor, memory: Memory | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, values and their places, with those of earlier calls in front."""
    if memory is None:
        return k, v, places
    if memory:
        k, v = torch.cat([memory["k"], k], 2), torch.cat([memory["v"], v], 2)
    following = (places.amax(1, keepdim=True) + 1).clamp(min=0)
    if memory:
        places = torch.cat([memory["places"], places], 1)
        following = torch.maximum(following, memory["next"])
    memory.update(k=k, v=v, places=places, next=following)
    return k, v, places


def _seen(asking: Tensor, places: Tensor) -> Tensor:
    """0 where a query sees a key, else -inf, `b n m`; padding sees itself, for finite maps."""
    n, m = asking.shape[1], places.shape[1]
    seen = (asking[:, :, None] >= places[:, None]) & (places >= 0)[:, None]
    keys = torch.arange(m, device=asking.device)
    seen = seen | (keys == keys[m - n :, None])
    return torch.zeros_like(seen, dtype=torch.float32).masked_fill(~seen, -math.inf)
