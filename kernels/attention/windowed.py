"""Attention in windows as a batch of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..shared import fused, wide
from ..windows import Window
from .arguments import AttentionArguments
from .map_rows import grouped, key_places, scores


def windowed(x: AttentionArguments, window: Window) -> Tensor:
    """softmax or sigmoid of the scores in each window times its values, `b h n e`."""
    q, v = x.q, x.v
    queries, keys = window.query_index(q.device), window.key_index(q.device)
    count = len(queries)
    q_w = _cut(q, queries)
    k_w, v_w = (_cut(grouped(t, q), keys, outside=window.halo > 0) for t in (x.k, v))
    bias = _bias(x, window, queries)
    if x.score == "sigmoid":
        s = scores(wide(q_w), wide(k_w), x.factor)
        s = s if bias is None else s + bias
        out = (s.sigmoid() @ wide(v_w)).to(v.dtype)
    else:
        out = fused(q_w, k_w, v_w, None if bias is None else bias.to(q.dtype), scale=x.scale)
    b, h = q.shape[:2]
    out = torch.unflatten(out, 0, (b, count)).transpose(1, 2).reshape(b, h, -1, v.shape[-1])
    return out[:, :, queries.flatten().argsort()]


def _cut(x: Tensor, index: Tensor, *, outside: bool = False) -> Tensor:
    """Tokens by window, `b h n d` -> `(b w) h q d`; the token -1, outside the grid, is zeros."""
    if outside:
        x = F.pad(x, (0, 0, 0, 1))
    parts = torch.unflatten(x[:, :, index.flatten() % x.shape[2]], 2, index.shape)
    return parts.transpose(1, 2).flatten(0, 1)


def _bias(x: AttentionArguments, window: Window, queries: Tensor) -> Tensor | None:
    """What is added to the scores of windows, the bias and relative logits; broadcasts to them."""
    bias = x.bias
    if bias is not None and bias.ndim == 5:
        bias = bias.expand(len(x.q), -1, -1, -1, -1).transpose(1, 2).flatten(0, 1)
    elif bias is not None:
        bias = bias.reshape((1,) * (4 - bias.ndim) + tuple(bias.shape))
    if x.rows is None or x.columns is None:
        return bias
    r, c = key_places(window, x.q.device)
    by_row, by_column = _cut(x.rows, queries)[..., r], _cut(x.columns, queries)[..., c]
    return by_row + by_column if bias is None else bias + by_row + by_column
