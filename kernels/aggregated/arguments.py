"""The arguments of one call of aggregated attention, and what does not fit among them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..errors import KernelError

Pair = tuple[int, int]


@dataclass(frozen=True)
class AggregatedArguments:
    """One call; see `aggregated_attention`."""

    q: Tensor
    k: Tensor
    v: Tensor
    grid: Pair
    pool: Pair
    kernel_size: int = 3
    embedding: Tensor | None = None
    scale: Tensor | None = None
    local_bias: Tensor | None = None
    pool_bias: Tensor | None = None
    table: Tensor | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The arguments that are tensors."""
        options = self.embedding, self.scale, self.local_bias, self.pool_bias, self.table
        return (self.q, self.k, self.v, *(x for x in options if x is not None))

    @property
    def tokens(self) -> int:
        """How many tokens the grid has."""
        return self.grid[0] * self.grid[1]

    @property
    def pooled(self) -> int:
        """How many pooled keys there are."""
        return self.pool[0] * self.pool[1]

    @property
    def window(self) -> int:
        """How many cells a window has."""
        return self.kernel_size**2


def check(x: AggregatedArguments) -> None:
    """Raise KernelError for options or shapes that do not fit."""
    if len(x.grid) != 2 or len(x.pool) != 2 or min(*x.grid, *x.pool) < 1:
        raise KernelError(
            f"aggregated attention got grid={x.grid} and pool={x.pool}: give rows and columns of "
            "the tokens and of the pooled keys"
        )
    if x.kernel_size < 1 or x.kernel_size % 2 == 0:
        raise KernelError(
            f"a window of {x.kernel_size} x {x.kernel_size} has no middle: give an odd kernel_size"
        )
    n, m = x.tokens, x.tokens + x.pooled
    shapes = [tuple(t.shape) for t in (x.q, x.k, x.v)]
    fits = (
        x.q.ndim == x.k.ndim == x.v.ndim == 4
        and x.q.shape[2] == n
        and x.k.shape[2] == x.v.shape[2] == m
        and x.q.shape[:2] == x.k.shape[:2] == x.v.shape[:2]
        and x.q.shape[3] == x.k.shape[3]
    )
    if not fits:
        raise KernelError(
            f"aggregated attention over {x.grid[0]} x {x.grid[1]} tokens and {x.pool[0]} x "
            f"{x.pool[1]} pooled keys takes q b h {n} d, k b h {m} d and v b h {m} e, tokens "
            f"first, not q {shapes[0]}, k {shapes[1]}, v {shapes[2]}"
        )
    b, h, _, d = x.q.shape
    for name, want in {
        "embedding": (h, d),
        "scale": (h, n),
        "local_bias": (h, x.window),
        "pool_bias": (h, n, x.pooled),
        "table": (b, h, n, x.window),
    }.items():
        given = getattr(x, name)
        if given is not None and tuple(given.shape) != want:
            raise KernelError(
                f"{name} of aggregated attention has the shape {tuple(given.shape)}, but its "
                f"queries, window and pooled keys ask for {want}"
            )
