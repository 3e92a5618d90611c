"""Attention maps rebuilt from the arguments of a call, whole or some rows of them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .record import wide


def rows_of_map(q: Tensor, k: Tensor, options: dict[str, Any], rows: slice) -> Tensor:
    """Some rows of the attention map, in the precision that rules work in."""
    scale = options.get("scale") or 1 / math.sqrt(q.shape[-1])
    scores = (wide(q[..., rows, :]) * scale) @ wide(k).transpose(-1, -2)
    mask = options.get("attn_mask")
    if options.get("is_causal"):
        places = torch.arange(q.shape[-2], device=q.device)[rows]
        seen = torch.arange(k.shape[-2], device=q.device) <= places[:, None]
        return scores.masked_fill(~seen, -math.inf).softmax(-1)
    if mask is not None:
        part = mask[..., rows, :] if mask.shape[-2] != 1 else mask
        scores = (
            scores.masked_fill(~part, -math.inf)
            if part.dtype == torch.bool
            else scores + part.to(scores)
        )
        return scores.softmax(-1).nan_to_num(0.0)  # rows that the mask leaves nothing
    return scores.softmax(-1)


def some_rows(q: Tensor, k: Tensor, options: dict[str, Any], rows: slice) -> Tensor:
    """Some rows of a fused attention call's map, no more memory than they take."""
    times = q.shape[-3] // k.shape[-3] if q.ndim > 3 else 1
    keys = k.repeat_interleave(times, -3) if times > 1 else k
    return rows_of_map(q, keys, options, rows)


def whole_map(q: Tensor, k: Tensor, options: dict[str, Any]) -> Tensor:
    """The whole map of a fused attention call, for rules that need it."""
    times = q.shape[-3] // k.shape[-3] if q.ndim > 3 else 1
    keys = k.repeat_interleave(times, -3) if times > 1 else k
    return rows_of_map(q, keys, options, slice(0, q.shape[-2]))
