"""What a learned map is made of beside its tensors, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .arguments import Functions, KanArguments, Order
from .bases import curves
from .rows import reduced_rows


@dataclass(frozen=True)
class KanForm:
    """The options of `kan_attention`, which says what each is. A module's `form`, for readers."""

    basis: str = "fourier"
    base: str = "zero"
    order: Order = "w_phi"
    simplex: bool = False
    softmax_heads: tuple[int, ...] = ()

    @property
    def options(self) -> dict[str, Any]:
        """As keywords of the op."""
        names = ("basis", "base", "order", "simplex", "softmax_heads")
        return {name: getattr(self, name) for name in names}

    def curves(self, x: Tensor, f: Functions) -> Tensor:
        """phi_pq at the numbers x, `x` -> `h p q x`."""
        own = f.a, f.b, f.scale_base, f.scale_sp
        return curves(x, *own, basis=self.basis, base=self.base)

    def reduced(self, q: Tensor, k: Tensor, **tensors: Tensor | None) -> Tensor:
        """What the last step of the order acts on, `b h n r`: Phi(A), W A or Phi1(A).

        tensors  those of the op, by its names
        """
        given: dict[str, Any] = {**tensors, **self.options}
        return reduced_rows(KanArguments(q, k, k, **given).learned())
