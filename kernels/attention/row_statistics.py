"""Plain softmax attention and the statistics of its map in one pass over blocks of queries."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import KernelError
from ..shared import distances, fits, peak
from .arguments import AttentionArguments
from .map_rows import scores

CACHE = 3 << 19  # bytes of scores that stay near the processor


def plain(x: AttentionArguments) -> bool:
    """Whether a call is softmax(scale q k') v in float32 and no gradient of it is asked for."""
    return (
        len(x.tensors) == 3
        and x.window is None
        and x.last is None
        and x.left is None
        and x.score == "softmax"
        and {t.dtype for t in x.tensors} <= {torch.float32, torch.float64}
        and x.q.shape[1] == x.k.shape[1] == x.v.shape[1]
        and not (torch.is_grad_enabled() and any(t.requires_grad for t in x.tensors))
        and x.q.device.type == "cpu"
    )


@torch.no_grad()
def measured(
    x: AttentionArguments,
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
        fits(grid, 1, x.q.shape[-2], x.k.shape[-2])
    (b, h, n, _), m = x.q.shape, x.k.shape[-2]
    queries, keys, values = (t.flatten(0, 1) for t in (x.q, x.k, x.v))
    keys = keys.mT.contiguous().mT
    block = max(32, min(256, CACHE // (b * h * m * x.q.element_size())))
    block = block if pool is None else -(-block // pool) * pool
    held = torch.empty(2, b * h, min(block, n), m, dtype=x.q.dtype)
    out = x.q.new_empty(b * h, n, x.v.shape[-1])
    parts: dict[str, list[Tensor]] = {}
    for start in range(0, n, block):
        span = slice(start, min(start + block, n))
        count = span.stop - start
        s = scores(queries[:, span], keys, x.factor, out=held[0, :, :count])
        p = torch.softmax(s, -1, out=held[1, :, :count])
        out[:, span] = torch.bmm(p, values)
        level = s.amax(-1) - p.amax(-1).log()
        statistics = {"entropy": level - torch.linalg.vecdot(p, s)}
        if grid is not None:
            far = distances(grid, 1, x.q.device, x.q.dtype, span)
            statistics["distance"] = torch.linalg.vecdot(p, far)
            if radius is not None:
                statistics["mass"] = torch.linalg.vecdot(p, (far <= radius).to(p))
        if pool is not None:
            statistics["peak"] = peak(torch.unflatten(p, 0, (b, h)), pool).flatten(0, 1)
        for name, value in statistics.items():
            parts.setdefault(name, []).append(value)
    whole = {name: torch.unflatten(torch.cat(x, 1), 0, (b, h)) for name, x in parts.items()}
    return torch.unflatten(out, 0, (b, h)), whole
