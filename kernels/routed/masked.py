"""Routed attention by a mask of blocks: the formula over all pairs of tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from ..shared import fused, normal, wide


def masked_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float | None, block: int, causal: bool
) -> Tensor:
    """softmax(scale q k') v where the block of the query sees that of the key; heads fit.

    A query that sees nothing attends anywhere, and is then set to zero: no row has only -inf.
    """
    seen = seen_tokens(slice(None), mask, q, k, block, causal)
    blind = ~seen.any(-1, keepdim=True)
    hidden = ~(seen | blind)
    bias = torch.zeros((), dtype=q.dtype, device=q.device).masked_fill(hidden, -torch.inf)
    return fused(q, k, v, bias, scale=scale).masked_fill(blind, 0.0)


def masked_map(
    rows: slice, q: Tensor, k: Tensor, mask: Tensor, scale: float | None, block: int, causal: bool
) -> Tensor:
    """Some rows of its map, `b h r m`."""
    scores = wide(q[..., rows, :]) @ wide(k).mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    return normal(scores.masked_fill(~seen_tokens(rows, mask, q, k, block, causal), -torch.inf))


def seen_tokens(
    rows: slice, mask: Tensor, q: Tensor, k: Tensor, block: int, causal: bool
) -> Tensor:
    """Which keys some queries see, `b h r m` or `b 1 r m`."""
    queries = torch.arange(q.shape[2], device=q.device)[rows]
    keys = torch.arange(k.shape[2], device=q.device)
    by_head = mask if mask.ndim == 4 else mask[:, None]
    seen = by_head[:, :, queries // block][..., keys // block]
    return seen & (keys <= queries[:, None]) if causal else seen
