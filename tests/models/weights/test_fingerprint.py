"""Fingerprints: equal for equal weights, other for any change."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limelight.models import load
from limelight.models.weights.load import fingerprint


@pytest.fixture
def small() -> nn.Module:
    return load("deit_tiny", weights=None, img_size=32, depth=1, embed_dim=48)


def test_fingerprint_follows_the_weights(small):
    first = fingerprint(small)
    assert len(first) == 16
    assert fingerprint(small) == first
    kept = small.head.bias.detach().clone()
    with torch.no_grad():
        small.head.bias[0] += 1
    changed = fingerprint(small)
    small.head.bias.data[1] += 1
    changed_again = fingerprint(small)
    assert len({first, changed, changed_again}) == 3
    small.head.bias.data = kept
    assert fingerprint(small) == first


def test_fingerprint_counts_names_types_shapes_and_buffers():
    def net() -> nn.Sequential:
        made = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        for p in made.parameters():
            nn.init.constant_(p, 0.5)
        return made

    base = net()
    assert fingerprint(base) == fingerprint(net())
    renamed = nn.Sequential()
    renamed.add_module("a", net()[0])
    renamed.add_module("1", net()[1])
    stats = net()
    stats[1].get_buffer("running_mean")[0] = 1.0
    others = [fingerprint(m) for m in (renamed, stats, net().to(torch.bfloat16), net().double())]
    assert len({fingerprint(base), *others}) == 5


def test_fingerprint_takes_inference_tensors_and_empty_models():
    with torch.inference_mode():
        net = nn.Linear(3, 3)
    assert fingerprint(net) == fingerprint(net)
    assert fingerprint(nn.ReLU()) == fingerprint(nn.GELU())
