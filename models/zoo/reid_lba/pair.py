"""How alike two pictures are, as a model of both: relevance then lies on each of them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SimilarityOfTwo(nn.Module):
    """The cosine of two embeddings of one network, `b 1`, for a query and a gallery's picture.

    Inputs `query` and `gallery`, `b c y x` each. cos = sum_d q_d g_d / (|q| |g|): the lengths are
    held, and each product's relevance goes to either picture by halves.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, query: Tensor, gallery: Tensor) -> Tensor:
        one, other = (F.normalize(self.net(x), dim=1) for x in (query, gallery))
        return (one * other).sum(1, keepdim=True)
