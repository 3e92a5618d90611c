"""How large activations are at each place."""

from __future__ import annotations

from torch import Tensor

from ...kernels.shared import wide
from ...probe.attribution import method


@method("magnitude", sites="hidden")
def magnitude(act: Tensor) -> Tensor:
    """(sum_c x_c^2)^0.5: the length of the vector at each place; of offsets, how far they reach."""
    return wide(act).norm(dim=1).to(act.dtype)
