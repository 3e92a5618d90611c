"""Aggregated attention (TransNeXt, arXiv 2311.17132): neighbours and pooled keys in one softmax."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..kernel import fast_module, kernel
from ..outlook import window_tokens
from ..shared import wide
from .arguments import AggregatedArguments, Pair, check


def aggregated_map(
    rows: slice,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grid: Pair,
    pool: Pair,
    kernel_size: int = 3,
    embedding: Tensor | None = None,
    scale: Tensor | None = None,
    local_bias: Tensor | None = None,
    pool_bias: Tensor | None = None,
    table: Tensor | None = None,
) -> Tensor:
    """Some rows of the map, `b h r (n + p)`: softmax and table at the tokens, then pooled keys."""
    options = kernel_size, embedding, scale, local_bias, pool_bias, table
    x = AggregatedArguments(q, k, v, grid, pool, *options)
    n, window = x.tokens, x.window
    cells = _window_tokens(x)[rows]
    queries, (keys, pooled) = _scaled(x, rows), _unit(x.k).split([n, x.pooled], 2)
    local = (queries[..., None, :] @ keys[:, :, cells.clamp(min=0)].mT)[..., 0, :]
    scores = [_window_scores(x, local, cells), _pool_scores(x, queries, pooled, rows)]
    share, far = torch.cat(scores, -1).softmax(-1).split([window, x.pooled], -1)
    if x.table is not None:
        share = share + wide(x.table[:, :, rows])
    whole = share.new_zeros(*share.shape[:3], n + 1)  # the token -1 is the last
    whole = whole.scatter(3, (cells % (n + 1)).expand(share.shape), share)
    return torch.cat([whole[..., :-1], far], -1)


@kernel(
    "aggregated_attention",
    share=("v",),
    hold=("q", "k", "embedding", "scale", "local_bias", "pool_bias", "table"),
    mixing=aggregated_map,
    pooled=("grid", "pool"),
    fast="triton_op",
)
def aggregated_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    grid: Pair,
    pool: Pair,
    kernel_size: int = 3,
    embedding: Tensor | None = None,
    scale: Tensor | None = None,
    local_bias: Tensor | None = None,
    pool_bias: Tensor | None = None,
    table: Tensor | None = None,
) -> Tensor:
    """(softmax([scores of the window, scores of pooled keys]) + [table, 0]) v.

    A score of query i is scale_i (q^_i + embedding) . k^_j + bias, where q^ and k^ have length 1.
    q: b h n d, tokens of `grid` in raster order; k: b h (n + p) d and v: b h (n + p) e, the same
    tokens and then the p pooled ones, rows and columns of which are `pool` -> b h n e
    kernel_size  side of the window around a query; its cells outside the grid are not seen
    embedding    `h d`, none unless given; scale: `h n`, 1 unless given
    local_bias   `h w`, for the w cells of a window in raster order; pool_bias: `h n p`
    table        `b h n w`: weights of the window's cells that are added behind the softmax
    Raises KernelError for arguments that do not fit.
    """
    options = kernel_size, embedding, scale, local_bias, pool_bias, table
    x = AggregatedArguments(q, k, v, grid, pool, *options)
    check(x)
    return _mixed(x, _shares(x))


def aggregated_shares(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    """The softmax of `aggregated_attention` alone, `b h n (w + p)`: a window, then pooled keys."""
    x = AggregatedArguments(q, k, v, **options)
    check(x)
    return _shares(x)


def aggregated_statistics(
    q: Tensor, k: Tensor, v: Tensor, **options: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    """The result of `aggregated_attention` and how its softmax falls into two parts.

    foveal      `b h n`, the share of the window's cells; the table behind the softmax is no part
    peripheral  `b h n`, the share of pooled keys: 1 - foveal
    """
    x = AggregatedArguments(q, k, v, **options)
    if aggregated_attention.why(q, k, v, **options).path == "triton":
        with torch.no_grad():
            out, foveal = fast_module(aggregated_attention).measured(x)
        if torch.is_grad_enabled() and any(t.requires_grad for t in x.tensors):
            out = aggregated_attention(q, k, v, **options)
    else:
        check(x)
        shares = _shares(x)
        out, foveal = _mixed(x, shares), shares[..., : x.window].detach().sum(-1)
    return out, {"foveal": foveal, "peripheral": 1 - foveal}


def _shares(x: AggregatedArguments) -> Tensor:
    """The softmax over the window and pooled keys, cell by cell: nothing is unfolded."""
    queries, (keys, pooled) = _scaled(x), _unit(x.k).split([x.tokens, x.pooled], 2)
    picture = queries.unflatten(2, x.grid)
    cells = [torch.linalg.vecdot(picture, part) for part in _shifted(x, keys)]
    local = _window_scores(x, torch.stack(cells, -1).flatten(2, 3), _window_tokens(x))
    return torch.cat([local, _pool_scores(x, queries, pooled)], -1).softmax(-1)


def _mixed(x: AggregatedArguments, shares: Tensor) -> Tensor:
    values, pooled = wide(x.v).split([x.tokens, x.pooled], 2)
    local, far = shares.split([x.window, x.pooled], -1)
    weights = local if x.table is None else local + wide(x.table)
    out: Tensor = (far @ pooled).unflatten(2, x.grid)
    planes = weights.unflatten(2, x.grid)[..., None].unbind(-2)
    for weight, part in zip(planes, _shifted(x, values), strict=True):
        out = torch.addcmul(out, weight, part)
    return out.flatten(2, 3).to(x.v.dtype)


def _shifted(x: AggregatedArguments, tokens: Tensor) -> Iterator[Tensor]:
    """The tokens seen in each cell of a window, as views `b h y x d`; zeros outside the grid."""
    reach, (height, width) = x.kernel_size // 2, x.grid
    picture = F.pad(tokens.unflatten(2, x.grid), (0, 0, *[reach] * 4))
    for y in range(x.kernel_size):
        for column in range(x.kernel_size):
            yield picture[:, :, y : y + height, column : column + width]


def _window_tokens(x: AggregatedArguments) -> Tensor:
    """The token in each cell of a query's window, `n w`; -1 outside the grid."""
    return window_tokens(x.grid, x.kernel_size, 1, x.kernel_size // 2).to(x.q.device)


def _scaled(x: AggregatedArguments, rows: slice = slice(None)) -> Tensor:
    """scale (q^ + embedding) of some queries."""
    q = _unit(x.q[:, :, rows])
    q = q if x.embedding is None else q + wide(x.embedding)[:, None]
    return q if x.scale is None else q * wide(x.scale)[:, rows, None]


def _pool_scores(
    x: AggregatedArguments, queries: Tensor, pooled: Tensor, rows: slice = slice(None)
) -> Tensor:
    scores: Tensor = queries @ pooled.mT
    return scores if x.pool_bias is None else scores + wide(x.pool_bias)[:, rows]


def _window_scores(x: AggregatedArguments, products: Tensor, cells: Tensor) -> Tensor:
    """With their bias; -inf outside the grid."""
    scores = products if x.local_bias is None else products + wide(x.local_bias)[:, None]
    return scores.masked_fill(cells < 0, -torch.inf)


def _unit(x: Tensor) -> Tensor:
    return F.normalize(wide(x), dim=-1)
