"""Hyena of order 2 (arXiv 2302.10866): a long convolution between two gates."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from ....kernels.long_convolution import long_convolution
from ....probe.errors import OptionError
from ...card import FILTERS, Figure
from ...layers import HyenaFilter, Memory, Modulation
from .decoding import windowed
from .mixers import mixer


@mixer("hyena", "zoology.mixers.hyena.Hyena")
class Hyena(nn.Module):
    """out(x2 * (k * (x1 * v) + D x1 * v)); x1, x2 and v are projected and shortly convolved.

    Ports v, gate_in, gate_out, filter, heads and map of the op; channels are its heads.
    l_max               tokens at most
    filter_order        width of the network that makes the filter, of num_inner_mlps layers inside
    short_filter_order  taps of the short convolution
    emb_dim, w          width of the position features, and the sines' frequency at the start
    fast_decay_pct, slow_decay_pct, target, shift   the filter fades as exp(-t |delta|) + shift,
                        delta from log(target) / slow to log(target) / fast
    """

    shows: ClassVar[tuple[Figure, ...]] = (FILTERS,)

    def __init__(
        self,
        d_model: int,
        *,
        layer_idx: int = 0,
        l_max: int,
        filter_order: int = 64,
        short_filter_order: int = 3,
        emb_dim: int = 3,
        num_inner_mlps: int = 2,
        w: float = 1,
        fast_decay_pct: float = 0.3,
        slow_decay_pct: float = 1.5,
        target: float = 1e-2,
        shift: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if short_filter_order < 1 or filter_order < 1 or num_inner_mlps < 0:
            raise OptionError(
                f"short_filter_order={short_filter_order}, filter_order={filter_order} and "
                f"num_inner_mlps={num_inner_mlps} of a Hyena must be at least 1, 1 and 0"
            )
        self.in_proj = nn.Linear(d_model, 3 * d_model)
        self.out_proj = nn.Linear(d_model, d_model)
        self.short_filter = nn.Conv1d(
            3 * d_model,
            3 * d_model,
            short_filter_order,
            groups=3 * d_model,
            padding=short_filter_order - 1,
        )
        fade = Modulation(d_model, fast_decay_pct, slow_decay_pct, target, shift)
        self.filter_fn = HyenaFilter(d_model, filter_order, l_max, emb_dim, num_inner_mlps, w, fade)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """Tokens `b n c`; after those of earlier calls where a memory keeps all of them."""
        return self._mixed(x) if memory is None else windowed(self._mixed, x, memory)

    def _mixed(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        x = self.short_filter(self.in_proj(x).mT)[..., :n]
        x1, x2, v = x.chunk(3, 1)
        out = long_convolution(
            v[..., None],
            self.filter_fn(n),
            gate_in=x1,
            gate_out=x2,
            skip=self.filter_fn.bias,
        )
        return self.out_proj(out[..., 0].mT)

    def state_size(self, length: int) -> int:
        """Channels times tokens, as published."""
        return self.out_proj.in_features * length
