"""What heads of language models do: previous token, duplicate token, induction."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...probe.attribution import Heads, head_method
from ...probe.errors import MethodError

_ROWS = 256


@head_method("previous_token")
def previous_token(heads: Heads) -> Tensor:
    """Mean attention of a token to the one before it."""
    return _mean(heads, lambda i, j, ids: j == i - 1)


@head_method("duplicate_token")
def duplicate_token(heads: Heads) -> Tensor:
    """Mean attention of a repeated token to its earlier occurrences; NaN where nothing repeats."""
    return _mean(heads, lambda i, j, ids: (ids[:, None] == ids[None]) & (j < i))


@head_method("induction")
def induction(heads: Heads) -> Tensor:
    """Mean attention of a repeated token to what followed its earlier occurrences."""

    def after(i: Tensor, j: Tensor, ids: Tensor) -> Tensor:
        same = torch.zeros(len(ids), len(ids), dtype=torch.bool, device=ids.device)
        same[:, 1:] = ids[:, None] == ids[None, :-1]
        return same & (j < i + 1) & (j > 0)

    return _mean(heads, after)


def _mean(heads: Heads, meant: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """The attention to what is meant, averaged over the queries for which there is any."""
    b, h, n, m = heads.shape
    if heads.tokens is None or heads.tokens.shape[1] != n or n != m:
        raise MethodError(
            "this metric compares token ids, but the model read none of the length of its "
            "attention; give it a batch of ids, `b n`"
        )
    places = torch.arange(n, device=heads.tokens.device)
    masks = torch.stack([meant(places[:, None], places[None], ids) for ids in heads.tokens])
    some = masks.any(-1)
    total = torch.zeros(b, h, dtype=torch.float64)
    for start in range(0, n, _ROWS):
        span = slice(start, min(start + _ROWS, n))
        part = heads.rows(span).double() * masks[:, None, span].to(heads.tokens.device)
        total += part.sum((-1, -2)).cpu()
    count = some.sum(-1).double().cpu()[:, None]
    return torch.where(count == 0, torch.nan, total / count)
