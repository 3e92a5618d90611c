"""Attention in all its forms as one op: softmax or sigmoid, biased, gated, causal, windowed."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernel import fast_module, kernel
from ..map_statistics import reduced
from ..precision import wide
from ..softmax import fused, normal
from ..windows import Window
from .checks import check
from .row_statistics import measured, plain

Score = Literal["softmax", "sigmoid"]


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
    scale: float | None = None,
    causal: bool = False,
    window: Window | None = None,
    score: Score = "softmax",
) -> Tensor:
    """Some rows of the map, `b h r m`, in float32 or float64; zeros where a query sees nothing."""
    places = range(q.shape[-2])[span]
    part, keys = wide(q[..., span, :]), wide(grouped(k, q))
    scores = (part @ keys.mT).mul_(q.shape[-1] ** -0.5 if scale is None else scale)
    if window is not None:
        return _window_map(scores, places, window, bias, rows, columns, span, score)
    if bias is not None:
        scores = scores + wide(bias[..., span, :] if bias.shape[-2] > 1 else bias)
    hidden = _hidden(places, q, k, causal, keep)
    if hidden is not None:
        scores = scores.masked_fill(hidden, -math.inf)
    hides = bias is not None or hidden is not None
    attention = _normal(scores, score) if hides or score == "sigmoid" else scores.softmax(-1)
    if position is None or gate is None:
        return attention
    other, g = wide(position[..., span, :]).softmax(-1), wide(gate).reshape(-1, 1, 1)
    return (1 - g) * attention + g * other


@kernel(
    "attention",
    share=("v",),
    hold=("q", "k", "bias", "position", "gate", "rows", "columns"),
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
    scale: float | None = None,
    causal: bool = False,
    window: Window | None = None,
    score: Score = "softmax",
) -> Tensor:
    """softmax(scale q k' + bias) v, or sigmoid( ) v.

    q: b h n d, k: b g m d, v: b g m e -> b h n e; h is a multiple of g, heads share keys in runs.
    scale     d^-0.5 unless given
    bias      added to the scores: broadcasts to `b h n m`; with a window `h q k`, one for all
              windows, or `b h w q k`
    position  scores `h n m` and gate `h` in 0..1: the map is (1 - gate) softmax(scores) + gate
              softmax(position), ConViT's gated positional attention
    rows      `b h n r` and columns `b h n c`: relative logits of a halo window, added by the
              row and the column that a key has in it
    keep      `b m`, False hides a key
    causal    query i sees keys up to i + m - n
    window    who sees whom; see Window
    Raises KernelError for arguments that do not fit. A query that sees nothing gives zeros.
    """
    check(q, k, v, bias, position, gate, rows, columns, keep, scale, causal, window, score)
    if window is not None:
        return _windowed(q, k, v, bias, rows, columns, scale, window, score)
    if position is not None and gate is not None:
        return _gated(q, k, v, bias, position, gate, keep, scale, causal)
    if score == "sigmoid":
        every = slice(None)
        found = attention_map(
            every, q, k, v, bias=bias, keep=keep, scale=scale, causal=causal, score=score
        )
        return (found @ wide(grouped(v, q))).to(v.dtype)
    return _softmax(q, k, v, bias, keep, scale, causal)


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
    named: dict[str, Any] = {"grid": grid, "radius": radius, "pool": pool}
    call = attention.signature.bind(q, k, v, **options)
    call.apply_defaults()
    if attention.why(**call.arguments).path == "triton":
        fast = fast_module(attention)
        if fast.can_measure(**call.arguments, **named) is None:
            return fast.statistics(**call.arguments, **named)
    if plain(call.arguments):
        return measured(q, k, v, call.arguments["scale"], **named)
    out = attention(**call.arguments)
    window = options.get("window")
    with torch.no_grad():
        found = reduced(
            lambda rows: attention_map(rows, **call.arguments),
            q.shape[-2],
            stride=1 if window is None else window.stride,
            **named,
        )
    return out, found


def grouped(x: Tensor, q: Tensor) -> Tensor:
    """Keys or values repeated for the query heads that share them; three axes have no heads."""
    times = q.shape[-3] // x.shape[-3] if q.ndim > 3 else 1
    return x.repeat_interleave(times, -3) if times > 1 else x


def _normal(scores: Tensor, score: Score) -> Tensor:
    return scores.sigmoid() if score == "sigmoid" else normal(scores)


def _hidden(
    places: range, q: Tensor, k: Tensor, causal: bool, keep: Tensor | None
) -> Tensor | None:
    """Where a query must not look, `b 1 r m` or `r m`."""
    hidden = None if keep is None else ~keep[:, None, None, :]
    if causal:
        last = torch.as_tensor(places, device=q.device) + k.shape[-2] - q.shape[-2]
        future = torch.arange(k.shape[-2], device=q.device) > last[:, None]
        hidden = future if hidden is None else hidden | future
    return hidden


def _softmax(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    keep: Tensor | None,
    scale: float | None,
    causal: bool,
) -> Tensor:
    n, m = q.shape[-2], k.shape[-2]
    k, v = grouped(k, q), grouped(v, q)
    if bias is None and keep is None and (n == m or not causal):
        return fused(q, k, v, scale=scale, causal=causal)
    mask = torch.zeros((), dtype=q.dtype, device=q.device) if bias is None else bias.to(q.dtype)
    mask = mask.reshape((1,) * (4 - mask.ndim) + tuple(mask.shape))
    hidden = _hidden(range(n), q, k, causal, keep)
    if hidden is None:
        return fused(q, k, v, mask, scale=scale)
    if keep is None and n <= m:
        return fused(q, k, v, mask.masked_fill(hidden, -math.inf), scale=scale)
    blind = hidden.all(-1, keepdim=True)
    mask = mask.masked_fill(hidden & ~blind, -math.inf)
    return fused(q, k, v, mask, scale=scale).masked_fill(blind, 0.0)


def _gated(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    position: Tensor,
    gate: Tensor,
    keep: Tensor | None,
    scale: float | None,
    causal: bool,
) -> Tensor:
    content = _softmax(q, k, v, bias, keep, scale, causal)
    where = (wide(position).softmax(-1).to(v.dtype)) @ grouped(v, q)
    g = gate.reshape(-1, 1, 1).to(v.dtype)
    return (1 - g) * content + g * where


def _windowed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    rows: Tensor | None,
    columns: Tensor | None,
    scale: float | None,
    window: Window,
    score: Score,
) -> Tensor:
    """Windows as a batch: `(b w) h q d`."""
    queries, keys = (t.to(q.device) for t in (window.query_index(), window.key_index()))
    count = len(queries)
    q_w = _cut(q, queries)
    k_w, v_w = (_cut(grouped(x, q), keys, outside=window.halo > 0) for x in (k, v))
    own = [_window_bias(bias, len(q), count)] if bias is not None else []
    if rows is not None and columns is not None:
        r, c = _key_places(window, q.device)
        own += [_cut(rows, queries)[..., r], _cut(columns, queries)[..., c]]
    mask = sum(own) if own else None
    if score == "sigmoid":
        scores = wide(q_w) @ wide(k_w).mT * (q.shape[-1] ** -0.5 if scale is None else scale)
        scores = scores if mask is None else scores + mask
        out = (scores.sigmoid() @ wide(v_w)).to(v.dtype)
    else:
        mask = None if mask is None else mask.to(q.dtype)  # type: ignore[union-attr]
        out = fused(q_w, k_w, v_w, mask, scale=scale)
    b, h = q.shape[:2]
    out = out.unflatten(0, (b, count)).transpose(1, 2).reshape(b, h, -1, v.shape[-1])
    return out[:, :, queries.flatten().argsort()]


def _cut(x: Tensor, index: Tensor, *, outside: bool = False) -> Tensor:
    """Tokens by window, `b h n d` -> `(b w) h q d`; the token -1, outside the grid, is zeros."""
    if outside:
        x = F.pad(x, (0, 0, 0, 1))
    parts = x[:, :, index.flatten() % x.shape[2]].unflatten(2, tuple(index.shape))
    return parts.transpose(1, 2).flatten(0, 1)


def _window_bias(bias: Tensor, batch: int, count: int) -> Tensor:
    if bias.ndim == 5:
        return bias.expand(batch, -1, -1, -1, -1).transpose(1, 2).flatten(0, 1)
    return bias.reshape((1,) * (4 - bias.ndim) + tuple(bias.shape))


def _key_places(window: Window, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of each key in its window."""
    height, width = window.key_size
    numbers = torch.arange(height * width, device=device)
    return numbers // width, numbers % width


def _window_map(
    scores: Tensor,
    places: range,
    window: Window,
    bias: Tensor | None,
    rows: Tensor | None,
    columns: Tensor | None,
    span: slice,
    score: Score,
) -> Tensor:
    """Dense scores of some queries -> their map, zeros outside the window."""
    at, local = (t.to(scores.device)[list(places)] for t in window.place())
    seen = window.key_index().to(scores.device)[at]  # r k
    padded = F.pad(scores, (0, 1))  # what lies outside the grid scores 0
    index = (seen % padded.shape[-1]).expand(*scores.shape[:2], -1, -1)
    own = padded.gather(-1, index)
    if bias is not None:
        own = own + wide(bias[..., at, local, :] if bias.ndim == 5 else bias[..., local, :])
    if rows is not None and columns is not None:
        r, c = _key_places(window, scores.device)
        own = own + wide(rows[..., span, :])[..., r] + wide(columns[..., span, :])[..., c]
    return torch.zeros_like(padded).scatter_add(-1, index, _normal(own, score))[..., :-1]
