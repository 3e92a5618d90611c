"""`F.multi_head_attention_forward` written as ops, so that its parts are sites."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def multi_head_attention(
    query: Tensor, key: Tensor, value: Tensor, embed_dim_to_check: int, num_heads: int,
    in_proj_weight: Tensor | None, in_proj_bias: Tensor | None, bias_k: Tensor | None,
    bias_v: Tensor | None, add_zero_attn: bool, dropout_p: float, out_proj_weight: Tensor,
    out_proj_bias: Tensor | None, training: bool = True, key_padding_mask: Tensor | None = None,
    need_weights: bool = True, attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False, q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None, v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None, static_v: Tensor | None = None,
    average_attn_weights: bool = True, is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """`F.multi_head_attention_forward` written as ops that a probe can see; the same values.

    query: n b c, key and value: m b c (or without b) -> n b c, and the weights when asked.
    """
    batched = query.ndim == 3
    if not batched:
        query, key, value = query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1)
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    separate = (q_proj_weight, k_proj_weight, v_proj_weight)
    weights = separate if use_separate_proj_weight else _thirds(in_proj_weight)
    q, k, v = (
        F.linear(x, w, b)  # type: ignore[arg-type]
        for x, w, b in zip((query, key, value), weights, _thirds(in_proj_bias), strict=True)
    )
    if bias_k is not None and bias_v is not None:
        k = torch.cat([k, bias_k.expand(1, k.shape[1], -1)])
        v = torch.cat([v, bias_v.expand(1, v.shape[1], -1)])
    q = _split(q, num_heads)
    k = _split(k, num_heads) if static_k is None else _static(static_k, num_heads)
    v = _split(v, num_heads) if static_v is None else _static(static_v, num_heads)
    if add_zero_attn:
        k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
    mask = _mask(q, k, attn_mask, key_padding_mask, num_heads)
    out, attention = _attend(q, k, v, mask, dropout_p if training else 0.0, need_weights)
    out = out.permute(2, 0, 1, 3).flatten(2)
    out = F.linear(out, out_proj_weight, out_proj_bias)
    if attention is not None and average_attn_weights:
        attention = attention.mean(1)
    if not batched:
        out, attention = out.squeeze(1), None if attention is None else attention.squeeze(0)
    return out, attention


def _thirds(weight: Tensor | None) -> tuple[Tensor | None, ...]:
    return (None, None, None) if weight is None else weight.chunk(3)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float, weights: bool
) -> tuple[Tensor, Tensor | None]:
    if not weights:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout), None
    scores = (q * (1 / math.sqrt(q.shape[-1]))) @ k.transpose(-1, -2)
    attention = F.softmax(scores if mask is None else scores + mask, dim=-1)
    attention = F.dropout(attention, dropout) if dropout else attention
    return attention @ v, attention


def _split(x: Tensor, heads: int) -> Tensor:
    """n b (h d) -> b h n d"""
    return torch.unflatten(x, -1, (heads, -1)).permute(1, 2, 0, 3)


def _static(x: Tensor, heads: int) -> Tensor:
    """(b h) n d -> b h n d"""
    return torch.unflatten(x, 0, (-1, heads))


def _mask(
    q: Tensor, k: Tensor, mask: Tensor | None, padding: Tensor | None, heads: int
) -> Tensor | None:
    """One additive mask; positions that a bias or a zero key has added are never masked."""
    if mask is not None:
        mask = _additive(mask, q)
        mask = torch.unflatten(mask, 0, (-1, heads)) if mask.ndim == 3 else mask[None, None]
        mask = F.pad(mask, (0, k.shape[2] - mask.shape[-1]))
    if padding is not None:
        closed = _additive(padding, q)[:, None, None, :]
        closed = F.pad(closed, (0, k.shape[2] - closed.shape[-1]))
        mask = closed if mask is None else mask + closed
    return mask


def _additive(mask: Tensor, q: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(q.dtype)
    return torch.zeros_like(mask, dtype=q.dtype).masked_fill(mask, float("-inf"))
