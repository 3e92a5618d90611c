"""A little bit of attention: one gate of channels and places, made of next to nothing.

Named after "A little bit attention is all you need for person re-identification" (arXiv
2302.14574), which was published without code: its inner layout is a reconstruction.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ....probe.errors import OptionError
from ....probe.mark import mark

OPEN = 4.0  # sigmoid(4) = 0.982


class LittleAttention(nn.Module):
    """x g, g_cp = sigmoid(w_c a_c s_p + b_c): nearly 1 at the start, so that trained weights last.

    a = sigmoid(fc2 relu(fc1 mean_p x)), of each channel; s = sigmoid(point(up(conv(mean_c x)))), of
    each place, conv 3 x 3 with stride 2 and up bilinear. Ports `channel_gate` a `b c 1 1`,
    `spatial_gate` s `b 1 y x`, `gate` g `b c y x`.

    reduction  of the channels between fc1 and fc2
    Raises OptionError where that leaves none.
    """

    def __init__(self, dim: int, reduction: int = 16) -> None:
        super().__init__()
        if reduction < 1 or dim // reduction < 1:
            raise OptionError(
                f"reduction={reduction} of {dim} channels leaves none: give 1 to {dim}"
            )
        self.fc1 = nn.Linear(dim, dim // reduction)
        self.act = nn.ReLU()
        self.fc2 = nn.Linear(dim // reduction, dim)
        self.conv = nn.Conv2d(1, 1, 3, 2, 1)
        self.point = nn.Conv2d(1, 1, 1)
        self.mix = nn.Conv2d(dim, dim, 1, groups=dim)
        nn.init.ones_(self.mix.weight)
        nn.init.constant_(self.mix.bias, OPEN)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        channels = self.fc2(self.act(self.fc1(x.mean((2, 3))))).sigmoid()[..., None, None]
        places = self.conv(x.mean(1, keepdim=True))
        places = F.interpolate(places, x.shape[2:], mode="bilinear", align_corners=False)
        places = mark("spatial_gate", self.point(places).sigmoid())
        gate = self.mix(mark("channel_gate", channels) * places).sigmoid()
        return x * mark("gate", gate)
