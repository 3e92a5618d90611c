"""Routed attention on Triton: what it takes, its result, its gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..shared.triton_launch import (
    MOST,
    ceil_div,
    dense_rows,
    dot_precision,
    dot_type,
    like_tokens,
    options,
    padded,
    scarce,
)
from ..shared.triton_rows import LOG2E
from ..windows import Window
from .checks import check
from .triton_kernels import Lattice, Plan, Pointers, Sizes, Strides, attend, to_keys, to_queries

LARGEST_HEAD = 256


def can_run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: Tensor | None = None,
    mask: Tensor | None = None,
    **_: Any,
) -> str | None:
    """None where the kernels take the call, else the reason against them."""
    tensors = q, k, v
    chosen = mask if index is None else index
    if chosen is None:
        return "neither index nor mask is given"
    if mask is not None and q.shape[2] != k.shape[2]:
        return "a mask of blocks has other queries than keys"
    if len({x.dtype for x in tensors}) > 1:
        return "tensors have several dtypes"
    if any(x.ndim != 4 for x in tensors):
        return "tensors are not b h n d"
    if any(x.numel() == 0 for x in (*tensors, chosen)):
        return "there is nothing to compute"
    if max(q.shape[3], v.shape[3]) > LARGEST_HEAD:
        return f"heads are wider than {LARGEST_HEAD}"
    if any(x.shape[2] * max(x.stride(2), x.shape[1] * x.shape[3]) > MOST for x in tensors):
        return f"a head spans more than {MOST} numbers"
    if max(chosen.shape[-1] * k.shape[2], chosen[0].numel() * q.shape[2]) > MOST:
        return f"an index names more than {MOST} keys"
    return None


@dataclass(frozen=True)
class RoutedOperands:
    """The arguments of one call as kernels take them; index and weight are `b h R t`.

    count   entries of each row of the index, `b h R`, that name blocks; None for all
    queries, keys   in a block
    """

    q: Tensor
    k: Tensor
    v: Tensor
    index: Tensor
    weight: Tensor | None
    factor: float
    at_m: Lattice
    at_n: Lattice
    count: Tensor | None
    queries: int
    keys: int
    causal: bool

    @cached_property
    def pointers(self) -> Pointers:
        return Pointers(self.q, self.k, self.v, self.index, self.weight, self.count)

    @cached_property
    def strides(self) -> Strides:
        q, k, v = (x.stride()[:3] for x in (self.q, self.k, self.v))
        weight = None if self.weight is None else self.weight.stride()
        return Strides(q, k, v, self.index.stride(), weight)

    @cached_property
    def sizes(self) -> Sizes:
        _, h, blocks, named = self.index.shape
        n, m = self.q.shape[2], self.k.shape[2]
        group, scale = h // self.k.shape[1], self.factor * LOG2E.value
        return Sizes(h, group, n, m, blocks, self.queries, self.keys, named, scale)

    @cached_property
    def widest(self) -> int:
        """Bytes of the widest row that a program holds."""
        width = max(padded(self.q.shape[3]), padded(self.v.shape[3]))
        return width * self.q.element_size()

    @cached_property
    def tiles(self) -> tuple[int, int]:
        """Queries and keys that a program holds at once; fewer where memory for them is scarce."""
        width = self.widest * (2 if scarce(self.q) else 1)
        most = 64 if width <= 256 else 32 if width <= 512 else 16
        z = self.sizes
        return min(most, padded(z.queries)), min(most, padded(z.named * z.keys))

    @property
    def tiles_back(self) -> tuple[int, int]:
        """The same where a program holds keys of one block and walks over queries."""
        most, z = max(self.tiles), self.sizes
        return min(most, padded(z.named * z.queries)), min(most, padded(z.keys))

    def plan(self, tiles: tuple[int, int]) -> Plan:
        d, e = self.q.shape[3], self.v.shape[3]
        sizes = d, padded(d), e, padded(e), *tiles
        kind = dot_type(self.q.dtype), dot_precision(), self.causal
        return Plan(self.at_m, self.at_n, *sizes, *kind)

    def warps(self, tiles: tuple[int, int]) -> int:
        """A warp for each kilobyte of the larger tile: with fewer, sm_90 spills registers."""
        return min(8, max(1, max(tiles) * self.widest // 1024))

    def programs(self, count: int, tile: int) -> tuple[int]:
        """One for each tile of a block's `count` tokens."""
        return (math.prod(self.q.shape[:2]) * self.sizes.blocks * ceil_div(count, tile),)


