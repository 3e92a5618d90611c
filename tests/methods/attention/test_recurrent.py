"""The sums of Taylor attention and the decays of RWKV, against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.kernels.taylor import taylor_attention
from limelight.kernels.wkv import wkv


class Taylor(nn.Module):
    """Taylor attention of queries and keys that are given, two heads."""

    def __init__(self, q: Tensor, k: Tensor, scale: float | None = None) -> None:
        super().__init__()
        self.q, self.k, self.scale = q, k, scale

    def forward(self, x: Tensor) -> Tensor:
        q, k = (y.expand(len(x), -1, -1, -1) for y in (self.q, self.k))
        return taylor_attention(q, k, k + x[:, None, None, :1], scale=self.scale).mean((1, 2))


class Channels(nn.Module):
    """WKV with decays that are given."""

    def __init__(self, decay: Tensor) -> None:
        super().__init__()
        self.decay = decay

    def forward(self, x: Tensor) -> Tensor:
        v = x[:, None, :, None].expand(-1, len(self.decay), -1, -1)
        return wkv(torch.zeros_like(v), v, self.decay, torch.zeros_like(self.decay)).mean((2, 3))


def measured(model: nn.Module, name: str) -> Tensor:
    return ll.maps(model, torch.ones(2, 6), name, sites=":map", target=0).stack()


def test_even_scores_weigh_what_the_series_says():
    """All pairs of a head have one score: 0 in the first head, 3 and 1.5 in the second."""
    q = torch.zeros(1, 2, 6, 4)
    q[:, 1] = 1.5
    k = torch.ones(1, 2, 6, 4)
    assert measured(Taylor(q, k), "mean_weight")[0].tolist() == pytest.approx([1, 1 + 3 + 4.5])
    found = measured(Taylor(q, k, scale=0.25), "mean_weight")
    assert found[1].tolist() == pytest.approx([1, 1 + 1.5 + 1.125])


def test_the_mean_weight_is_that_of_pairs_seen():
    """Scores grow with the key: queries that see more weigh more."""
    q, k = torch.ones(1, 1, 3, 1), torch.arange(3.0).reshape(1, 1, 3, 1)
    weights = torch.tensor([1.0, 2.5, 5.0])
    want = float((weights.cumsum(0) / torch.tensor([1.0, 2.0, 3.0])).mean())
    assert measured(Taylor(q, k), "mean_weight").flatten().tolist() == pytest.approx([want] * 2)


def test_decay_lengths_are_those_of_the_map():
    """A token that many steps back weighs 1/e, as the map itself says."""
    decay = torch.tensor([-0.5, -1.0, 0.0, -0.25])
    model = Channels(decay)
    assert measured(model, "decay_length")[0].tolist() == [2, 1, float("inf"), 4]
    last = ll.trace(model, torch.ones(1, 6), ":map")[":map"].act[0, :, -1]
    ratio = last[:2, 4] / torch.stack([last[0, 2], last[1, 3]])  # 2 and 1 tokens apart
    torch.testing.assert_close(ratio, torch.full((2,), torch.e))


def test_other_heads_have_neither():
    assert measured(Channels(torch.zeros(2)), "mean_weight").isnan().all()
    q = torch.ones(1, 2, 6, 4)
    assert measured(Taylor(q, q), "decay_length").isnan().all()


def test_both_are_told_of_models_from_the_zoo():
    x = torch.arange(12)[None]
    based = ll.load("zoology_based", d_model=16, vocab_size=32)
    rwkv = ll.load("zoology_rwkv", d_model=16, vocab_size=32)
    target = ll.token(3, position=-1)
    weights = ll.maps(based, x, "mean_weight", target=target)
    assert float(weights[-1].values[0]) >= 0.5
    lengths = ll.maps(rwkv, x, "decay_length", target=target)
    want = rwkv.backbone.layers[0].sequence_mixer.time_decay.detach().neg().exp()
    torch.testing.assert_close(lengths[0].values.float(), want)
