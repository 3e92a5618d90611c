"""How weights start."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

Draw = Callable[[Tensor], object]
TRUNCATED: Draw = partial(nn.init.trunc_normal_, std=0.02)


def init_weights(net: nn.Module, *kinds: type[nn.Module], draw: Draw = TRUNCATED) -> None:
    """Draw the weights of layers of these kinds, by a truncated normal of 0.02; biases are 0."""
    for part in net.modules():
        if isinstance(part, kinds):
            draw(part.weight)  # type: ignore[arg-type]
            bias = getattr(part, "bias", None)
            if bias is not None:
                nn.init.zeros_(bias)
