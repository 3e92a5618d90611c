"""The pre-norm transformer block."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .drop_path import dropped
from .norms import LayerScale


class Block(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)).

    drop   share of the branches that are left out in training
    What else the call gives goes to the attention.
    """

    def __init__(
        self, dim: int, attn: nn.Module, mlp: nn.Module, eps: float, drop: float = 0.0
    ) -> None:
        super().__init__()
        self.drop = drop
        self.norm1 = nn.LayerNorm(dim, eps)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps)
        self.mlp = mlp

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        x = x + dropped(self.attn(self.norm1(x), *context), self.drop, self.training)
        return x + dropped(self.mlp(self.norm2(x)), self.drop, self.training)


class ScaledBlock(Block):
    """The same with a learned scale of channels behind each branch, ls1 and ls2."""

    def __init__(
        self,
        dim: int,
        attn: nn.Module,
        mlp: nn.Module,
        eps: float,
        drop: float = 0.0,
        *,
        start: float,
    ) -> None:
        super().__init__(dim, attn, mlp, eps, drop)
        self.ls1, self.ls2 = LayerScale(dim, start), LayerScale(dim, start)

    def forward(self, x: Tensor, *context: Any) -> Tensor:
        out = self.ls1(self.attn(self.norm1(x), *context))
        x = x + dropped(out, self.drop, self.training)
        return x + dropped(self.ls2(self.mlp(self.norm2(x))), self.drop, self.training)
