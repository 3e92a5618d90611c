"""The time mixing of RWKV-4 (arXiv 2305.13048): a receptance times a decaying mean of values."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....kernels.wkv import wkv, wkv_state
from ....probe.errors import OptionError
from ....probe.mark import mark
from ...card import Figure
from ...layers import Memory
from .decoding import count_on
from .mixers import mixer

DECAYS = Figure(
    "Decay lengths",
    "decay lengths",
    about="After how many tokens a channel keeps 1/e of a token's weight.",
)
RECEPTANCE = Figure(
    "Receptance",
    "values",
    sites=("**:receptance",),
    about="The gate on what was read, its norm over channels token by token.",
)


@mixer("rwkv", "zoology.mixers.rwkv.RWKVTimeMixer")
class RWKVTimeMixer(nn.Module):
    """output(sigmoid(receptance x_r) wkv(key x_k, value x_v)), each x mixed with the token before.

    x_k = time_mix_k x_t + (1 - time_mix_k) x_{t-1}, and x_v, x_r alike; before the first are zeros.
    Ports k, v, heads and map of the op, channels in the place of heads; `decay`, the logarithm by
    step, and `bonus`, `c`; `receptance`, `b n c`, as it multiplies.
    l_max      the most tokens, any number where left out
    n_layers   layers of the model, by which layer_idx sets the initial decays; left out, they are
               those of a first layer
    """

    shows: ClassVar[tuple[Figure, ...]] = (DECAYS, RECEPTANCE)

    def __init__(
        self,
        d_model: int,
        *,
        layer_idx: int = 0,
        l_max: int | None = None,
        n_layers: int | None = None,
    ) -> None:
        super().__init__()
        if n_layers is not None and n_layers <= layer_idx:
            raise OptionError(
                f"n_layers={n_layers} of an RWKV mixer does not reach layer {layer_idx}: give the "
                "number of the model's layers"
            )
        self.l_max = l_max
        depth = 0.0 if n_layers is None else layer_idx / max(n_layers - 1, 1)
        rest = 1.0 if n_layers is None else 1 - layer_idx / n_layers
        place = torch.arange(d_model) / d_model
        decays = (torch.arange(d_model) / max(d_model - 1, 1)) ** (0.7 + 1.3 * depth)
        self.time_decay = nn.Parameter(8 * decays - 5)
        turns = (torch.arange(d_model) + 1) % 3 - 1
        self.time_first = nn.Parameter(turns / 2 + math.log(0.3))
        self.time_mix_k = nn.Parameter((place**rest)[None, None])
        self.time_mix_v = nn.Parameter((place**rest + 0.3 * depth)[None, None])
        self.time_mix_r = nn.Parameter((place ** (rest / 2))[None, None])
        self.key = nn.Linear(d_model, d_model, bias=False)
        self.value = nn.Linear(d_model, d_model, bias=False)
        self.receptance = nn.Linear(d_model, d_model, bias=False)
        self.output = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x: Tensor, memory: Memory | None = None) -> Tensor:
        """Tokens `b n c`; with a memory the scan goes on from the state of earlier calls.

        Raises OptionError for more than l_max tokens.
        """
        count_on(x, memory, self.l_max)
        before = F.pad(x, (0, 0, 1, -1))
        if memory is not None:
            before = torch.cat([memory.get("before", before[:, :1]), x[:, :-1]], 1)
            memory["before"] = x[:, -1:]
        k = self.key(torch.lerp(before, x, self.time_mix_k))
        v = self.value(torch.lerp(before, x, self.time_mix_v))
        r = self.receptance(torch.lerp(before, x, self.time_mix_r)).sigmoid()
        arguments = k.mT[..., None], v.mT[..., None], -self.time_decay.exp(), self.time_first
        if memory is None:
            out = wkv(*arguments)
        else:
            out, memory["state"] = wkv_state(*arguments, memory.get("state"))
        return self.output(mark("receptance", r) * out[..., 0].mT)

    def state_size(self, length: int) -> int:
        """Of each channel two sums, their maximum and the token before."""
        return 4 * self.output.in_features
