"""What a layer or a marked value holds, as it is: no class, no gradient."""

from __future__ import annotations

from torch import Tensor

from ...probe.attribution import method
from ..gradients import Reduce, reduce_channels


@method("activation", sites="hidden")
def activation(act: Tensor, *, reduce: Reduce = "sum", channels: bool = False) -> Tensor:
    """The values at a site over its places: gates, coefficients, attention over a picture.

    reduce    signed sum over the channels, largest or mean size, or norm
    channels  with reduce=sum, a map of each channel instead of their sum
    """
    return reduce_channels(act, reduce, channels)
