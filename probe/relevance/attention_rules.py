"""Fused attention with its map held: what the values receive, without an n x n map in memory."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...kernels.attention import grouped
from ...kernels.kernel import Face, Mixing
from ...kernels.shared import wide
from ..ops import rows_of_map

_ROWS = 512


def held_values(q: Tensor, k: Tensor, v: Tensor, g: Tensor, options: Mapping[str, Any]) -> Tensor:
    """g_v = A' g with A = softmax(scale q k' + mask), in blocks of query rows.

    q: b h n d, k v: b h' m d with h' dividing h -> the gradient of v, its shape.
    """
    keys = grouped(k, q)
    blocks = (slice(start, start + _ROWS) for start in range(0, q.shape[-2], _ROWS))
    parts = (
        rows_of_map(q, keys, options, rows).transpose(-1, -2) @ wide(g[..., rows, :])
        for rows in blocks
    )
    return _shared(reduce(Tensor.add_, parts), v).to(v.dtype)


def shared_relevance(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, options: Mapping[str, Any]
) -> tuple[Tensor, Tensor, Tensor]:
    """AttnLRP: the plain gradients of q, k and v, a quarter, a quarter and a half of them."""
    rest = {n: x for n, x in options.items() if n not in ("query", "key", "value", "dropout_p")}
    with torch.enable_grad():
        q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, **rest)
        gq, gk, gv = torch.autograd.grad(out, (q, k, v), g)
    return gq / 4, gk / 4, gv / 2


def stepwise_relevance(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, attention: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Both products halved between their operands, R unchanged through the softmax.

    attention  the map `b h n m`
    """
    keys, values = wide(grouped(k, q)), wide(grouped(v, q))
    arrived = attention * (wide(g) @ values.transpose(-1, -2)) / 2
    scores = wide(q) @ keys.transpose(-1, -2)
    back = torch.where(scores == 0, 0.0, arrived / (scores + 1e-9)) / 2
    gq, gk = back @ keys, back.transpose(-1, -2) @ wide(q)
    gv = attention.transpose(-1, -2) @ wide(g) / 2
    return gq.to(q.dtype), _shared(gk, k).to(k.dtype), _shared(gv, v).to(v.dtype)


def content_map(face: Face, named: Mapping[str, Any]) -> Tensor:
    """The part of a kernel's map that q and k made: its softmax alone.

    What a gate mixes in by position, or a table adds behind the softmax, is left out.
    """
    mixing = _mixing(face)
    named = {**named, "table": None} if named.get("table") is not None else named
    gate = named.get("gate") if named.get("position") is not None else None
    if gate is None:
        return mixing(slice(None), **named)
    content = mixing(slice(None), **{**named, "position": None, "gate": None})
    return content * (1 - wide(gate)).reshape(-1, 1, 1)


def table_values(face: Face, named: Mapping[str, Any], g: Tensor) -> Tensor | float:
    """What values receive through a table behind the softmax, which is held; 0 without one."""
    if named.get("table") is None:
        return 0.0
    mixing = _mixing(face)
    table = mixing(slice(None), **named) - mixing(slice(None), **{**named, "table": None})
    return (table.transpose(-1, -2) @ wide(g)).to(named["v"].dtype)


def _mixing(face: Face) -> Mixing:
    if face.mixing is None:
        raise TypeError(f"kernel {face.name!r} has no map, so that stepwise has nothing to share")
    return face.mixing


def _shared(x: Tensor, like: Tensor) -> Tensor:
    """What the query heads hand to the keys or values that they share, summed."""
    if x.ndim < 4 or x.shape[-3] == like.shape[-3]:
        return x
    return x.reshape(*like.shape[:-2], -1, *x.shape[-2:]).sum(-3)
