"""What boolean masks let through of the attention that there would be without them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ...kernels.shared import distances
from ...probe.attribution import Heads, head_method
from ...probe.errors import MethodError

_ROWS = 256


@head_method("mask_recall")
def mask_recall(heads: Heads, *, mask: Literal["own", "random", "local"] = "own") -> Tensor:
    """The share of the unmasked softmax that a mask keeps: mean_i sum_j M_ij A_ij.

    mask  the layer's own; or, beside it, one that lets each query see as many keys: random, the
          expectation of a uniform draw, which is that share of the keys; local, the class token
          and the nearest on the grid, the earlier of two as far away
    Queries are patches, keys all tokens. NaN for maps behind no mask, and for local masks where
    tokens lie on no grid.
    """
    own = _mask(heads)
    if heads.op is None or own is None or (mask == "local" and heads.grid is None):
        return heads.nothing()
    b, h, n, _ = heads.shape
    unmasked = heads.op.without("mask")
    total = torch.zeros(b, h, dtype=torch.float64)
    for start in range(heads.prefix, n, _ROWS):
        span = slice(start, min(start + _ROWS, n))
        kept = own[:, :, span]
        if mask == "random":
            part = kept.double().mean(-1)
        else:
            kept = _nearest(heads, span, kept.sum(-1)) if mask == "local" else kept
            part = (unmasked(span).double() * kept).sum(-1)
        total += part.sum(-1).cpu()
    return total / (n - heads.prefix)


def _mask(heads: Heads) -> Tensor | None:
    """The boolean mask of an attention op, `b h n m`."""
    mask = None if heads.op is None else heads.op.argument("mask")
    return None if mask is None or mask.dtype != torch.bool else mask.expand(heads.shape)


def _nearest(heads: Heads, span: slice, count: Tensor) -> Tensor:
    """For each query the `count` tokens that come first: those in front, then by distance."""
    assert heads.grid is not None
    places = slice(span.start - heads.prefix, span.stop - heads.prefix)
    far = distances(heads.grid, heads.stride, count.device, torch.float64, places)
    front = far.new_full((len(far), heads.prefix), -1.0)
    rank = torch.cat([front, far], 1).argsort(dim=-1, stable=True).argsort(-1)
    return rank < count[..., None]


@dataclass(frozen=True, eq=False)
class Connectivity:
    """What one query sees and what it would look at, `b h m` over the keys.

    seen      the mask
    softmax   attention without it
    map       attention behind it
    grid      rows and columns of the keys after `prefix` other tokens; None where they lie on none
    """

    seen: Tensor
    softmax: Tensor
    map: Tensor
    grid: tuple[int, int] | None
    prefix: int

    def picture(self, name: Literal["seen", "softmax", "map"]) -> Tensor:
        """One of the three over the grid, `b h y x`. Raises MethodError where there is none."""
        if self.grid is None:
            raise MethodError("a picture of keys was asked for, but they lie on no grid")
        values: Tensor = getattr(self, name)
        return values[..., self.prefix :].unflatten(-1, self.grid)


def connectivity(model: nn.Module, images: Tensor, path: str, query: int) -> Connectivity:
    """The mask of one query of the attention at `path`, beside its softmax without the mask.

    query  the number of the token, the class token counted
    Raises MethodError where attention is not masked or has fewer tokens, SiteError without any.
    """
    from ...probe.attribution.heads import heads_of, watched
    from ...probe.probe import Probe

    with Probe(model, grad=False) as probe:
        patterns = watched(probe, [path])
        probe(images)
        return connectivity_of(heads_of(probe, patterns, None)[0], query)


def connectivity_of(heads: Heads, query: int) -> Connectivity:
    """The same of attention that a probe has seen. Raises MethodError likewise."""
    mask, path = _mask(heads), heads.site.path
    if heads.op is None or mask is None:
        raise MethodError(
            f"connectivity was asked for at {path!r}, but its attention is behind no boolean mask: "
            "name a module whose attention op takes one"
        )
    if not 0 <= query < heads.shape[2]:
        raise MethodError(
            f"connectivity of token {query} was asked for, but {path!r} has {heads.shape[2]}: "
            f"give 0 to {heads.shape[2] - 1}"
        )
    one = slice(query, query + 1)
    softmax, behind = (rows(one)[:, :, 0] for rows in (heads.op.without("mask"), heads.op))
    return Connectivity(mask[:, :, query], softmax, behind, heads.grid, heads.prefix)
