"""A name for a value inside a forward: invisible to the model, a site to the probe."""

from __future__ import annotations

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary


def mark(name: str, x: Tensor) -> Tensor:
    """Return `x` itself; under a probe the value becomes the site `<module path>:<name>`.

    Costs about 0.2 us without a probe, scripts, and leaves no trace in compiled graphs.

    Example:
        >>> class Gated(nn.Module):
        ...     def forward(self, x):
        ...         return x * ll.mark("gate", x.sigmoid())
        >>> ll.trace(Gated(), x, ":gate")[":gate"].act.shape
        torch.Size([2, 3, 8, 8])
    """
    if has_torch_function_unary(x):
        return handle_torch_function(mark, (x,), name, x)
    return x
