"""Numbers of a mixing map, from blocks of its rows: the whole n x m is never held."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import KernelError

Rows = Callable[[slice], Tensor]


def reduced(
    rows: Rows,
    count: int,
    *,
    grid: tuple[int, int] | None = None,
    radius: float | None = None,
    pool: int | None = None,
    stride: float = 1,
    block: int = 128,
) -> dict[str, Tensor]:
    """Entropy of each row; on a grid its mean distance and mass within a radius; pooled peaks.

    rows    a slice of queries -> those rows of the map, `b h r m`
    stride  queries lie on the grid of the keys, each in the middle of stride x stride of them; a
            fraction where keys are the coarser ones, as 1/2 for keys that stand for 2 x 2 queries
    Raises KernelError for a grid of other tokens, and a radius without a grid.
    """
    if radius is not None and grid is None:
        raise KernelError("a mass within a radius needs the grid that tokens lie on: give grid=")
    if pool is not None and pool < 1:
        raise KernelError(f"peaks of blocks of {pool} tokens make no sense: give pool=1 or more")
    block = block if pool is None else -(-block // pool) * pool
    parts: dict[str, list[Tensor]] = {}

    def note(name: str, x: Tensor) -> None:
        parts.setdefault(name, []).append(x)

    for start in range(0, count, block):
        span = slice(start, min(start + block, count))
        part = rows(span)
        if grid is not None and not start:
            fits(grid, stride, count, part.shape[-1])
        note("entropy", entropy(part))
        if grid is not None:
            far = distances(grid, stride, part.device, part.dtype, span)
            note("distance", torch.linalg.vecdot(part, far))
            if radius is not None:
                note("mass", torch.linalg.vecdot(part, (far <= radius).to(part)))
        if pool is not None:
            note("peak", peak(part, pool))
    return {name: torch.cat(values, 2) for name, values in parts.items()}


def entropy(part: Tensor) -> Tensor:
    """- sum p log p over the last axis, in nats; 0 log 0 = 0."""
    tiny = torch.finfo(part.dtype).tiny
    expected: Tensor = torch.linalg.vecdot(part, part.clamp(min=tiny).log_())
    return -expected


def fits(grid: tuple[int, int], stride: float, queries: int, keys: int) -> None:
    """Raise KernelError where the tokens are not those of the grid."""
    rows, columns = query_grid(grid, stride)
    want = rows * columns, grid[0] * grid[1]
    if (queries, keys) != want:
        raise KernelError(
            f"a grid of {grid[0]} x {grid[1]} has {want[0]} queries and {want[1]} keys, but the "
            f"map has {queries} and {keys}: give the grid that its tokens lie on"
        )


def query_grid(grid: tuple[int, int], stride: float) -> tuple[int, int]:
    """Rows and columns of the queries beside a grid of keys."""
    return tuple(int(side / stride + 1e-6) for side in grid)  # type: ignore[return-value]


def distances(
    grid: tuple[int, int],
    stride: float,
    device: torch.device,
    dtype: torch.dtype,
    span: slice = slice(None),
) -> Tensor:
    """Euclidean distances of a span of queries to keys, `r m`, in steps of the keys' grid."""
    queries = _coordinates(query_grid(grid, stride), stride, device, dtype)[span]
    y, x = (torch.arange(side, device=device, dtype=dtype) for side in grid)
    rows, columns = (queries[:, :1] - y).square(), (queries[:, 1:] - x).square()
    return (rows[:, :, None] + columns[:, None]).sqrt_().flatten(1)


def _coordinates(
    grid: tuple[int, int], stride: float, device: torch.device, dtype: torch.dtype
) -> Tensor:
    y, x = ((torch.arange(side, device=device, dtype=dtype) + 0.5) * stride - 0.5 for side in grid)
    return torch.cartesian_prod(y, x).reshape(-1, 2)


def peak(part: Tensor, pool: int) -> Tensor:
    """The largest entry of each pool x pool block; blocks at the edges are smaller."""
    edges = [-part.shape[-1] % pool, -part.shape[-2] % pool]
    padded = F.pad(part, (0, edges[0], 0, edges[1]), value=-torch.inf)
    return torch.unflatten(F.max_pool2d(padded.flatten(0, 1), pool), 0, part.shape[:2])