def forward(**arguments: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The result and, for the backward, the base-2 log-sum-exp of each query's scores."""
    x = _prepare(**arguments)
    out = like_tokens(x.q, x.v.shape[3])
    lse = x.q.new_empty(x.q.shape[:3], dtype=torch.float32)
    attend[x.programs(x.sizes.queries, x.tiles[0])](
        x.pointers, *x.strides, out, out.stride()[:3], lse, x.sizes, x.plan(x.tiles),
        **options(x.warps(x.tiles), 2),
    )  # fmt: skip
    return out, (lse,)


def backward(
    g: Tensor, out: Tensor, saved: tuple[Tensor, ...], needs: set[str], **arguments: Any
) -> dict[str, Tensor]:
    """The gradients: of queries and weights by block, then of keys and values by who saw them."""
    x, g = _prepare(**arguments), dense_rows(g)
    delta = torch.empty_like(saved[0])
    grads = _query_gradients(x, g, out, saved[0], delta, needs)
    if needs & {"k", "v"}:
        grads["k"], grads["v"] = _key_gradients(x, g, saved[0], delta)
    if "weight" in grads and arguments["weight"].ndim == 3:
        grads["weight"] = grads["weight"].sum(1)
    return {name: x.to(arguments[name].dtype) for name, x in grads.items() if name in needs}


def _prepare(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    scale: float | None = None,
    window: Window | None = None,
    block: int | None = None,
    causal: bool = False,
) -> RoutedOperands:
    check(q, k, v, index, mask, weight, window, block, causal)  # pointers would run past the end
    b, h, n, d = q.shape
    count = None
    if index is None and mask is not None:
        index, count = listed(mask, h)
    assert index is not None  # as checked
    blocks = index.shape[-2]
    if window is None:
        at_m = (1, block or n, 1, 1)
    else:
        at_m = (window.grid[1] // window.size[1], *window.size, window.grid[1])
    queries, keys = ceil_div(n, blocks), ceil_div(k.shape[2], blocks)
    if count is not None:
        queries = keys = block or n
    at_n = at_m if k.shape[2] == n else (1, keys, 1, 1)
    shape = (b, h, *index.shape[-2:])
    if index.ndim == 3:
        index = index[:, None].expand(shape)
    if weight is not None and weight.ndim == 3:
        weight = weight[:, None].expand(shape)
    factor = d**-0.5 if scale is None else scale
    rows = dense_rows(q), dense_rows(k), dense_rows(v)
    return RoutedOperands(*rows, index, weight, factor, at_m, at_n, count, queries, keys, causal)


def listed(mask: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """A mask of blocks as an index, its entries in front of -1, and their number, `b h R`."""
    number = mask.shape[-1]
    places = torch.arange(number, device=mask.device, dtype=torch.int32).expand_as(mask)
    count = mask.sum(-1, dtype=torch.int32)
    most = max(1, int(count.max()))
    index = torch.where(mask, places, number).sort(-1).values[..., :most]
    index = torch.where(index == number, -1, index)
    if count.ndim == 2:
        count = count[:, None].expand(-1, heads, -1)
    return index, count.contiguous()


def _query_gradients(
    x: RoutedOperands, g: Tensor, out: Tensor, lse: Tensor, delta: Tensor, needs: set[str]
) -> dict[str, Tensor]:
    """The gradients of q and of the weight of each head; delta is filled on the way."""
    z, programs = x.sizes, x.programs(x.sizes.queries, x.tiles[0])
    dq = like_tokens(x.q, x.q.shape[3]) if needs & {"q", "weight"} else None
    parts = delta.new_empty(*programs, z.named, z.keys) if "weight" in needs else None
    to_queries[programs](
        x.pointers, *x.strides, out, out.stride()[:3], g, g.stride()[:3], lse, delta,
        dq, None if dq is None else dq.stride()[:3], parts, z, x.factor, x.plan(x.tiles),
        **options(x.warps(x.tiles), 2),
    )  # fmt: skip
    grads = {} if dq is None else {"q": dq}
    if parts is not None:
        shape = (*x.q.shape[:2], z.blocks, -1, z.named, z.keys)
        grads["weight"] = parts.reshape(shape).sum((3, 5))
    return grads


def _key_gradients(
    x: RoutedOperands, g: Tensor, lse: Tensor, delta: Tensor
) -> tuple[Tensor, Tensor]:
    order, starts = turned(x.index, x.sizes.blocks)
    each = (t[:, :1].expand(-1, x.sizes.heads, -1, -1) for t in (x.k, x.v))
    dk, dv = (like_tokens(t, t.shape[3]) for t in each)  # of each query head
    to_keys[x.programs(x.sizes.keys, x.tiles_back[1])](
        x.pointers, *x.strides, order, order.stride()[:2], starts, starts.stride()[:2],
        g, g.stride()[:3], lse, delta, dk, dk.stride()[:3], dv, dv.stride()[:3],
        x.sizes, x.factor, x.plan(x.tiles_back), **options(x.warps(x.tiles_back), 2),
    )  # fmt: skip
    if x.sizes.group > 1:
        dk, dv = (torch.unflatten(t, 1, (-1, x.sizes.group)).sum(2) for t in (dk, dv))
    return dk, dv


def turned(index: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
    """The index turned round: its entries by the block they name, and where each block's start.

    index: b h R t -> entries (R t) `b h n`, starts `b h (blocks + 1)`, in 32 bits. Entries that
    name no block come last. One list serves all heads where the index is the same for them.
    """
    shared = index.stride(1) == 0
    flat = (index[:, :1] if shared else index).flatten(2)
    flat = torch.where((flat >= 0) & (flat < blocks), flat, blocks)
    by_block, order = flat.sort(dim=-1, stable=True)
    numbers = torch.arange(blocks + 1, device=index.device, dtype=flat.dtype)
    numbers = numbers.expand(*flat.shape[:2], -1).contiguous()
    starts = torch.searchsorted(by_block, numbers)
    heads = index.shape[1]
    return order.int().expand(-1, heads, -1), starts.int().expand(-1, heads, -1)
