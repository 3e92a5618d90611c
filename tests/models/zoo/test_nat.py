"""Neighbourhood attention of sequences; NAT and DiNAT."""

from __future__ import annotations

import pytest
import torch

from limelight.models import load
from limelight.models.weights.load import no_init
from limelight.models.zoo.nat import NeighborhoodAttention1D
from limelight.probe.errors import OptionError

SMALL = {"embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4), "kernel_size": 3, "num_classes": 5,
         "dilations": (4, 2)}  # fmt: skip


def test_sequences_and_their_options():
    net = NeighborhoodAttention1D(16, 2, 5, dilation=2, is_causal=True, qkv_bias=False)
    x = torch.randn(2, 20, 16)
    out = net(x)
    again = x.clone()
    again[:, 15:] = 0
    torch.testing.assert_close(net(again)[:, :15], out[:, :15])  # causal: the past stays
    with pytest.raises(OptionError, match="does not divide into 3 heads"):
        NeighborhoodAttention1D(16, 3, 5)


@pytest.mark.parametrize(
    ("name", "millions"), [("nat_mini", 20), ("nat_tiny", 28), ("nat_small", 51), ("nat_base", 90)]
)
def test_published_sizes(name, millions):
    for family in (name, f"di{name}"):
        with torch.device("meta"), no_init():
            count = sum(p.numel() for p in load(family, weights=None).parameters())
        assert count / 1e6 == pytest.approx(millions, abs=0.6)


def test_small_pictures_shrink_the_windows():
    model = load("dinat_mini", **SMALL)
    assert model(torch.randn(1, 3, 16, 24)).shape == (1, 5)
    assert model(torch.randn(1, 3, 64, 40)).shape == (1, 5)


def test_dilation_takes_every_second_block():
    levels = load("dinat_mini", **SMALL).levels
    assert [b.attn.dilation[0] for level in levels for b in level.blocks] == [1, 4, 1, 2]
    with pytest.raises(OptionError, match="different numbers of levels"):
        load("nat_mini", depths=(1, 1))


def test_checkpointing_changes_no_gradient():
    model = load("nat_mini", layer_scale_init=0.1, **SMALL)
    x = torch.randn(1, 3, 32, 32)
    found = []
    for enable in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(enable)
        model(x).sum().backward()
        found.append(model.levels[0].blocks[0].attn.qkv.weight.grad.clone())
    torch.testing.assert_close(*found)
