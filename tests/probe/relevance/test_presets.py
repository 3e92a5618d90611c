"""Presets of relevance as data, and what each kind of op is called."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import limelight as ll
from limelight.probe.errors import OptionError
from limelight.probe.ops.table import kind_of, spec_of
from limelight.probe.relevance.linear_rules import Epsilon, Flat, Gamma, ZPlus
from limelight.probe.relevance.presets import PRESETS, Preset, preset

NAMES = (
    "epsilon",
    "epsilon_plus",
    "epsilon_alpha2_beta1",
    "epsilon_gamma_box",
    "epsilon_gamma_wsquare",
    "epsilon_plus_flat",
    "epsilon_alpha2_beta1_flat",
    "excitation_backprop",
    "attnlrp",
    "cplrp",
    "chefer",
)


@pytest.mark.parametrize("name", NAMES)
def test_known_presets_are_data(name: str) -> None:
    found = preset(name)
    assert found.name == name
    assert hash(found) == hash(preset(name))
    assert name in str(found)


def test_an_unknown_preset_names_near_ones() -> None:
    with pytest.raises(OptionError, match="did you mean 'epsilon_plus'"):
        preset("epsilon_pluss")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("conv2d", "conv"),
        ("conv_transpose3d", "conv"),
        ("linear", "linear"),
        ("gelu", "pass"),
        ("relu", "gradient"),
        ("reshape", "move"),
        ("add", "gradient"),
        ("matmul", "product"),
        ("sigmoid", "gate"),
        ("rsqrt", "statistic"),
        ("lstm", "none"),
    ],
)
def test_kinds(name: str, kind: str) -> None:
    assert kind_of(name) == kind
    assert spec_of(name).has_rule == (kind != "move")


def test_auto_follows_the_network() -> None:
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
    found = ll.maps(net, x, ["lrp", "lrp:epsilon_plus_flat,bias=false"], target=1)
    assert torch.equal(found[0].values, found[1].values)


def test_auto_sees_attention() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            return self.b(F.scaled_dot_product_attention(y, y, y).mean(1))

    torch.manual_seed(0)
    x = torch.randn(1, 5, 4)
    found = ll.maps(Net().eval(), x, ["lrp", "lrp:gamma_hold"], target=1, sites="a")
    assert torch.equal(found[0].values, found[1].values)


def test_the_first_match_of_sites_wins() -> None:
    from limelight.probe.ops.record import OpRecord

    chosen = Preset("a", ZPlus(), Epsilon(), first=Flat(), sites=(("b.*", Gamma()), ("b*", None)))
    at = {p: OpRecord("conv2d", f"conv2d.0 in {p}", (), False) for p in ("b.c", "b", "a")}
    assert chosen.rule("conv", at["b.c"], first=True) == Gamma()
    assert chosen.rule("conv", at["b"], first=True) is None
    assert chosen.rule("conv", at["a"], first=True) == Flat()
    assert chosen.rule("conv", at["a"]) == ZPlus()


def test_only_chosen_presets_have_first_rules() -> None:
    assert {n for n, p in PRESETS.items() if p.first} == {
        "epsilon_gamma_box",
        "epsilon_gamma_wsquare",
        "epsilon_plus_flat",
        "epsilon_alpha2_beta1_flat",
    }
