"""Routed attention: each block of queries sees the blocks of keys that an index names."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import KernelError
from ..kernel import kernel
from ..shared import fused, normal, wide
from ..windows import Window


def routed_map(
    rows: slice,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: Tensor,
    weight: Tensor | None = None,
    scale: float | None = None,
    window: Window | None = None,
    block: int | None = None,
) -> Tensor:
    """Some rows of the map, `b h r m`; zeros for keys whose block was not chosen."""
    at, _, keys = _places(q, k, window, block)
    blocks = at[rows]
    chosen = _spread(index.long(), q.shape[1], blocks)
    size = keys.shape[1]
    tokens = keys[chosen.clamp(min=0)].flatten(-2)  # b h r (t p)
    scores = wide(q[..., rows, :]) @ wide(k).mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    seen = scores.gather(-1, tokens)
    factor = None
    if weight is not None:
        factor = _spread(wide(weight), q.shape[1], blocks).repeat_interleave(size, -1)
        seen = seen * factor
    share = normal(seen.masked_fill((chosen < 0).repeat_interleave(size, -1), -torch.inf))
    share = share if factor is None else share * factor
    return torch.zeros_like(scores).scatter_add(-1, tokens, share)


@kernel(
    "routed_attention",
    share=("v",),
    hold=("q", "k", "weight"),
    mixing=routed_map,
    fast="triton_op",
)
def routed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: Tensor,
    *,
    weight: Tensor | None = None,
    scale: float | None = None,
    window: Window | None = None,
    block: int | None = None,
) -> Tensor:
    """softmax(scale q k') v over the keys of the chosen blocks.

    q: b h n d, k: b h m d, v: b h m e -> b h n e
    window, block  how tokens form blocks: tiles of a grid, or runs of `block` tokens. Keys that
                   are not of the grid's size lie block after block, equally many in each.
    index   `b R t` or `b h R t`: for each of R query blocks the key blocks it sees, -1 for none
    weight  as index: multiplies keys and values of the block that is seen (soft routing)
    Blocks named twice count twice. A query that sees nothing gives zeros. Raises KernelError.
    """
    check(q, k, v, index, weight, window, block)
    _, queries, keys = _places(q, k, window, block)
    h, size = q.shape[1], keys.shape[1]
    chosen = (index if index.ndim == 4 else index[:, None].expand(-1, h, -1, -1)).long()
    parts = torch.unflatten(q[:, :, queries.flatten()], 2, queries.shape)
    seen_k, seen_v = (_gathered(x, keys, chosen) for x in (k, v))
    if weight is not None:
        factor = weight if weight.ndim == 4 else weight[:, None]
        factor = factor.repeat_interleave(size, -1)[..., None]
        seen_k, seen_v = (x * factor.to(x.dtype) for x in (seen_k, seen_v))
    hidden = (chosen < 0).repeat_interleave(size, -1)[..., None, :]
    mask = torch.zeros((), dtype=q.dtype, device=q.device).masked_fill(hidden, -torch.inf)
    each = (x.flatten(1, 2) for x in (parts, seen_k, seen_v, mask))  # blocks as heads
    out = torch.unflatten(fused(*each, scale=scale), 1, chosen.shape[1:3])
    return out.flatten(2, 3)[:, :, queries.flatten().argsort()]


def _places(
    q: Tensor, k: Tensor, window: Window | None, block: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The block of each query; the queries of each block, `R p`; the keys of each, `R p'`."""
    if window is not None:
        queries, keys = window.query_index(q.device), window.key_index(q.device)
        at = window.place(q.device)[0]
    else:
        size = block or q.shape[2]
        tokens = torch.arange(q.shape[2], device=q.device)
        at, queries = tokens // size, tokens.reshape(-1, size)
        keys = queries
    if keys.numel() != k.shape[2]:
        keys = torch.arange(k.shape[2], device=q.device).reshape(len(queries), -1)
    return at, queries, keys


def _gathered(x: Tensor, keys: Tensor, chosen: Tensor) -> Tensor:
    """Tokens of the chosen blocks, `b h R (t p) d`."""
    blocks = torch.unflatten(x[:, :, keys.flatten()], 2, keys.shape)
    flat = chosen.clamp(min=0).flatten(2)[..., None, None]
    picked = torch.take_along_dim(blocks, flat, 2)
    return torch.unflatten(picked, 2, chosen.shape[2:]).flatten(3, 4)


def _spread(x: Tensor, heads: int, at: Tensor) -> Tensor:
    """An index or weight by head and query, `b h r t`."""
    return (x if x.ndim == 4 else x[:, None].expand(-1, heads, -1, -1))[:, :, at]


def check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: Tensor,
    weight: Tensor | None,
    window: Window | None,
    block: int | None,
) -> None:
    """Raise KernelError for arguments of routed attention that do not fit."""
    if (window is None) == (block is None):
        raise KernelError("routed attention forms blocks by a window or by block: give one")
    if window is not None and window.kind != "block":
        raise KernelError(f"routed attention takes windows of kind 'block', not {window.kind!r}")
    if block is not None and block < 1:
        raise KernelError(f"routed attention takes blocks of at least 1 token, not {block}")
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if any(x.ndim != 4 for x in (q, k, v)) or not (
        q.shape[:2] == k.shape[:2] == v.shape[:2]
        and q.shape[3] == k.shape[3]
        and k.shape[2] == v.shape[2]
    ):
        raise KernelError(
            f"routed attention takes q b h n d, k b h m d and v b h m e, not {shapes}"
        )
    tokens = q.shape[2] if window is None else window.grid[0] * window.grid[1]
    size = window.size[0] * window.size[1] if window is not None else block or tokens
    count = tokens // size
    if q.shape[2] != tokens or tokens % size or not count or k.shape[2] % count:
        raise KernelError(
            f"routed attention over blocks of {size} takes {tokens} queries and keys in {count} "
            f"equal blocks, not {shapes}"
        )
    _check_index(q, index, weight, count)


def _check_index(q: Tensor, index: Tensor, weight: Tensor | None, count: int) -> None:
    leading = q.shape[: max(index.ndim - 2, 1)]
    whole = not (index.is_floating_point() or index.dtype == torch.bool)
    if index.ndim not in (3, 4) or index.shape[:-1] != (*leading, count) or not whole:
        raise KernelError(
            f"the index names key blocks for each of {count} query blocks, `b R t` or `b h R t` in "
            f"integers, but is {tuple(index.shape)} of {index.dtype} for q {tuple(q.shape)}"
        )
    if weight is not None and weight.shape != index.shape:
        raise KernelError(
            f"weight {tuple(weight.shape)} must have the shape of index {tuple(index.shape)}"
        )
