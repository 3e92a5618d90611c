"""Neighbourhood attention in one to three dimensions, with NATTEN's windows."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from ..attention import grouped
from ..errors import KernelError
from ..kernel import kernel
from ..shared import wide
from .axes import Axis, Ints, axes_of, neighbors, visible
from .blocks import by_blocks

_DENSE = 512  # tokens up to which torch's masked attention beats blocks


def neighborhood_map(
    rows: slice,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grid: Sequence[int],
    kernel_size: Ints,
    stride: Ints = 1,
    dilation: Ints = 1,
    causal: bool | Sequence[bool] = False,
    scale: float | None = None,
    extra_k: Tensor | None = None,
    extra_v: Tensor | None = None,
) -> Tensor:
    """Some rows of the map, `b h r m`; with extra keys their columns follow those of the grid."""
    return _scores(
        rows, q, k, _axes(grid, kernel_size, stride, dilation, causal), scale, extra_k
    ).softmax(-1)


@kernel(
    "neighborhood_attention",
    share=("v", "extra_v"),
    hold=("q", "k", "extra_k"),
    mixing=neighborhood_map,
    fast="triton_op",
)
def neighborhood_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    grid: Sequence[int],
    kernel_size: Ints,
    stride: Ints = 1,
    dilation: Ints = 1,
    causal: bool | Sequence[bool] = False,
    scale: float | None = None,
    extra_k: Tensor | None = None,
    extra_v: Tensor | None = None,
) -> Tensor:
    """softmax(scale q k') v over the neighbourhood of each query.

    q: b h n d, k: b g n d, v: b g n e, tokens of `grid` (1 to 3 axes) in raster order -> b h n e;
    g divides h. kernel_size, stride, dilation, causal: one for all axes or one for each.
    extra_k, extra_v   `b g m d`, `b g m e`: further keys and values that every query sees
    The windows are NATTEN's: whole at the borders, shared by `stride` queries; see Axis.
    Raises KernelError for arguments that do not fit.
    """
    axes = _axes(grid, kernel_size, stride, dilation, causal)
    check(q, k, v, axes, extra_k, extra_v)
    keys, values = grouped(k, q), grouped(v, q)
    if extra_k is not None and extra_v is not None:
        extra_k, extra_v = grouped(extra_k, q), grouped(extra_v, q)
    if q.shape[2] <= _DENSE:
        mask = visible(axes).to(q.device)
        if extra_k is not None and extra_v is not None:
            mask = F.pad(mask, (0, extra_k.shape[2]), value=True)
            keys, values = torch.cat([keys, extra_k], 2), torch.cat([values, extra_v], 2)
        return F.scaled_dot_product_attention(q, keys, values, mask, scale=scale)
    scale = q.shape[3] ** -0.5 if scale is None else scale
    extra = [None if x is None else wide(x) for x in (extra_k, extra_v)]
    return by_blocks(wide(q), wide(keys), wide(values), axes, scale, *extra).to(v.dtype)


def neighborhood_lse(
    q: Tensor,
    k: Tensor,
    *,
    grid: Sequence[int],
    kernel_size: Ints,
    stride: Ints = 1,
    dilation: Ints = 1,
    causal: bool | Sequence[bool] = False,
    scale: float | None = None,
    extra_k: Tensor | None = None,
) -> Tensor:
    """log sum exp of the visible scaled scores, `b h n`: what merging two results needs."""
    axes = _axes(grid, kernel_size, stride, dilation, causal)
    parts = [
        _scores(slice(start, start + 256), q, k, axes, scale, extra_k).logsumexp(-1)
        for start in range(0, q.shape[2], 256)
    ]
    return torch.cat(parts, 2)


def merge(one: Tensor, other: Tensor, lse: Tensor, lse_other: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over two sets of keys from the results over each and their log sum exps."""
    share = (lse_other - lse).sigmoid()[..., None].to(one.dtype)
    return one - share * (one - other), torch.logaddexp(lse, lse_other)


def _axes(
    grid: Sequence[int],
    kernel_size: Ints,
    stride: Ints,
    dilation: Ints,
    causal: bool | Sequence[bool],
) -> tuple[Axis, ...]:
    return axes_of(tuple(grid), kernel_size, stride, dilation, causal)


def _scores(
    rows: slice,
    q: Tensor,
    k: Tensor,
    axes: Sequence[Axis],
    scale: float | None,
    extra_k: Tensor | None,
) -> Tensor:
    """Dense scores of some queries, -inf outside their neighbourhoods."""
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    part = wide(q[:, :, rows]) * factor
    places = torch.arange(q.shape[2])[rows]
    table = neighbors(axes)[places] % (q.shape[2] + 1)
    seen = torch.zeros(len(places), q.shape[2] + 1, dtype=torch.bool).scatter_(1, table, True)
    scores = part @ wide(grouped(k, q)).mT
    scores = scores.masked_fill(~seen[:, :-1].to(q.device), -torch.inf)
    if extra_k is None:
        return scores
    return torch.cat([scores, part @ wide(grouped(extra_k, q)).mT], -1)


def check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    axes: Sequence[Axis],
    extra_k: Tensor | None,
    extra_v: Tensor | None,
) -> None:
    """Raise KernelError where tensors do not fit the grid or each other."""
    tokens = prod([axis.length for axis in axes])
    fits = (
        q.ndim == k.ndim == v.ndim == 4
        and q.shape[2] == k.shape[2] == v.shape[2] == tokens
        and q.shape[-1] == k.shape[-1]
        and k.shape[1] == v.shape[1]
        and q.shape[1] % k.shape[1] == 0
    )
    if not fits:
        raise KernelError(
            f"neighbourhood attention over {[a.length for a in axes]} takes q b h {tokens} d, "
            f"k b g {tokens} d and v b g {tokens} e with h a multiple of g, not "
            f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
        )
    if (extra_k is None) != (extra_v is None):
        raise KernelError("extra keys need extra values: give extra_k and extra_v, or neither")
