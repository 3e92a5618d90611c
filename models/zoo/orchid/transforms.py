"""The transforms along time under which Orchid multiplies: Fourier's and the cosine ones.

A product of cosine spectra is a circular convolution too, of the sequence followed by its mirror
image; so one op serves all transforms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ....kernels.shared import wide
from ....probe.errors import OptionError, near


@dataclass(frozen=True)
class Transform:
    """One transform of the last axis, `... n`.

    name    as configurations spell it
    kind    fft: the half spectrum, complex; dct1, dct2: cosines, real
    scale   forward: 1/n; ortho: an orthonormal matrix; plain: as summed
    fixed   whether it is a matrix of l_max points, so that no other length will do
    """

    name: str
    kind: Literal["fft", "dct1", "dct2"]
    scale: Literal["forward", "ortho", "plain"]
    fixed: bool = False

    @property
    def complex(self) -> bool:
        """Whether its values are complex."""
        return self.kind == "fft"

    def forward(self, x: Tensor, n: int) -> Tensor:
        """The spectrum of x followed by zeros to n points."""
        x = F.pad(wide(x), (0, n - x.shape[-1]))
        if self.kind == "fft":
            spectrum: Tensor = torch.fft.rfft(x)
            return spectrum * self._factor(n)
        waves = torch.fft.rfft(self.extended(x))
        if self.kind == "dct1":
            return waves.real
        turn = self._turn(n, x)
        return (waves[..., :n] * turn.conj()).real * self._weights(n, x)

    def inverse(self, spectrum: Tensor, n: int) -> Tensor:
        """The n points whose spectrum it is."""
        out: Tensor
        if self.kind == "fft":
            out = torch.fft.irfft(spectrum / self._factor(n), n=n)
            return out
        if self.kind == "dct1":
            out = torch.fft.irfft(self.waves(spectrum), n=2 * n - 2)
            return out[..., :n]
        waves = spectrum / self._weights(n, spectrum) * self._turn(n, spectrum)
        out = torch.fft.irfft(F.pad(waves, (0, 1)), n=2 * n)
        return out[..., :n]

    def extended(self, x: Tensor) -> Tensor:
        """What goes round when a product of spectra is a circular convolution.

        x itself; dct2: x and its mirror image; dct1: the same without the two ends again.
        """
        if self.kind == "fft":
            return x
        mirrored = x.flip(-1)
        return torch.cat([x, mirrored if self.kind == "dct2" else mirrored[..., 1:-1]], -1)

    def folded(self, whole: Tensor, n: int) -> Tensor:
        """Rows and columns of the n tokens in a map over extended ones, `... n n`.

        What a mirrored token gives is added to what its original gives.
        """
        rows = whole[..., :n, :]
        own, mirrored = rows[..., :n], rows[..., n:].flip(-1)
        if self.kind == "dct1":
            mirrored = F.pad(mirrored, (1, 1))
        return own if self.kind == "fft" else own + mirrored

    def waves(self, spectrum: Tensor) -> Tensor:
        """The half spectrum of `extended` points that multiplies like this spectrum."""
        if self.kind == "fft":
            return spectrum
        wave = torch.complex(spectrum, torch.zeros_like(spectrum))
        return F.pad(wave, (0, 1)) if self.kind == "dct2" else wave

    def checked(self, n: int, l_max: int) -> int:
        """n, where it is a length that this transform takes. Raises OptionError."""
        least = 2 if self.kind == "dct1" else 1
        if n < least or n > l_max or (self.fixed and n != l_max):
            may = str(l_max) if self.fixed else f"{least} to {l_max}"
            raise OptionError(
                f"{n} tokens were given to an Orchid of l_max={l_max} under {self.name!r}: give "
                f"{may} tokens, or build it with another l_max"
            )
        return n

    def _factor(self, n: int) -> float:
        return 1 / n if self.scale == "forward" else n**-0.5

    def _turn(self, n: int, like: Tensor) -> Tensor:
        """exp(i pi k / 2n): the mirrored points lie half a step beside the middle."""
        angle = math.pi / (2 * n) * torch.arange(n, device=like.device, dtype=like.dtype)
        return torch.polar(torch.ones_like(angle), angle)

    def _weights(self, n: int, like: Tensor) -> Tensor:
        ones = like.new_ones(n)
        if self.scale != "ortho":
            return ones
        return F.pad(ones[1:] * (2 * n) ** -0.5, (1, 0), value=(4 * n) ** -0.5)


TRANSFORMS = {
    one.name: one
    for one in (
        Transform("fft", "fft", "forward"),
        Transform("fft-o", "fft", "ortho"),
        Transform("dct1", "dct1", "plain"),
        Transform("dct", "dct2", "plain"),
        Transform("dct2", "dct2", "plain"),
        Transform("dctxd", "dct2", "plain", fixed=True),
        Transform("dctxd-o", "dct2", "ortho", fixed=True),
    )
}


def transform(name: str) -> Transform:
    """A transform by name. Raises OptionError for an unknown one."""
    if name not in TRANSFORMS:
        raise OptionError(
            f"there is no transform dxt={name!r}{near(name, TRANSFORMS)}; there are "
            f"{', '.join(TRANSFORMS)}"
        )
    return TRANSFORMS[name]
