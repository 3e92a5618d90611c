"""Attention as the probe sees it: q, k, v, heads and the map, whichever way a model computes it.

`scaled_dot_product_attention` stays fused: its map is the same call with identity columns for
v, computed when read. `F.multi_head_attention_forward` is re-expressed from ops, so that its
parts are sites. A written-out softmax(q k') v is recognised by its three ops.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .eye import SPECIAL, Eye
from .ops import Op
from .site import Site
from .trace import Value

HEADS = "b h n d"
MAP = "b h q k"
_SDPA = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
_MHA = inspect.signature(F.multi_head_attention_forward)
_BLOCK = 512


def mixing(q: Tensor, k: Tensor, options: dict[str, Any], rows: slice = slice(None)) -> Tensor:
    """The map `b h q k` of a fused attention call: the call itself on columns of the identity.

    Exact for masks, causal order, scale and grouped heads alike; k x 512 columns at a time.
    """
    n = k.shape[-2]
    blocks = []
    for start in range(0, n, _BLOCK):
        columns = torch.eye(n, dtype=k.dtype, device=k.device)[:, start : start + _BLOCK]
        v = columns.expand(*k.shape[:-1], columns.shape[1])
        blocks.append(F.scaled_dot_product_attention(q, k, v, **options))
    return torch.cat(blocks, -1)


def _fused(eye: Eye, op: Op, func: Any, args: Any, kwargs: Any) -> Any:
    recording = eye.recording
    frame = recording.frames[-1]
    if not frame.heads:
        return eye.call(op, func, args, kwargs)
    call = dict(zip(_SDPA, args, strict=False)) | kwargs
    number = recording.count(frame.path, "heads")
    axes = HEADS if call["query"].ndim == 4 else ""
    for name, port in (("query", "q"), ("key", "k"), ("value", "v")):
        call[name] = recording.visit(frame.path, port, number, call[name], axes)
    out = _map(eye, call, number)
    if out is None:
        out = eye.call(op, func, (), call)
    return recording.visit(frame.path, "heads", number, out, axes)


def _map(eye: Eye, call: dict[str, Any], number: int) -> Tensor | None:
    """Offer the map as a lazy site; when somebody edits it, compute the heads from the edit."""
    recording, path = eye.recording, eye.recording.frames[-1].path
    wish = recording.wishes.at(path, "map", number)
    if wish is None:
        return None
    q, k, v = call["query"], call["key"], call["value"]
    options = {n: x for n, x in call.items() if n not in ("query", "key", "value", "dropout_p")}
    if wish.edits:
        before = {t.grad_fn for t in (q, k, v) if t.grad_fn is not None}
        attention = mixing(q, k, options)
        recording.tape.claim([attention], before, f"the map of {recording.place}")
        attention = recording.visit(path, "map", number, attention, MAP)
        out = attention @ _grouped(v, q)
        recording.tape.claim([out], before, f"the heads of {recording.place}")
        return out
    parts = (
        Value(Site(path, "q", number), q.detach(), None),
        Value(Site(path, "k", number), k.detach(), None),
    )
    recording.guard(parts)
    recording.lazy(
        Site(path, "map", number, None, MAP),
        lambda: mixing(parts[0].act, parts[1].act, options),
        _map_gradient(recording.trace.values_by_site, path, number, q),
    )
    return None


def _map_gradient(
    values: dict[Site, Value], path: str, number: int, q: Tensor
) -> Callable[[], Tensor | None]:
    """d score / d map = dO V', which no fused kernel ever forms."""

    def read() -> Tensor | None:
        heads, v = values.get(Site(path, "heads", number)), values.get(Site(path, "v", number))
        if heads is None or v is None or heads.grad is None:
            return None
        return heads.grad @ _grouped(v.act, q).transpose(-1, -2)

    return read


def _grouped(v: Tensor, q: Tensor) -> Tensor:
    """Values repeated where several query heads share one key and value head."""
    times = q.shape[1] // v.shape[1] if q.ndim == 4 else 1
    return v.repeat_interleave(times, 1) if times > 1 else v


def _softmax(eye: Eye, op: Op, func: Any, args: Any, kwargs: Any) -> Any:
    frame = eye.recording.frames[-1]
    if not frame.heads or frame.product is None:
        return eye.call(op, func, args, kwargs)
    recording, (q, k) = eye.recording, frame.product
    out = eye.call(op, func, args, kwargs)
    if not isinstance(out, Tensor) or out.ndim != 4:
        return out
    number = recording.count(frame.path, "heads")
    recording.visit(frame.path, "q", number, q, HEADS)
    recording.visit(frame.path, "k", number, k.transpose(-1, -2), HEADS)
    frame.softmax = recording.visit(frame.path, "map", number, out, MAP)
    return frame.softmax


def _matmul(eye: Eye, op: Op, func: Any, args: Any, kwargs: Any) -> Any:
    frame = eye.recording.frames[-1]
    if not frame.heads or len(args) != 2:
        return eye.call(op, func, args, kwargs)
    left, right = args
    if frame.softmax is None or left.shape != frame.softmax.shape:
        frame.product = (left, right)
        return eye.call(op, func, args, kwargs)
    recording, number = eye.recording, eye.recording.calls[frame.path, "heads"] - 1
    frame.softmax = frame.product = None
    right = recording.visit(frame.path, "v", number, right, HEADS)
    out = eye.call(op, func, (left, right), kwargs)
    return recording.visit(frame.path, "heads", number, out, HEADS)


def _multi_head(eye: Eye, op: Op, func: Any, args: Any, kwargs: Any) -> Any:
    call = _MHA.bind(*args, **kwargs)
    call.apply_defaults()
    with eye:
        return multi_head_attention(**call.arguments)


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
    if use_separate_proj_weight:
        weights = (q_proj_weight, k_proj_weight, v_proj_weight)
    else:
        weights = in_proj_weight.chunk(3)  # type: ignore[union-attr]
    biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    q, k, v = (
        F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)
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
    return x.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)


def _static(x: Tensor, heads: int) -> Tensor:
    """(b h) n d -> b h n d"""
    return x.unflatten(0, (-1, heads))


def _mask(
    q: Tensor, k: Tensor, mask: Tensor | None, padding: Tensor | None, heads: int
) -> Tensor | None:
    """One additive mask; positions that a bias or a zero key has added are never masked."""
    if mask is not None:
        mask = _additive(mask, q)
        mask = mask.unflatten(0, (-1, heads)) if mask.ndim == 3 else mask[None, None]
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


SPECIAL.update(
    scaled_dot_product_attention=_fused,
    softmax=_softmax,
    matmul=_matmul,
    multi_head_attention_forward=_multi_head,
)
