"""BaseConv (arXiv 2312.04927): the canonical gated convolution, short or long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....kernels.long_convolution import long_convolution
from ....kernels.shared import wide
from ....probe.errors import OptionError
from ...card import FILTERS, Figure
from ...layers import Memory, Positions, check_length
from .decoding import no_steps, windowed
from .mixers import mixer


class ShortConvolution(nn.Module):
    """The weights of a causal depthwise convolution; as a filter over lags `d k`."""

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, kernel_size, groups=dim, padding=kernel_size - 1)

    def forward(self, length: int) -> Tensor:
        return self.conv.weight[:, 0].flip(-1)


class ImplicitLongConvolution(nn.Module):
    """A filter `d l` made by a network of one hidden layer from the position."""

    def __init__(self, dim: int, l_max: int, hidden: int = 16) -> None:
        super().__init__()
        self.pos_emb = Positions(l_max, 3, time=False)
        self.mlp = nn.Sequential(nn.Linear(3, hidden), nn.ReLU(), nn.Linear(hidden, dim))

    def forward(self, length: int) -> Tensor:
        return self.mlp(self.pos_emb(length))[0].mT


class LongConvolution(nn.Module):
    """A filter of free taps, `d l_max`.

    As published it is transformed over twice the tokens: of sequences shorter than l_max, taps
    from the length on are taken as lags into the future.
    """

    def __init__(self, dim: int, l_max: int) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.randn(dim, l_max))

    def forward(self, length: int) -> Tensor:
        check_length(length, self.filter.shape[1])
        if self.filter.shape[1] <= length + 1:  # none of them is there
            return self.filter
        return torch.fft.rfft(wide(self.filter), n=2 * length)


@mixer("baseconv", "zoology.mixers.base_conv.BaseConv")
class BaseConv(nn.Module):
    """conv(x) * (W x + b) + x, with `use_act` a SiLU on both factors.

    l_max               tokens at most of a long convolution
    kernel_size         taps of a short convolution, with a bias, or -1 for a long one, which adds
                        x itself; of a list, layer i has entry i
    implicit_long_conv  whether the long filter is made by a network, else its l_max taps are free
    Ports v, gate_out, filter, heads and map of the op; channels are its heads. The short one's
    bias is added behind the op, which leaves the map true.
    """

    shows: ClassVar[tuple[Figure, ...]] = (FILTERS,)

    def __init__(
        self,
        d_model: int,
        *,
        layer_idx: int = 0,
        l_max: int | None = None,
        kernel_size: int | Sequence[int] = 3,
        implicit_long_conv: bool = True,
        use_act: bool = False,
    ) -> None:
        super().__init__()
        size = _own(kernel_size, layer_idx)
        self.use_act, self.size = use_act, size
        self.projection = nn.Linear(d_model, d_model)
        if size == -1 and l_max is None:
            raise OptionError("a long BaseConv was asked without l_max: give the most tokens")
        if size == -1 and l_max is not None:
            kind = ImplicitLongConvolution if implicit_long_conv else LongConvolution
            self.conv: nn.Module = kind(d_model, l_max)
        else:
            self.conv = ShortConvolution(d_model, size)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """Tokens `b n c`; after those of earlier calls where a memory keeps a window of them."""
        if memory is None:
            return self._mixed(x)
        if isinstance(self.conv, LongConvolution):
            raise no_steps("a BaseConv of free taps", "takes taps behind the length as ones ahead")
        return windowed(self._mixed, x, memory, None if self.size == -1 else self.size - 1)

    def _mixed(self, x: Tensor) -> Tensor:
        gate, v = self.projection(x), x.mT[..., None]
        filter, bias = self.conv(x.shape[1]), None
        skip = x.new_ones(x.shape[2]) if self.size == -1 else None
        if isinstance(self.conv, ShortConvolution):
            bias = self.conv.conv.bias
        if self.use_act:
            mixed = long_convolution(v, filter, skip=skip)[..., 0].mT
            return F.silu(mixed if bias is None else mixed + bias) * F.silu(gate) + x
        out = long_convolution(v, filter, gate_out=gate.mT, skip=skip)[..., 0].mT
        return out + x if bias is None else out + gate * bias + x

    def state_size(self, length: int) -> int:
        """Channels times taps of a short convolution, or times tokens."""
        return self.projection.in_features * (length if self.size == -1 else self.size)


def _own(kernel_size: int | Sequence[int], layer: int) -> int:
    """The kernel size of one layer. Raises OptionError."""
    sizes = [kernel_size] if isinstance(kernel_size, int) else list(kernel_size)
    place = 0 if isinstance(kernel_size, int) else layer
    if place >= len(sizes) or (sizes[place] < 1 and sizes[place] != -1):
        raise OptionError(
            f"kernel_size={kernel_size!r} has no size for layer {layer}: give 1 or more taps, or "
            "-1 for a long convolution, for each layer"
        )
    return sizes[place]
