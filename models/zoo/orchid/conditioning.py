"""The networks that make Orchid's filters from the sequence, shift equivariant by design."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ....kernels.shared import wide
from ....probe.errors import OptionError, near
from ...layers import activation
from .transforms import Transform

Function = Callable[[Tensor], Tensor]
KINDS: dict[str, tuple[str, ...]] = {
    "absfreq": ("convtf", "convt", "convf"),
    "freq": ("convtf", "convt", "convf"),
    "corrTime": ("convtf", "convt"),
}
Padding = Literal["zeros", "reflect", "replicate", "circular"]


@dataclass(frozen=True)
class ConvKernel:
    """How the filter is made, a configuration's `conv_kernel`.

    type    absfreq: from magnitudes of the spectrum; freq: from its real and imaginary parts, which
            is not shift equivariant; corrTime: the cross-correlation of two convolutions
    nn      convolutions along time and frequency: convtf both, convt, convf
    conv_filter_size, padding_mode, bias   of these convolutions; the size is odd
    n_layer, activation   how many of them, with an activation between two; a norm behind each
    actq    corrTime's function of the query's spectrum, "id" for none; of real and imaginary parts
            each, or with "_abs" behind its name of the magnitude
    """

    type: str = "absfreq"
    nn: str = "convtf"
    conv_filter_size: int = 3
    padding_mode: Padding = "zeros"
    norm: str | None = "layernorm"
    n_layer: int = 1
    activation: str = "gelu"
    actq: str = "id"
    bias: bool = True

    @staticmethod
    def of(given: Mapping[str, Any] | None) -> ConvKernel:
        """From a configuration, checked. Raises OptionError."""
        known = [field.name for field in fields(ConvKernel)]
        if unknown := [key for key in given or {} if key not in known]:
            raise OptionError(
                f"conv_kernel has no option {unknown[0]!r}{near(unknown[0], known)}; there are "
                f"{', '.join(known)}"
            )
        return ConvKernel(**(given or {}))._checked()

    @property
    def along_time(self) -> bool:
        """Whether a convolution runs along time."""
        return self.nn in ("convtf", "convt")

    @property
    def along_frequency(self) -> bool:
        """Whether one runs along frequency."""
        return self.nn in ("convtf", "convf")

    def _checked(self) -> ConvKernel:
        allowed = (
            ("type", self.type, tuple(KINDS)),
            ("nn", self.nn, KINDS.get(self.type, ())),
            ("padding_mode", self.padding_mode, get_args(Padding)),
            ("norm", self.norm, ("layernorm", None)),
        )
        for name, value, words in allowed:
            if value not in words:
                raise OptionError(
                    f"conv_kernel {name}={value!r} of type {self.type!r} is not known: give "
                    f"{', '.join(map(repr, words))}"
                )
        if self.conv_filter_size < 1 or self.conv_filter_size % 2 == 0 or self.n_layer < 1:
            raise OptionError(
                f"conv_filter_size={self.conv_filter_size} and n_layer={self.n_layer} of "
                "conv_kernel cannot be built: give an odd size, and one layer or more"
            )
        function(self.actq)
        return self


def function(name: str) -> Function:
    """An activation of real values by name, "id" and "tanh" among them; "_abs" is left out."""
    word = name.removesuffix("_abs")
    plain: dict[str, Function] = {"id": lambda x: x, "tanh": torch.tanh}
    return plain[word] if word in plain else activation(word).function


def of_spectrum(name: str, x: Tensor) -> Tensor:
    """The function on a spectrum: f(|x|) e^(i arg x) with "_abs", else on each part."""
    act = function(name)
    if name == "id":
        return x
    if name.endswith("_abs"):
        size = x.abs()
        return x * (act(size) / size.clamp_min(torch.finfo(size.dtype).eps))
    return torch.complex(act(x.real), act(x.imag)) if x.is_complex() else act(x)


class KernelNorm(nn.Module):
    """Layer norm over channels, under the name that files give it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm_conv_kernel = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm_conv_kernel(x)


