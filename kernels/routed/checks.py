"""What routed attention takes: arguments that do not fit end in one sentence."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import KernelError
from ..windows import Window


def check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: Tensor | None,
    mask: Tensor | None,
    weight: Tensor | None,
    window: Window | None,
    block: int | None,
    causal: bool,
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
        q.shape[0] == k.shape[0]
        and k.shape[:3] == v.shape[:3]
        and k.shape[1]
        and q.shape[1] % k.shape[1] == 0
        and q.shape[3] == k.shape[3]
    ):
        raise KernelError(
            "routed attention takes q b h n d, k b g m d and v b g m e with h a multiple of g, "
            f"not {shapes}"
        )
    if causal and (window is not None or q.shape[2] != k.shape[2]):
        raise KernelError(
            "causal routed attention takes runs of `block` tokens and as many keys as queries, not "
            + (shapes if window is None else "a window")
        )
    if (index is None) == (mask is None):
        raise KernelError("routed attention takes an index or a mask of blocks: give one of them")
    if mask is not None:
        _check_mask(q, k, mask, weight, block)
        return
    assert index is not None
    tokens = q.shape[2] if window is None else window.grid[0] * window.grid[1]
    size = window.size[0] * window.size[1] if window is not None else block or tokens
    count = tokens // size
    if q.shape[2] != tokens or tokens % size or not count or k.shape[2] % count:
        raise KernelError(
            f"routed attention over blocks of {size} takes {tokens} queries and keys in {count} "
            f"equal blocks, not {shapes}"
        )
    _check_index(q, index, weight, count)


def _check_mask(
    q: Tensor, k: Tensor, mask: Tensor, weight: Tensor | None, block: int | None
) -> None:
    if block is None or weight is not None:
        raise KernelError(
            "a mask of blocks goes with runs of tokens and without weight: give block=, not window="
        )
    n, m = q.shape[2], k.shape[2]
    if block > max(n, m):
        raise KernelError(
            f"blocks of {block} tokens are larger than the sequence of {max(n, m)}: give fewer"
        )
    want = -(-n // block), -(-m // block)
    leading = q.shape[: max(mask.ndim - 2, 1)]
    if mask.ndim not in (3, 4) or mask.shape != (*leading, *want) or mask.dtype != torch.bool:
        raise KernelError(
            f"a mask of blocks of {block} tokens has booleans for {want[0]} query and {want[1]} "
            f"key blocks, `b R C` or `b h R C`, but is {tuple(mask.shape)} of {mask.dtype} for q "
            f"{tuple(q.shape)}"
        )


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
