"""Neighbourhood attention block by block: queries of a box against the box of keys they see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from .axes import Axis, span

_SIDES = (64, 8, 4)  # of a block, by the count of axes
_PAIRS = 1 << 22  # of queries and keys, of all heads, that are looked at together


@dataclass(frozen=True)
class _Cut:
    """An axis in tiles: `queries` t q and `keys` t k, -1 outside, and who is `seen`, t q k."""

    queries: Tensor
    keys: Tensor
    seen: Tensor


def by_blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    axes: Sequence[Axis],
    scale: float,
    extra_k: Tensor | None,
    extra_v: Tensor | None,
) -> Tensor:
    """softmax(scale q k') v in float32 or wider; q, k, v are `b h n d`, extra keys `b h m d`.

    Numbers kept for the backward grow with the boxes of the tiles, not with n^2.
    """
    cuts = [_cut(axis, _SIDES[len(axes) - 1], q.device) for axis in axes]
    counts = [len(cut.keys) for cut in cuts]
    pairs = prod([cut.seen[0].numel() for cut in cuts]) * q.shape[0] * q.shape[1]
    size = max(1, _PAIRS // pairs)
    outs, places = [], []
    for start in range(0, prod(counts), size):
        at = torch.arange(start, min(start + size, prod(counts)), device=q.device)
        tiles = torch.unravel_index(at, counts)
        queries = _tokens([c.queries[i] for c, i in zip(cuts, tiles, strict=True)], axes)
        keys = _tokens([c.keys[i] for c, i in zip(cuts, tiles, strict=True)], axes)
        seen = _boxes([c.seen[i] for c, i in zip(cuts, tiles, strict=True)])
        part = q[:, :, queries.clamp(min=0)] * scale
        scores = (part @ k[:, :, keys.clamp(min=0)].mT).masked_fill(~seen, -torch.inf)
        if extra_k is not None:
            scores = torch.cat([scores, part @ extra_k[:, :, None].mT], -1)
        share = scores.softmax(-1)
        out = share[..., : keys.shape[1]] @ v[:, :, keys.clamp(min=0)]
        if extra_v is not None:
            out = out + share[..., keys.shape[1] :] @ extra_v[:, :, None]
        outs.append(out.flatten(2, 3))
        places.append(queries.flatten())
    place = torch.cat(places)
    whole = torch.empty(q.shape[2] + 1, dtype=torch.long, device=q.device)
    whole[place] = torch.arange(len(place), device=q.device)  # the token -1 is the last
    return torch.cat(outs, 2)[:, :, whole[:-1]]


def _cut(axis: Axis, size: int, device: torch.device) -> _Cut:
    """Tiles of `size` places of one dilation group each."""
    start, end = axis.windows()
    longest = -(-axis.length // axis.dilation)
    size = min(size, longest)
    group = torch.arange(axis.dilation)[:, None, None]
    first = torch.arange(0, longest, size)[:, None]
    queries = ((first + torch.arange(size)) * axis.dilation + group).flatten(0, 1)
    queries = torch.where(queries < axis.length, queries, -1)
    there = queries.clamp(min=0)
    width = min(span(axis.kernel, axis.stride, axis.causal, size), longest)
    place = start[there[:, :1]] + torch.arange(width)
    keys = place * axis.dilation + queries[:, :1] % axis.dilation
    keys = torch.where(keys < axis.length, keys, -1)
    seen = (place[:, None] >= start[there][..., None]) & (place[:, None] < end[there][..., None])
    seen = seen | (queries < 0)[..., None]  # rows that are thrown away
    return _Cut(queries.to(device), keys.to(device), seen.to(device))


def _tokens(parts: Sequence[Tensor], axes: Sequence[Axis]) -> Tensor:
    """Places by axis, each `t i`, as tokens `t i..`; -1 where one is outside."""
    tokens = parts[0]
    for places, axis in zip(parts[1:], axes[1:], strict=True):
        left, right = tokens[:, :, None], places[:, None]
        joint = torch.where((left < 0) | (right < 0), -1, left * axis.length + right)
        tokens = joint.flatten(1)
    return tokens


def _boxes(parts: Sequence[Tensor]) -> Tensor:
    """Who is seen on every axis, each `t q k`, as one `t q.. k..`."""
    seen = parts[0]
    for part in parts[1:]:
        joint = seen[:, :, None, :, None] & part[:, None, :, None, :]
        seen = joint.flatten(1, 2).flatten(2, 3)
    return seen
