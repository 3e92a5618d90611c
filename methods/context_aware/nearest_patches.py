"""The K patches most like each patch: blocked products, positions, and a two-step selection."""

from __future__ import annotations

import torch
from torch import Tensor

from .patches import Patches

GROUP = 8


def mean_nearest(queries: Patches, keys: Patches, k: int, c: float, *, exact: bool) -> Tensor:
    """Mean of the k smallest |p - q| / (1 + c |position(p) - position(q)|) of each query, `n`.

    |p - q|^2 = |p|^2 + |q|^2 - 2 p q loses small distances to rounding: the products are float64
    where `exact`, and float32 about the mean patch otherwise.
    """
    p, q = _factors(queries.values, keys.values, torch.float64 if exact else torch.float32)
    k, at, key_at = min(k, len(q)), queries.at * c, keys.at * c
    size = _block(p, q)
    products = p.new_empty(size, len(q))
    squared, apart, across = at.new_empty(3, size, len(q))
    means = at.new_empty(len(p))
    for start in range(0, len(p), size):
        rows = slice(start, min(start + size, len(p)))
        b = rows.stop - start
        torch.mm(p[rows], q.T, out=products[:b])
        torch.sub(at[rows, :1], key_at[:, 0], out=apart[:b]).square_()
        torch.sub(at[rows, 1:], key_at[:, 1], out=across[:b])
        apart[:b].addcmul_(across[:b], across[:b]).sqrt_().add_(1).square_()
        squared[:b].copy_(products[:b]).div_(apart[:b])
        means[rows] = smallest(squared[:b], k).clamp_(min=0).sqrt_().mean(1)
    return means


def smallest(values: Tensor, k: int) -> Tensor:
    """The k smallest values of each row, in no order.

    They lie in the k groups with the smallest minima: two short selections for one long.
    """
    n = values.shape[1]
    if n < 4 * k * GROUP:
        return values.topk(k, largest=False, sorted=False).values
    whole = n - n % GROUP
    groups = values[:, :whole].unflatten(1, (GROUP, -1))
    nearest = groups.amin(1).topk(k, largest=False, sorted=False).indices
    chosen = groups.gather(2, nearest[:, None].expand(-1, GROUP, -1)).flatten(1)
    chosen = torch.cat([chosen, values[:, whole:]], 1)
    return chosen.topk(k, largest=False, sorted=False).values


def _factors(p: Tensor, q: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two matrices `n d` whose product over d is |p - q|^2."""
    centre = q.mean(0)
    p, q = p.sub(centre).to(dtype), q.sub(centre).to(dtype)
    p2, q2 = p.square().sum(1, keepdim=True), q.square().sum(1, keepdim=True)
    left = torch.cat([p, p2, torch.ones_like(p2)], 1)
    return left, torch.cat([-2 * q, torch.ones_like(q2), q2], 1)


def _block(p: Tensor, q: Tensor) -> int:
    """How many queries a block holds: its distances fit a core's cache or a part of a GPU."""
    room = 2**26 if p.is_cuda else 2**19
    return min(len(p), max(32, room // len(q)))
