"""Which object the gaze rests on next: decoded fixations scored against the encoded objects."""

from __future__ import annotations

from math import sqrt

import torch.nn.functional as F
from torch import Tensor, nn

from ....probe.mark import mark


class ObjectAttention(nn.Module):
    """One head: D_l . E_s / sqrt(d) for fixation l and token s, and 0 for padding.

    Its scores are the site `scores`, `b l s`: of the objects, of the target token, which
    means the end, and of padding.
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.decode_fc, self.encode_fc = nn.Linear(width, inner), nn.Linear(width, inner)

    def forward(self, decoded: Tensor, memory: Tensor) -> Tensor:
        d, e = self.decode_fc(decoded), self.encode_fc(memory)
        scores = d @ e.transpose(1, 2) / sqrt(e.shape[-1])
        return mark("scores", F.pad(scores, (0, 1)))
