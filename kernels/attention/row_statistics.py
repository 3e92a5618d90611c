"""Plain softmax attention and the statistics of its map in one pass over blocks of queries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import KernelError
from ..map_statistics import distances, fits, peak

CACHE = 3 << 19  # bytes of scores that stay near the processor
BARE = ("bias", "position", "gate", "rows", "columns", "keep", "window")


def plain(call: Mapping[str, Any]) -> bool:
    """Whether a call is softmax(scale q k') v in float32 and no gradient of it is asked for."""
    q, k, v = call["q"], call["k"], call["v"]
    return (
        all(call.get(name) is None for name in BARE)
        and not call["causal"]
        and call["score"] == "softmax"
        and {x.dtype for x in (q, k, v)} <= {torch.float32, torch.float64}
        and q.shape[1] == k.shape[1]
        and not (torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)))
        and q.device.type == "cpu"
    )


@torch.no_grad()
def measured(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None,
    *,
    grid: tuple[int, int] | None,
    radius: float | None,
    pool: int | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Result and statistics from rows s of scores and their softmax p.

    entropy = log sum exp s - sum p s, where log sum exp s = max s - log max p;
    distance = sum p d. Two blocks of rows are held.
    """
    if radius is not None and grid is None:
        raise KernelError("a mass within a radius needs the grid that tokens lie on: give grid=")
    if grid is not None:
        fits(grid, 1, q.shape[-2], k.shape[-2])
    (b, h, n, d), m = q.shape, k.shape[-2]
    queries = q.flatten(0, 1) * (d**-0.5 if scale is None else scale)
    keys, values = k.flatten(0, 1).mT.contiguous(), v.flatten(0, 1)
    block = max(32, min(256, CACHE // (b * h * m * q.element_size())))
    block = block if pool is None else -(-block // pool) * pool
    held = torch.empty(2, b * h, min(block, n), m, dtype=q.dtype)
    out = q.new_empty(b * h, n, v.shape[-1])
    found: dict[str, list[Tensor]] = {}
    for start in range(0, n, block):
        span = slice(start, min(start + block, n))
        count = span.stop - start
        scores = torch.bmm(queries[:, span], keys, out=held[0, :, :count])
        share = torch.softmax(scores, -1, out=held[1, :, :count])
        out[:, span] = torch.bmm(share, values)
        level = scores.amax(-1) - share.amax(-1).log()
        own = {"entropy": level - torch.linalg.vecdot(share, scores)}
        if grid is not None:
            far = distances(grid, 1, q.device, q.dtype, span)
            own["distance"] = torch.linalg.vecdot(share, far)
            if radius is not None:
                own["mass"] = torch.linalg.vecdot(share, (far <= radius).to(share))
        if pool is not None:
            own["peak"] = peak(share.unflatten(0, (b, h)), pool).flatten(0, 1)
        for name, x in own.items():
            found.setdefault(name, []).append(x)
    made = {name: torch.cat(parts, 1).unflatten(0, (b, h)) for name, parts in found.items()}
    return out.unflatten(0, (b, h)), made
