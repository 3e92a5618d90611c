"""Rows of attention's map, which is never whole unless somebody asks for all of them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..shared import by_rows, normal, wide
from ..windows import Window
from .arguments import AttentionArguments

BLOCK_NUMBERS = 1 << 22  # scores that are held at once


def rows_of_map(span: slice, x: AttentionArguments) -> Tensor:
    """Some rows of the map, `b h r m`, in float32 or float64; zeros where a query sees nothing."""
    share = shares_of_rows(span, x)
    if x.row_factor is None:
        return share
    by_query = x.row_factor.ndim > 0 and x.row_factor.shape[-1] > 1
    factor = x.row_factor[..., span] if by_query else x.row_factor
    return share * wide(factor)[..., None]


def shares_of_rows(span: slice, x: AttentionArguments, q: Tensor | None = None) -> Tensor:
    """The same without the factors of rows; q where those queries are at hand."""
    places = range(x.q.shape[-2])[span]
    s = scores(wide(x.q[..., span, :] if q is None else q), wide(grouped(x.k, x.q)), x.factor)
    if x.window is not None:
        return _window_rows(s, places, span, x, x.window)
    if x.bias is not None:
        by_query = x.bias.ndim > 1 and x.bias.shape[-2] > 1
        s = s + wide(x.bias[..., span, :] if by_query else x.bias)
    if x.slopes is not None:
        s = s - wide(x.slopes)[:, None, None] * ahead(places, x).abs().to(s.dtype)
    unseen = hidden(places, x)
    if unseen is not None:
        s = s.masked_fill(unseen, -math.inf)
    sees_all = x.score == "softmax" and x.bias is None and x.slopes is None and unseen is None
    content = s.softmax(-1) if sees_all else shares(s, x)
    if x.position is None or x.gate is None:
        return content
    placed, g = wide(x.position[..., span, :]).softmax(-1), wide(x.gate).reshape(-1, 1, 1)
    return (1 - g) * content + g * placed


def in_blocks(x: AttentionArguments) -> Tensor:
    """The map times the values without the factors of rows; a block of rows at a time is held."""
    n, each = x.q.shape[2], x.q.shape[0] * x.q.shape[1] * x.k.shape[2]
    names = "k", "v", "bias", "slopes"

    def run(start: int, q: Tensor, *rest: Tensor | None) -> Tensor:
        given: dict[str, Any] = dict(zip(names, rest, strict=True))
        part = replace(x, **given)
        share = shares_of_rows(slice(start, start + q.shape[2]), part, q)
        return (share @ wide(grouped(part.v, q))).to(part.v.dtype)

    rest = (getattr(x, name) for name in names)
    block = n if torch.compiler.is_compiling() else max(1, BLOCK_NUMBERS // max(1, each))
    return by_rows(run, x.q, *rest, block=block, numbered=True)


def by_row(out: Tensor, factor: Tensor) -> Tensor:
    """The result `b h n e`, each row times its factor."""
    return (wide(out) * wide(factor)[..., None]).to(out.dtype)


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
    if x.last is not None or x.left is not None:
        far = ahead(places, x)
        for outside in (
            None if x.last is None else far > x.last,
            None if x.left is None else far < -x.left,
        ):
            if outside is not None:
                unseen = outside if unseen is None else unseen | outside
    return unseen


def ahead(places: range, x: AttentionArguments) -> Tensor:
    """How far each key lies beyond the place of a query, `r m`; queries end where keys end."""
    n, m, device = x.q.shape[-2], x.k.shape[-2], x.q.device
    own = torch.as_tensor(places, device=device) + m - n
    return torch.arange(m, device=device) - own[:, None]


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
        sides = math.prod(window.query_size), math.prod(window.key_size)
        each = (len(window.query_index(s.device)),) if x.bias.ndim == 5 else ()
        bias = x.bias.expand(torch.broadcast_shapes(x.bias.shape, (*each, *sides)))
        bias = bias[..., at, local, :] if x.bias.ndim == 5 else bias[..., local, :]
        inside = inside + wide(bias)
    if x.rows is not None and x.columns is not None:
        r, c = key_places(window, s.device)
        inside = inside + wide(x.rows[..., span, :])[..., r] + wide(x.columns[..., span, :])[..., c]
    return torch.zeros_like(padded).scatter_add(-1, index, shares(inside, x))[..., :-1]
