"""How weights start."""

from __future__ import annotations

from torch import nn


def init_linear(net: nn.Module) -> None:
    """Linear layers by a truncated normal of 0.02, without bias."""
    for part in net.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
