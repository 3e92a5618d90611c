"""The arguments of attention as one record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..windows import Window

Score = Literal["softmax", "sigmoid"]


@dataclass(frozen=True, eq=False)
class AttentionArguments:
    """What `attention` was called with; its docstring says what each is."""

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None = None
    position: Tensor | None = None
    gate: Tensor | None = None
    rows: Tensor | None = None
    columns: Tensor | None = None
    keep: Tensor | None = None
    mask: Tensor | None = None
    scale: float | None = None
    causal: bool = False
    window: Window | None = None
    score: Score = "softmax"
    slopes: Tensor | None = None
    row_factor: Tensor | None = None
    left: int | None = None
    right: int | None = None

    @property
    def factor(self) -> float:
        """What scores are multiplied by."""
        return self.q.shape[-1] ** -0.5 if self.scale is None else self.scale

    @property
    def last(self) -> int | None:
        """How many keys beyond its own place a query sees; None for all."""
        return 0 if self.causal else self.right

    @property
    def stride(self) -> int:
        """How many rows and columns of keys lie between queries."""
        return 1 if self.window is None else self.window.stride

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Those that are there."""
        scores = self.bias, self.slopes, self.position, self.gate, self.rows, self.columns
        some = *scores, self.keep, self.mask, self.row_factor
        return (self.q, self.k, self.v, *(x for x in some if x is not None))
