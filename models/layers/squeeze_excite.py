"""Squeeze-and-excitation (arXiv 1709.01507): channels gated by their mean over the picture."""

from __future__ import annotations

from torch import Tensor, nn

from ...probe.mark import mark
from .activations import activation


class SqueezeExcite(nn.Module):
    """A gate for each channel from the mean over positions; port `gate`.

    squeezed   channels between the two maps; a multiple of 8 near dim / 16 unless given
    """

    def __init__(self, dim: int, squeezed: int | None = None, act: str = "relu") -> None:
        super().__init__()
        squeezed = divisible(dim / 16, least=0.0) if squeezed is None else squeezed
        self.fc1 = nn.Conv2d(dim, squeezed, 1)
        self.act = activation(act).module()
        self.fc2 = nn.Conv2d(squeezed, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.fc2(self.act(self.fc1(x.mean((2, 3), keepdim=True)))).sigmoid()
        return x * mark("gate", gate)


def divisible(value: float, by: int = 8, least: float = 0.9) -> int:
    """The nearest multiple, at least one, and not under `least` of the value."""
    new = max(by, int(value + by / 2) // by * by)
    return new if new >= least * value else new + by
