"""Routed attention: each block of queries sees the blocks of keys that an index names."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import KernelError
from ..kernel import kernel
from ..shared import fused, normal, wide
from ..windows import Window
from .checks import check
from .masked import masked_attention, masked_map


def routed_map(
    rows: slice,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: Tensor | None = None,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    scale: float | None = None,
    window: Window | None = None,
    block: int | None = None,
    causal: bool = False,
) -> Tensor:
    """Some rows of the map, `b h r m`; zeros for keys whose block was not chosen."""
    k = _for_heads(k, q)
    if index is None:
        return masked_map(rows, q, k, _given(mask), scale, block or 1, causal)
    at, _, keys = _places(q, k, window, block)
    blocks = at[rows]
    chosen = _spread(index.long(), q.shape[1], blocks)
    size = keys.shape[1]
    tokens = keys[chosen.clamp(min=0)].flatten(-2)  # b h r (t p)
    scores = wide(q[..., rows, :]) @ wide(k).mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    seen = scores.gather(-1, tokens)
    unseen = (chosen < 0).repeat_interleave(size, -1)
    if causal:
        unseen = unseen | (tokens > torch.arange(q.shape[2], device=q.device)[rows, None])
    factor = None
    if weight is not None:
        factor = _spread(wide(weight), q.shape[1], blocks).repeat_interleave(size, -1)
        seen = seen * factor
    share = normal(seen.masked_fill(unseen, -torch.inf))
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
    index: Tensor | None = None,
    *,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    scale: float | None = None,
    window: Window | None = None,
    block: int | None = None,
    causal: bool = False,
) -> Tensor:
    """softmax(scale q k') v over the keys of the chosen blocks.

    q: b h n d, k: b g m d, v: b g m e -> b h n e; h is a multiple of g, heads share keys in runs
    window, block  how tokens form blocks: tiles of a grid, or runs of `block` tokens. Keys that
                   are not of the grid's size lie block after block, equally many in each.
    index   `b R t` or `b h R t`: for each of R query blocks the key blocks it sees, -1 for none
    weight  as index: multiplies keys and values of the block that is seen (soft routing)
    mask    in place of the index: booleans `b R C` or `b h R C`, True where query block R sees key
            block C. Its blocks are runs of `block` tokens; the last run may be shorter
    causal  query i sees keys up to i of the blocks it sees; for runs of `block` tokens
    Blocks named twice count twice. A query that sees nothing gives zeros. Raises KernelError.
    """
    check(q, k, v, index, mask, weight, window, block, causal)
    k, v = _for_heads(k, q), _for_heads(v, q)
    if index is None:
        return masked_attention(q, k, v, _given(mask), scale, block or 1, causal)
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
    if causal:
        tokens = keys[chosen.clamp(min=0)].flatten(-2)[..., None, :]
        hidden = hidden | (tokens > queries[:, :, None])
    bias = torch.zeros((), dtype=q.dtype, device=q.device).masked_fill(hidden, -torch.inf)
    each = (x.flatten(1, 2) for x in (parts, seen_k, seen_v, bias))  # blocks as heads
    out = torch.unflatten(fused(*each, scale=scale), 1, chosen.shape[1:3])
    return out.flatten(2, 3)[:, :, queries.flatten().argsort()]


def _given(mask: Tensor | None) -> Tensor:
    if mask is None:
        raise KernelError("routed attention takes an index or a mask of blocks: give one")
    return mask


def _for_heads(x: Tensor, q: Tensor) -> Tensor:
    """Keys or values repeated for the query heads that share them."""
    times = q.shape[1] // x.shape[1]
    return x.repeat_interleave(times, 1) if times > 1 else x


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
