"""Rows of attention's map, which is never whole unless somebody asks for all of them."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..shared import normal, wide
from ..windows import Window
from .arguments import AttentionArguments


def rows_of_map(span: slice, x: AttentionArguments) -> Tensor:
    """Some rows of the map, `b h r m`, in float32 or float64; zeros where a query sees nothing."""
    places = range(x.q.shape[-2])[span]
    s = scores(wide(x.q[..., span, :]), wide(grouped(x.k, x.q)), x.factor)
    if x.window is not None:
        return _window_rows(s, places, span, x, x.window)
    if x.bias is not None:
        s = s + wide(x.bias[..., span, :] if x.bias.shape[-2] > 1 else x.bias)
    unseen = hidden(places, x)
    if unseen is not None:
        s = s.masked_fill(unseen, -math.inf)
    sees_all = x.score == "softmax" and x.bias is None and unseen is None
    content = s.softmax(-1) if sees_all else shares(s, x)
    if x.position is None or x.gate is None:
        return content
    placed, g = wide(x.position[..., span, :]).softmax(-1), wide(x.gate).reshape(-1, 1, 1)
    return (1 - g) * content + g * placed


def scores(q: Tensor, k: Tensor, factor: float, out: Tensor | None = None) -> Tensor:
    """factor q k' of some queries; into memory that is there, if any."""
    if out is None:
        return (q @ k.mT).mul_(factor)
    return torch.matmul(q, k.mT, out=out).mul_(factor)


def shares(s: Tensor, x: AttentionArguments) -> Tensor:
    """The map from its scores; a row of minus infinities gives zeros."""
    return s.sigmoid() if x.score == "sigmoid" else normal(s)


def grouped(x: Tensor, q: Tensor) -> Tensor:
    """Keys or values repeated for the query heads that share them; three axes have no heads."""
    times = q.shape[-3] // x.shape[-3] if q.ndim > 3 else 1
    return x.repeat_interleave(times, -3) if times > 1 else x


def hidden(places: range, x: AttentionArguments) -> Tensor | None:
    """Where queries must not look, broadcasts to `b h r m`; None where nothing is hidden."""
    unseen = None if x.keep is None else ~x.keep[:, None, None, :]
    if x.mask is not None:
        span = slice(places.start, places.stop, places.step)
        by_query = x.mask.ndim > 1 and x.mask.shape[-2] > 1
        masked = ~(x.mask[..., span, :] if by_query else x.mask)
        unseen = masked if unseen is None else unseen | masked
    if x.causal:
        n, m, device = x.q.shape[-2], x.k.shape[-2], x.q.device
        last = torch.as_tensor(places, device=device) + m - n
        future = torch.arange(m, device=device) > last[:, None]
        unseen = future if unseen is None else unseen | future
    return unseen


def key_places(window: Window, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of each key in its window."""
    height, width = window.key_size
    numbers = torch.arange(height * width, device=device)
    return numbers // width, numbers % width


def _window_rows(
    s: Tensor, places: range, span: slice, x: AttentionArguments, window: Window
) -> Tensor:
    """Dense scores of some queries -> their map, zeros outside the window."""
    at, local = (t[list(places)] for t in window.place(s.device))
    seen = window.key_index(s.device)[at]  # r k
    padded = F.pad(s, (0, 1))  # what lies outside the grid scores 0
    index = (seen % padded.shape[-1]).expand(*s.shape[:2], -1, -1)
    inside = padded.gather(-1, index)
    if x.bias is not None:
        bias = x.bias[..., at, local, :] if x.bias.ndim == 5 else x.bias[..., local, :]
        inside = inside + wide(bias)
    if x.rows is not None and x.columns is not None:
        r, c = key_places(window, s.device)
        inside = inside + wide(x.rows[..., span, :])[..., r] + wide(x.columns[..., span, :])[..., c]
    return torch.zeros_like(padded).scatter_add(-1, index, shares(inside, x))[..., :-1]
