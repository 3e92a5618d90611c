"""What attention sees sharply and what it sees pooled (TransNeXt, arXiv 2311.17132)."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...probe.attribution import (
    Heads,
    Natural,
    head_method,
    pass_method,
)
from ...probe.errors import MethodError

_ROWS = 256


@head_method("foveal_mass")
def foveal_mass(heads: Heads) -> Tensor:
    """The share of a softmax over neighbours and pooled keys that falls on neighbours.

    1 - the mean mass of pooled keys, to which a table behind the softmax adds nothing. NaN for
    heads without pooled keys.
    """
    if heads.pooled is None:
        return heads.nothing()
    count, n = prod(heads.pooled[1]), heads.shape[2]
    blocks = (slice(start, min(start + _ROWS, n)) for start in range(0, n, _ROWS))
    far = [heads.rows(span)[..., -count:].sum(-1) for span in blocks]
    return 1 - torch.cat(far, 2).mean(-1)


@pass_method("place_attention")
def place_attention(
    runner: Any,
    x: Tensor,
    target: Any,
    *,
    row: float = 0.5,
    column: float = 0.5,
    layer: int = -1,
    head: Natural | None = None,
) -> Tensor:
    """Where one place of the picture looks: a row of one layer's attention, on the grid of keys.

    row, column  the place, as shares of the picture's height and width
    layer        which of the model's attentions, in order of execution
    head         one of them; None for their mean
    A pooled key's weight is spread evenly over the tokens that it pools, so that near and far lie
    in one picture. Not about any class.
    Raises MethodError for a layer, head or place that there is not, and tokens on no grid.
    """
    from ...probe.attribution.heads import heads_of, watched

    with runner.probe(grad=False) as probe:
        patterns = watched(probe, ["heads"])
        probe(*runner.batch.args, **runner.batch.kwargs)
        every = heads_of(probe, patterns, None)
        if not -len(every) <= layer < len(every):
            raise MethodError(
                f"layer {layer} was asked for, but the model attends {len(every)} times: give "
                f"{-len(every)} to {len(every) - 1}"
            )
        return seen_from(every[layer], row, column, head)


def seen_from(heads: Heads, row: float, column: float, head: int | None) -> Tensor:
    """What one head, or the mean of all, sees from a place: `b y x`, as in `place_attention`."""
    grid = heads.grid if heads.pooled is None else heads.pooled[0]
    if grid is None:
        raise MethodError(
            f"the tokens that {heads.site} mixes lie on no grid of the picture, so that no place "
            "of it looks: choose another layer"
        )
    if not (0 <= row <= 1 and 0 <= column <= 1):
        raise MethodError(f"row={row}, column={column} is no place: give shares from 0 to 1")
    if head is not None and not 0 <= head < heads.shape[1]:
        raise MethodError(
            f"head {head} was asked for, but {heads.site} has {heads.shape[1]} heads: give 0 to "
            f"{heads.shape[1] - 1}"
        )
    queries = [round(side / heads.stride) for side in grid]
    y, left = (min(int(s * n), n - 1) for s, n in zip((row, column), queries, strict=True))
    query = heads.prefix + y * queries[1] + left
    weights = heads.rows(slice(query, query + 1))[:, :, 0]
    weights = weights.mean(1) if head is None else weights[:, head]
    near = weights[:, heads.prefix :][:, : prod(grid)].unflatten(1, grid)
    if heads.pooled is None:
        return near
    return near + spread(weights[:, prod(grid) :].unflatten(1, heads.pooled[1]), grid)


def spread(pooled: Tensor, grid: tuple[int, int]) -> Tensor:
    """Weights of pooled keys `b y x` over the tokens that each is the mean of; sums stay."""
    rows, columns = (
        F.adaptive_avg_pool1d(torch.eye(side, dtype=pooled.dtype, device=pooled.device)[None], keys)
        for side, keys in zip(grid, pooled.shape[1:], strict=True)
    )
    return rows[0] @ pooled @ columns[0].mT
