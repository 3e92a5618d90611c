"""Spatial frequencies: power spectra of maps and features, the share of high ones (2205.13213)."""

from __future__ import annotations

import torch
from torch import Tensor

from ...kernels.shared import wide
from ...probe.errors import OptionError
from .registry import flat, metric


def power_spectrum(x: Tensor) -> Tensor:
    """|FFT|^2 / places of `b c` and places, averaged over channels: `b` and frequencies.

    The frequency 0 is in the middle, at side // 2 of each axis, as figures show it. The sum over
    frequencies is that of the squares over places, averaged over channels.
    """
    axes = tuple(range(2, x.ndim))
    power = torch.fft.fftn(wide(x), dim=axes, norm="ortho").abs().square().mean(1)
    return torch.fft.fftshift(power, dim=tuple(axis - 1 for axis in axes))


def frequencies(sides: tuple[int, ...], like: Tensor) -> Tensor:
    """Cycles a place of each entry of an FFT over such sides, before it is shifted; 0 to d^.5 / 2.

    Along one axis 1/2 is the highest there is; over several it is the length of the vector.
    """
    square = torch.zeros((), dtype=like.dtype, device=like.device)
    for axis, side in enumerate(sides):
        along = torch.fft.fftfreq(side, dtype=like.dtype, device=like.device).square()
        square = square + along.reshape(-1, *[1] * (len(sides) - axis - 1))
    return square.sqrt()


def radial_spectrum(x: Tensor, *, bins: int = 8) -> tuple[Tensor, Tensor]:
    """Mean power in rings of frequency, 0 to 1/2 cycles a place: their middles, and `b bins`.

    x: `b c` and places. Frequencies beyond 1/2, the corners of the spectrum, are left out; a ring
    that holds no frequency of a small map is NaN. Raises OptionError for no rings.
    """
    if bins < 1:
        raise OptionError(f"bins={bins} makes no rings of frequency: give 1 or more")
    power = power_spectrum(x)
    sides = tuple(power.shape[1:])
    at = torch.fft.fftshift(frequencies(sides, power)).flatten()
    ring = (at * 2 * bins).long().clamp(max=bins - 1)
    inside = at <= 0.5
    sums = power.new_zeros(len(power), bins).index_add(1, ring[inside], power.flatten(1)[:, inside])
    counts = torch.bincount(ring[inside], minlength=bins)
    middles = (torch.arange(bins, dtype=power.dtype, device=power.device) + 0.5) / (2 * bins)
    return middles, sums / counts


@metric("high_frequency", "Complexity", better="")
def high_frequency(saliency: Tensor, *, cutoff: float = 0.25) -> Tensor:
    """The share of a map's power, its mean aside, above a frequency in cycles a place.

    0.25, half of the highest along an axis, parts coarse from fine; NaN for a constant map.
    Raises OptionError for a cutoff that is negative.
    """
    if cutoff < 0:
        raise OptionError(f"cutoff={cutoff} is no frequency: give 0 or more cycles a place")
    rows = flat(saliency).reshape(saliency.shape)
    axes = tuple(range(1, rows.ndim))
    centred = rows - rows.mean(axes, keepdim=True)
    power = torch.fft.fftn(centred, dim=axes).abs().square().flatten(1)
    high = frequencies(tuple(rows.shape[1:]), power).flatten() > cutoff
    return power[:, high].sum(1) / power.sum(1)
