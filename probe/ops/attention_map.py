"""The map of a fused attention call, whole or some rows of it, from the call's arguments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...kernels.attention import attention


def rows_of_map(
    q: Tensor, k: Tensor, options: Mapping[str, Any], rows: slice = slice(None)
) -> Tensor:
    """Rows of softmax(scale q k' + mask), in float32 or float64 and no more memory than they take.

    q: b h n d, k: b g m d with h a multiple of g -> b h r m; zeros where the mask leaves a query
    nothing. Without b, or without b and h, the same.
    options  `attn_mask`, `is_causal` and `scale` of F.scaled_dot_product_attention
    """
    mixing = attention.face.mixing
    assert mixing is not None
    bias = _bias(q, k, options, rows)
    part = q[..., rows, :]
    return mixing(slice(None), q=part, k=k, v=k, bias=bias, scale=options.get("scale"))


def _bias(q: Tensor, k: Tensor, options: Mapping[str, Any], rows: slice) -> Tensor | None:
    """The mask of some rows as something to add to their scores; query i sees keys up to i."""
    mask = options.get("attn_mask")
    if options.get("is_causal"):
        last = torch.arange(q.shape[-2], device=q.device)[rows]
        mask = torch.arange(k.shape[-2], device=q.device) <= last[:, None]
    elif mask is not None and mask.shape[-2] != 1:
        mask = mask[..., rows, :]
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=torch.float32).masked_fill_(~mask, -math.inf)
