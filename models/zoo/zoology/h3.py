"""H3 (arXiv 2212.14052): a shift and a diagonal state space model between products."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....kernels.long_convolution import long_convolution
from ....kernels.shared import wide
from ....probe.errors import OptionError
from ...card import FILTERS, Figure
from ...layers import Memory, check_length
from .decoding import windowed
from .mixers import mixer


class ShiftKernel(nn.Module):
    """The filter that correlates C with B, `h n`; with B the first unit vector it is C."""

    def __init__(self, heads: int, states: int) -> None:
        super().__init__()
        self.B = nn.Parameter(F.pad(torch.ones(heads, 1), (0, states - 1)))
        self.C = nn.Parameter(torch.randn(1, heads, states))

    def forward(self) -> Tensor:
        n = self.B.shape[-1]
        waves = torch.fft.rfft(wide(self.B), n=2 * n).conj()
        waves = waves * torch.fft.rfft(wide(self.C[0]), n=2 * n)
        out: Tensor = torch.fft.irfft(waves, n=2 * n)
        return out[..., :n]


class DiagonalKernel(nn.Module):
    """The impulse response of a diagonal system, discretised bilinearly, `h l` (S4D).

    K_l = 2 Re sum_n C'_n a_n^l with a = (1 + dt A / 2) / (1 - dt A / 2), C' = B C dt / (1 - dt A/2)
    and A = -exp(inv_A_real) + i A_imag.
    """

    def __init__(self, heads: int, states: int, dt_min: float, dt_max: float) -> None:
        super().__init__()
        modes = states // 2
        low, high = math.log(dt_min), math.log(dt_max)
        self.C = nn.Parameter(torch.randn(1, heads, modes, 2) * 0.5**0.5)
        self.log_dt = nn.Parameter(low + (high - low) * torch.rand(heads))
        self.B = nn.Parameter(torch.tensor([1.0, 0.0]).repeat(heads, modes, 1))
        self.inv_A_real = nn.Parameter(torch.full((heads, modes), math.log(0.5)))
        self.A_imag = nn.Parameter(math.pi * torch.arange(modes).repeat(heads, 1).float())

    def forward(self, length: int) -> Tensor:
        dt = wide(self.log_dt).exp()[:, None]
        half = torch.complex(-wide(self.inv_A_real).exp(), wide(self.A_imag)) * dt / 2
        product = _complex(self.B) * _complex(self.C[0])
        scale = product * dt / (1 - half)
        times = torch.arange(length, device=half.device)
        turn = ((1 + half) / (1 - half)).log()[..., None] * times
        return 2 * (scale[..., None] * turn.exp()).sum(-2).real


def _complex(x: Tensor) -> Tensor:
    """Pairs as complex numbers."""
    return torch.view_as_complex(wide(x).contiguous())


class Kernel(nn.Module):
    """A kernel under the name that files give it."""

    def __init__(self, kernel: nn.Module) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, *length: int) -> Tensor:
        return self.kernel(*length)


class Shift(Kernel):
    """k filtered, plus `skip` times k, `b d n`; a module of its own, so that its map is a site."""

    def forward(self, k: Tensor, skip: Tensor) -> Tensor:  # type: ignore[override]
        return long_convolution(k[..., None], self.kernel(), skip=skip)[..., 0]


@mixer("h3", "zoology.mixers.h3.H3")
class H3(nn.Module):
    """out(q (SSM_diag(SSM_shift(k) v) + D ...)): k and v meet in an outer product by head.

    Ports v, gate_in (the shifted k), gate_out (q), filter, heads and map of the op: each channel of
    k and q is a head of the op, over the values of its own head of H3. `ssm_k_kernel` has the ports
    of the convolution that shifts k, with channels as heads.
    head_dim   channels of a head
    d_state    states of each system
    """

    shows: ClassVar[tuple[Figure, ...]] = (FILTERS,)

    def __init__(
        self,
        d_model: int,
        *,
        layer_idx: int = 0,
        l_max: int,
        d_state: int = 64,
        head_dim: int = 1,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
    ) -> None:
        super().__init__()
        if head_dim < 1 or d_model % head_dim or d_state < 2 or d_state % 2:
            raise OptionError(
                f"d_model={d_model} with head_dim={head_dim} and d_state={d_state} cannot be "
                "built: give a head_dim that divides d_model and an even d_state"
            )
        heads = d_model // head_dim
        self.l_max, self.head_dim, self.d_state = l_max, head_dim, d_state
        self.ssm_k_D = nn.Parameter(torch.randn(d_model))
        self.D = nn.Parameter(torch.randn(heads))
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model)
        self.v_proj = nn.Linear(d_model, d_model)
        self.ssm_k_kernel = Shift(ShiftKernel(d_model, d_state))
        self.kernel = Kernel(DiagonalKernel(heads, d_state, dt_min, dt_max))
        self.output_linear = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """Tokens `b n c`; after those of earlier calls where a memory keeps all of them."""
        return self._mixed(x) if memory is None else windowed(self._mixed, x, memory)

    def _mixed(self, x: Tensor) -> Tensor:
        n, size = x.shape[1], self.head_dim
        check_length(n, self.l_max)
        q, k, v = (part(x).mT for part in (self.q_proj, self.k_proj, self.v_proj))
        k = self.ssm_k_kernel(k, self.ssm_k_D)
        out = long_convolution(
            v.unflatten(1, (-1, size)).mT.repeat_interleave(size, 1),
            self.kernel(n).repeat_interleave(size, 0),
            gate_in=k,
            gate_out=q,
            skip=self.D.repeat_interleave(size),
        )
        summed = out.unflatten(1, (-1, size)).sum(2)  # b h n d
        return self.output_linear(summed.permute(0, 2, 3, 1).flatten(2))

    def state_size(self, length: int) -> int:
        """Channels times states, as published."""
        return self.output_linear.in_features * self.d_state
