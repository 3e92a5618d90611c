"""A convolution with its norm and activation."""

from __future__ import annotations

from torch import Tensor, nn

from .norms import NormAct


class ConvNormAct(nn.Module):
    """Convolution, batch norm, activation."""

    def __init__(
        self,
        inputs: int,
        out: int,
        kernel: int,
        stride: int = 1,
        act: str = "",
        groups: int = 1,
        *,
        eps: float,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = NormAct(out, eps, act)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))