class CustomConv(nn.Module):
    """Convolutions along the second axis, `b n c`: activation between two, a norm behind each.

    channels   in and out; of more layers than one the first goes from the one to the other
    groups     of the first layer, and those behind it are depthwise
    """

    def __init__(self, channels: tuple[int, int], groups: int, form: ConvKernel) -> None:
        super().__init__()
        inside, out = channels
        conv = partial(
            nn.Conv1d,
            kernel_size=form.conv_filter_size,
            padding=form.conv_filter_size // 2,
            padding_mode=form.padding_mode,
            bias=form.bias,
        )
        layers = [conv(inside, out, groups=groups)]
        layers += [conv(out, out, groups=out) for _ in range(form.n_layer - 1)]
        self.act = activation(form.activation).function
        self.conv1d_ls = nn.ModuleList(layers)
        norms = (KernelNorm(out) if form.norm else nn.Identity() for _ in layers)
        self.norm_ls = nn.ModuleList(norms)

    def forward(self, x: Tensor) -> Tensor:
        last = len(self.conv1d_ls) - 1
        for n, (conv, norm) in enumerate(zip(self.conv1d_ls, self.norm_ls, strict=True)):
            x = conv(x.mT).mT
            x = norm(x if n == last else self.act(x))
        return x


class Spectral(nn.Module):
    """Type I: the filter from the magnitude, or from the parts, of the sequence's spectrum.

    Gives the filter's spectrum `b c f`; of 2 n points where `twice`, but for a transform of fixed
    size.
    """

    def __init__(self, dim: int, dxt: Transform, form: ConvKernel, *, twice: bool) -> None:
        super().__init__()
        self.dxt, self.twice, self.parts = dxt, twice, form.type == "freq"
        self.nn_model = CustomConv((dim, dim), dim, form) if form.along_time else None
        out = 2 * dim if dxt.complex else dim
        inside = out if self.parts else dim
        self.nn_model2 = CustomConv((inside, out), dim, form) if form.along_frequency else None

    def points(self, n: int) -> int:
        """Points of the transform for n tokens."""
        return 2 * n if self.twice and not self.dxt.fixed else n

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        x = x if self.nn_model is None else self.nn_model(x)
        waves = self.dxt.forward(x.mT, self.points(n))
        if self.nn_model2 is None and self.parts:
            return waves
        seen = self._seen(waves)
        if self.nn_model2 is None:
            return torch.complex(seen, torch.zeros_like(seen)) if self.dxt.complex else seen
        made = wide(self.nn_model2(seen.mT.to(x.dtype))).mT
        if not self.dxt.complex:
            return made
        return torch.complex(made[:, 0::2].contiguous(), made[:, 1::2].contiguous())

    def _seen(self, waves: Tensor) -> Tensor:
        """What the convolution along frequency sees of the spectrum."""
        if self.parts:
            return torch.cat([waves.real, waves.imag], 1) if self.dxt.complex else waves
        if self.dxt.complex:
            return waves.real.square() + waves.imag.square()
        return waves.abs()


class CrossCorrelation(nn.Module):
    """Type II: conj(K) Q of two convolutions of the sequence, `b c f`; perhaps one more on it."""

    def __init__(self, dim: int, dxt: Transform, form: ConvKernel) -> None:
        super().__init__()
        self.dxt, self.actq = dxt, form.actq
        self.nn_model_k = CustomConv((dim, dim), dim, form)
        self.nn_model_q = CustomConv((dim, dim), dim, form)
        parts = 2 * dim if dxt.complex else dim
        self.nn_model_frq = CustomConv((parts, parts), dim, form) if form.along_frequency else None

    def points(self, n: int) -> int:
        """Points of the transform for n tokens."""
        return n

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        k = self.dxt.forward(self.nn_model_k(x).mT, n)
        q = of_spectrum(self.actq, self.dxt.forward(self.nn_model_q(x).mT, n))
        waves = k.conj() * q
        if self.nn_model_frq is None:
            return waves
        if not self.dxt.complex:
            return wide(self.nn_model_frq(waves.mT.to(x.dtype))).mT
        parts = torch.cat([waves.real, waves.imag], 1).mT.to(x.dtype)
        real, imaginary = wide(self.nn_model_frq(parts)).mT.chunk(2, 1)
        return torch.complex(real.contiguous(), imaginary.contiguous())


def conditioning(dim: int, dxt: Transform, form: ConvKernel, *, causal: bool) -> nn.Module:
    """The network of a configuration. Raises OptionError."""
    if form.type != "corrTime":
        return Spectral(dim, dxt, form, twice=causal)
    if causal:
        raise OptionError(
            "conv_kernel type 'corrTime' was asked with causal=True, whose transform is twice as "
            "long as the filter: give causal=False"
        )
    return CrossCorrelation(dim, dxt, form)
