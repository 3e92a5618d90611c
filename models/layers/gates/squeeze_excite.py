"""Squeeze-and-excitation (arXiv 1709.01507): channels gated by their mean over the picture."""

from __future__ import annotations

from torch import Tensor, nn

from ....probe.mark import mark
from ..activations import activation


class SqueezeExcite(nn.Module):
    """A gate for each channel from the mean over positions; port `gate`.

    squeezed   channels between the two maps; a multiple of 8 near dim / 16 unless given
    names      of the two maps
    """

    def __init__(
        self,
        dim: int,
        squeezed: int | None = None,
        act: str = "relu",
        *,
        names: tuple[str, str] = ("fc1", "fc2"),
    ) -> None:
        super().__init__()
        squeezed = divisible(dim / 16, least=0.0) if squeezed is None else squeezed
        self.add_module(names[0], nn.Conv2d(dim, squeezed, 1))
        self.act = activation(act).module()
        self.add_module(names[1], nn.Conv2d(squeezed, dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        gate = x.mean((2, 3), keepdim=True)
        for part in self.children():
            gate = part(gate)
        return x * mark("gate", gate.sigmoid())


def divisible(value: float, by: int = 8, least: float = 0.9) -> int:
    """The nearest multiple, at least one, and not under `least` of the value."""
    new = max(by, int(value + by / 2) // by * by)
    return new if new >= least * value else new + by
