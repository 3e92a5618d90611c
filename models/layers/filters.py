"""Long filters as small networks of the position: those of BaseConv, Hyena and Orchid."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ...probe.errors import OptionError


def position_features(l_max: int, width: int) -> Tensor:
    """z_t = [t / (l_max - 1), cos(f w_t), -sin(f w_t)] with w_t = 2 pi t / l_max, `1 l c`.

    width   1 + 2 bands; the frequencies f run evenly from 1e-4 to bands - 1
    """
    if width < 3 or width % 2 == 0 or l_max < 2:
        raise OptionError(
            f"position features of width {width} for l_max={l_max} were asked: give an odd width "
            "of 3 or more, and an l_max of 2 or more"
        )
    bands, device = (width - 1) // 2, torch.get_default_device()
    with torch.device("cpu"):  # on "meta" torch's own decompositions mix devices here
        t = torch.linspace(0, 1, l_max)[:, None]
        turn = 2 * math.pi * torch.arange(l_max)[:, None] / l_max
        angle = torch.linspace(1e-4, bands - 1, bands) * turn
        features = torch.cat([t, angle.cos(), -angle.sin()], -1)[None]
    return features.to(device)


def check_length(length: int, l_max: int) -> None:
    """Raise OptionError for more tokens than a mixer was made for."""
    if length > l_max:
        raise OptionError(
            f"{length} tokens were given to a mixer of l_max={l_max}: give fewer, or build it "
            "with a larger l_max"
        )


class Positions(nn.Module):
    """The features, a parameter that is not trained, and where asked the time itself, 0 to 1."""

    def __init__(self, l_max: int, width: int, *, time: bool) -> None:
        super().__init__()
        self.z = nn.Parameter(position_features(l_max, width), requires_grad=False)
        if time:
            self.register_buffer("t", torch.linspace(0, 1, l_max)[None, :, None])

    def forward(self, length: int) -> Tensor:
        check_length(length, self.z.shape[1])
        return self.z[:, :length]


class Sin(nn.Module):
    """sin(freq x), with a learned frequency for each channel."""

    def __init__(self, dim: int, w: float) -> None:
        super().__init__()
        self.freq = nn.Parameter(torch.full((1, dim), float(w)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.freq * x)


class Modulation(nn.Module):
    """exp(-t |delta|), delta a buffer: channels forget between fast and slow."""

    def __init__(self, dim: int, fast: float, slow: float, target: float, shift: float) -> None:
        super().__init__()
        self.shift = shift
        ends = math.log(target) / slow, math.log(target) / fast
        self.register_buffer("deltas", torch.linspace(*ends, dim)[None, None])

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        deltas: Tensor = self.deltas  # type: ignore[assignment]
        return x * ((-t * deltas.abs()).exp() + self.shift)


class HyenaFilter(nn.Module):
    """Sines of the position, faded: `d l`; `bias` `d` adds to the first tap.

    The sine between the layers is one module under several names.
    """

    def __init__(
        self, dim: int, order: int, l_max: int, emb_dim: int, inner: int, w: float, fade: Modulation
    ) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.randn(dim))
        self.pos_emb = Positions(l_max, emb_dim, time=True)
        act = Sin(order, w)
        layers: list[nn.Module] = [nn.Linear(emb_dim, order), act]
        for _ in range(inner):
            layers += [nn.Linear(order, order), act]
        self.implicit_filter = nn.Sequential(*layers, nn.Linear(order, dim, bias=False))
        self.modulation = fade

    def forward(self, length: int) -> Tensor:
        x = self.implicit_filter(self.pos_emb(length))
        t: Tensor = self.pos_emb.t  # type: ignore[assignment]
        return self.modulation(t[:, :length], x)[0].mT
