"""Orchid's filters to look at: what every sequence meets, and what each makes for itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .transforms import Transform


@dataclass(frozen=True)
class Filters:
    """A filter of all sequences and one that each sequence made, as both multiply its spectrum.

    static_spectrum     `1 c f`, without the bias, which is a first tap for itself
    adaptive_spectrum   `b c f`
    length              n, the tokens
    """

    static_spectrum: Tensor
    adaptive_spectrum: Tensor
    length: int
    dxt: Transform

    @property
    def static(self) -> Tensor:
        """Taps in time by lag modulo their number, `1 c l`: l is n, 2 n or 2 n - 2, see dxt."""
        return self._taps(self.static_spectrum)

    @property
    def adaptive(self) -> Tensor:
        """Those that the sequence made, `b c l`."""
        return self._taps(self.adaptive_spectrum)

    @property
    def static_energy(self) -> Tensor:
        """The sum of squared taps, `1 c`."""
        return self.static.square().sum(-1)

    @property
    def adaptive_energy(self) -> Tensor:
        """The sum of squared taps, `b c`."""
        return self.adaptive.square().sum(-1)

    @property
    def adaptive_share(self) -> Tensor:
        """adaptive / (adaptive + static) energy, `b c`, 0 to 1; nan where both are 0."""
        made = self.adaptive_energy
        return made / (made + self.static_energy)

    def _taps(self, spectrum: Tensor) -> Tensor:
        points = {"fft": self.length, "dct2": 2 * self.length, "dct1": 2 * self.length - 2}
        taps: Tensor = torch.fft.irfft(self.dxt.waves(spectrum), n=points[self.dxt.kind])
        return taps
