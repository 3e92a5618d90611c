"""Fused attention with its map held: what the values receive, without an n x n map in memory."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor

from ...kernels.kernel import Face
from ..ops import rows_of_map, wide

_ROWS = 512


def held_values(q: Tensor, k: Tensor, v: Tensor, g: Tensor, options: dict[str, Any]) -> Tensor:
    """g_v = A' g with A = softmax(scale q k' + mask), in blocks of query rows.

    q: b h n d, k v: b h' m d with h' dividing h -> the gradient of v, its shape.
    """
    times = q.shape[-3] // k.shape[-3] if q.ndim > 3 else 1
    keys = k.repeat_interleave(times, -3) if times > 1 else k
    blocks = (slice(start, start + _ROWS) for start in range(0, q.shape[-2], _ROWS))
    parts = (
        rows_of_map(q, keys, options, rows).transpose(-1, -2) @ wide(g[..., rows, :])
        for rows in blocks
    )
    out = reduce(Tensor.add_, parts)
    if times > 1:
        out = out.unflatten(-3, (-1, times)).sum(-3)
    return out.to(v.dtype)


def shared_relevance(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, options: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor]:
    """AttnLRP: the plain gradients of q, k and v, a quarter, a quarter and a half of them."""
    kept = {n: x for n, x in options.items() if n not in ("query", "key", "value", "dropout_p")}
    with torch.enable_grad():
        q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, **kept)
        gq, gk, gv = torch.autograd.grad(out, (q, k, v), g)
    return gq / 4, gk / 4, gv / 2


def stepwise_relevance(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, attention: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Both products halved between their operands, R unchanged through the softmax.

    attention  the map `b h n m`
    """
    times = q.shape[-3] // k.shape[-3] if q.ndim > 3 else 1
    keys, values = (x.repeat_interleave(times, -3) if times > 1 else x for x in (k, v))
    arrived = attention * (wide(g) @ wide(values).transpose(-1, -2)) / 2
    scores = wide(q) @ wide(keys).transpose(-1, -2)
    back = torch.where(scores == 0, 0.0, arrived / (scores + 1e-9)) / 2
    gq, gk = back @ wide(keys), back.transpose(-1, -2) @ wide(q)
    gv = attention.transpose(-1, -2) @ wide(g) / 2
    if times > 1:
        gk, gv = (x.unflatten(-3, (-1, times)).sum(-3) for x in (gk, gv))
    return gq.to(q.dtype), gk.to(k.dtype), gv.to(v.dtype)


def content_map(face: Face, named: dict[str, Any]) -> Tensor:
    """The part of a kernel's map that q and k made: without what a gate mixes in by position."""
    gate = named.get("gate") if named.get("position") is not None else None
    if gate is None:
        return face.mixing(slice(None), **named)  # type: ignore[misc]
    own = face.mixing(slice(None), **{**named, "position": None, "gate": None})  # type: ignore[misc]
    return own * (1 - wide(gate)).reshape(-1, 1, 1)
