"""Energy of activations in a band of spatial frequencies (the view of HiLo, arXiv 2205.13213)."""

from __future__ import annotations

import torch
from torch import Tensor

from ...kernels.shared import wide
from ...probe.attribution import method
from ...probe.errors import OptionError
from ..metrics import frequencies


@method("band_energy", sites="hidden", places="several")
def band_energy(act: Tensor, *, low: float = 0.25, high: float = 1.0) -> Tensor:
    """sum_c x_c^2 where x holds the frequencies low <= f < high alone, in cycles a place.

    Along an axis 1/2 is the highest frequency; low=0 keeps the mean. The map sums up to the power
    of the activations between the two. Knows no class. Raises OptionError for an empty band.
    """
    if not 0 <= low < high:
        raise OptionError(
            f"a band from {low} to {high} cycles a place is empty: give 0 <= low < high"
        )
    x, axes = wide(act), tuple(range(2, act.ndim))
    at = frequencies(tuple(x.shape[2:]), x)
    spectrum = torch.fft.fftn(x, dim=axes) * ((at >= low) & (at < high))
    return torch.fft.ifftn(spectrum, dim=axes).real.square().sum(1).to(act.dtype)
