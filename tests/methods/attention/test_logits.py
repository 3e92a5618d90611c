"""The rank of attention's scores, against torch's of the whole matrix and closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.kernels.attention import attention


class Scores(nn.Module):
    """Attention of queries to keys that are given, two heads or more."""

    def __init__(self, q: Tensor, k: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.q, self.k, self.bias = q, k, bias

    def forward(self, x: Tensor) -> Tensor:
        q, k = (y.expand(len(x), -1, -1, -1) for y in (self.q, self.k))
        return attention(q, k, k + x[:, None, None, :1], bias=self.bias).mean((1, 2))


def ranks(model: nn.Module, name: str = "logit_rank") -> Tensor:
    return ll.maps(model, torch.zeros(2, 3), name, sites=":map", target=0).stack()


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_the_rank_is_that_of_the_matrix():
    q, k = draw(1, 4, 9, 5), draw(1, 2, 11, 5)
    q[:, 1, :, 2:] = 0
    q[:, 2] = q[:, 2, :, :1] * torch.arange(5.0)
    q[:, 3] = 0
    found = ranks(Scores(q, k))
    logits = q @ k.repeat_interleave(2, 1).mT
    assert found[0].tolist() == torch.linalg.matrix_rank(logits)[0].tolist() == [5, 2, 1, 0]


def test_the_effective_rank_counts_even_directions():
    """Orthogonal queries and keys: singular values are what the diagonal says."""
    q = torch.diag(torch.tensor([3.0, 3.0, 3.0, 0.0]))[None, None].repeat(1, 2, 1, 1)
    q[:, 1] = torch.diag(torch.tensor([2.0, 1.0, 1.0, 0.0]))
    found = ranks(Scores(q, torch.eye(4).expand(1, 2, 4, 4)), "logit_rank,effective=true")
    assert found[0].tolist() == pytest.approx([3.0, 2**1.5])


def test_scores_that_more_than_q_and_k_make_have_none():
    q, k = draw(1, 2, 9, 5), draw(1, 2, 9, 5)
    assert ranks(Scores(q, k, draw(2, 9, 9))).isnan().all()
    deit = ll.load("deit_tiny", weights=None, img_size=64, depth=1, embed_dim=24, num_heads=3)
    found = ll.maps(deit, draw(1, 3, 64, 64), "logit_rank")
    assert found[0].values.tolist() == [8, 8, 8]
