"""Attention in all its forms as one op: softmax or sigmoid, biased, gated, causal, windowed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..kernel import fast_module, kernel
from ..shared import fused, reduced, wide
from ..windows import Window
from .arguments import AttentionArguments, Score
from .checks import check
from .map_rows import by_row, grouped, hidden, in_blocks, rows_of_map
from .row_statistics import measured, plain
from .windowed import windowed


def attention_map(
    span: slice,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    position: Tensor | None = None,
    gate: Tensor | None = None,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
    keep: Tensor | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
    causal: bool = False,
    window: Window | None = None,
    score: Score = "softmax",
    slopes: Tensor | None = None,
    row_factor: Tensor | None = None,
    left: int | None = None,
    right: int | None = None,
) -> Tensor:
    """Some rows of the map, `b h r m`, in float32 or float64; zeros where a query sees nothing."""
    kind = rows, columns, keep, mask, scale, causal, window, score, slopes, row_factor, left, right
    return rows_of_map(span, AttentionArguments(q, k, v, bias, position, gate, *kind))


@kernel(
    "attention",
    share=("v",),
    hold=("q", "k", "bias", "position", "gate", "rows", "columns", "slopes", "row_factor"),
    mixing=attention_map,
    fast="triton_op",
)
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    bias: Tensor | None = None,
    position: Tensor | None = None,
    gate: Tensor | None = None,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
    keep: Tensor | None = None,
    mask: Tensor | None = None,
    scale: float | None = None,
    causal: bool = False,
    window: Window | None = None,
    score: Score = "softmax",
    slopes: Tensor | None = None,
    row_factor: Tensor | None = None,
    left: int | None = None,
    right: int | None = None,
) -> Tensor:
    """softmax(scale q k' + bias) v, or sigmoid( ) v.

    q: b h n d, k: b g m d, v: b f m e -> b h n e; h is a multiple of g and of f: heads share keys
    in runs, and values in runs of their own.
    scale     d^-0.5 unless given
    bias      added to the scores: broadcasts to `b h n m`, so that one number serves all;
              with a window `h q k`, one for all windows, or `b h w q k`
    position  scores `h n m` and gate `h` in 0..1: the map is (1 - gate) softmax(scores) + gate
              softmax(position), ConViT's gated positional attention
    rows      `b h n r` and columns `b h n c`: relative logits of a halo window, added by the
              row and the column that a key has in it
    keep      `b m`, False hides a key
    mask      False hides a key from a query: broadcasts to `b h n m`
    causal    query i sees keys up to i + m - n
    window    who sees whom; see Window
    left      query i sees keys from i + m - n - left
    right     and keys up to i + m - n + right; causal is right = 0
    slopes    `h`, ALiBi: - slope |i + m - n - j| is added to the score of key j
    row_factor  broadcasts to `b h n`: what each row of the map is multiplied by
    Raises KernelError for arguments that do not fit. A query that sees nothing gives zeros.
    """
    kind = rows, columns, keep, mask, scale, causal, window, score, slopes, row_factor, left, right
    x = AttentionArguments(q, k, v, bias, position, gate, *kind)
    check(x)
    out = _mixed(x)
    return out if x.row_factor is None else by_row(out, x.row_factor)


def _mixed(x: AttentionArguments) -> Tensor:
    """The result without the factors of rows."""
    if x.window is not None:
        return windowed(x, x.window)
    if x.position is not None and x.gate is not None:
        return _gated(x, x.position, x.gate)
    if x.score == "sigmoid":
        return in_blocks(x)
    return _softmax(x)


def attention_statistics(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    grid: tuple[int, int] | None = None,
    radius: float | None = None,
    pool: int | None = None,
    **options: Any,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The result of `attention` and statistics of its map, which is never formed.

    entropy   `b h n`, in nats
    distance  `b h n`, the mean Euclidean distance of a query to its keys on `grid`, in tokens
    mass      `b h n`, what lies within `radius` of the query
    peak      `b h n/pool m/pool`, the largest entry of each block
    """
    call = attention.signature.bind(q, k, v, **options)
    x = AttentionArguments(*call.args, **call.kwargs)
    if attention.why(*call.args, **call.kwargs).path == "triton":
        fast = fast_module(attention)
        if fast.can_measure(x, grid, radius, pool) is None:
            out, statistics = fast.statistics(x, grid, radius, pool)
            moving = torch.is_grad_enabled() and any(t.requires_grad for t in x.tensors)
            return attention(*call.args, **call.kwargs) if moving else out, statistics
    if plain(x):
        return measured(x, grid=grid, radius=radius, pool=pool)
    out = attention(*call.args, **call.kwargs)
    with torch.no_grad():
        return out, reduced(
            lambda span: rows_of_map(span, x),
            q.shape[-2],
            grid=grid,
            radius=radius,
            pool=pool,
            stride=x.stride,
        )


def _softmax(x: AttentionArguments) -> Tensor:
    if x.slopes is not None:
        return in_blocks(x)
    q, k, v, n, m = x.q, grouped(x.k, x.q), grouped(x.v, x.q), x.q.shape[-2], x.k.shape[-2]
    unmasked = x.keep is None and x.mask is None and x.left is None and x.right is None
    if x.bias is None and unmasked and (n == m or not x.causal):
        return fused(q, k, v, scale=x.scale, causal=x.causal)
    bias = torch.zeros((), dtype=q.dtype, device=q.device) if x.bias is None else x.bias.to(q.dtype)
    bias = bias.reshape((1,) * (4 - bias.ndim) + tuple(bias.shape))
    unseen = hidden(range(n), x)
    if unseen is None:
        return fused(q, k, v, bias, scale=x.scale)
    if x.keep is None and x.mask is None and n <= m:  # each sees a key at least
        return fused(q, k, v, bias.masked_fill(unseen, -math.inf), scale=x.scale)
    behind, blind = _behind(unseen, q.dtype)
    bias = behind if x.bias is None else bias + behind
    return fused(q, k, v, bias, scale=x.scale).masked_fill(blind, 0.0)


def _behind(unseen: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """-inf to add where a query must not look and 0 elsewhere, also for queries that see nothing;
    and which those are.

    In bytes and by 1 - 1/x: a CPU reduces booleans 50 times, and fills by them 3 times slower.
    """
    byte = unseen.reshape((1,) * (4 - unseen.ndim) + tuple(unseen.shape)).view(torch.uint8)
    blind = byte.amin(-1, keepdim=True)
    seen = ((byte ^ 1) | blind).to(dtype)
    return seen.reciprocal_().neg_().add_(1), blind.bool()


def _gated(x: AttentionArguments, position: Tensor, gate: Tensor) -> Tensor:
    content = _softmax(replace(x, position=None, gate=None))
    placed = wide(position).softmax(-1).to(x.v.dtype) @ grouped(x.v, x.q)
    g = gate.reshape(-1, 1, 1).to(x.v.dtype)
    return (1 - g) * content + g * placed
