"""Activator: its formula, its factors as sites, patches that never meet."""

from __future__ import annotations

import pytest
import torch

import limelight as ll
from limelight.models import load
from limelight.models.weights.load import no_init
from limelight.probe.errors import OptionError

SMALL = {"d_model": 16, "d_ffn": 24, "num_layers": 2, "num_classes": 5}


@pytest.mark.parametrize(
    ("name", "count"),
    [("activator_cifar10", 2_650_890), ("activator_cifar10_only_geglu", 1_599_242)],
)
def test_published_sizes(name, count):
    with torch.device("meta"), no_init():
        assert sum(p.numel() for p in load(name, weights=None).parameters()) == count


def test_a_gating_unit_computes_the_written_formula():
    torch.manual_seed(0)
    unit, z = load("activator", **SMALL).model[0].actgu.double(), torch.randn(7, 16).double()

    def norm(x):
        x = x - x.mean(-1, keepdim=True)
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight + bias

    with torch.no_grad():
        weight, bias = unit.norm.weight.normal_(1, 0.1), unit.norm.bias.normal_()
        one, two, three = (unit.get_submodule(f"proj_{n}") for n in (1, 2, 3))
        a = z @ one.weight.T + one.bias
        u = norm(a * (1 + torch.erf(a / 2**0.5)) / 2)
        v = norm(z @ two.weight.T + two.bias)
        torch.testing.assert_close(unit(z), (u * v) @ three.weight.T + three.bias)


def test_the_factors_of_each_token_are_sites_and_maps():
    torch.manual_seed(0)
    model, x = load("activator", **SMALL), torch.randn(2, 3, 32, 32)
    t = ll.trace(model, x, ["model.1.actgu:u", "model.1.actgu:v", "model.1.actgu"])
    u, v = t["model.1.actgu:u"].act, t["model.1.actgu:v"].act
    torch.testing.assert_close(model.model[1].actgu.proj_3(u * v), t["model.1.actgu"].act)
    found = ll.maps(model, x, "activation:norm", sites="model.1.actgu:u")[1]
    torch.testing.assert_close(found.values, u[1].norm(dim=-1).reshape(8, 8))


def test_patches_are_a_bag_of_any_size():
    torch.manual_seed(0)
    model, x = load("activator", **SMALL), torch.randn(1, 3, 16, 24)
    patches = x.unfold(2, 4, 4).unfold(3, 4, 4).flatten(2, 3)
    order = torch.randperm(24)
    mixed = patches[:, :, order].unflatten(2, (4, 6)).permute(0, 1, 2, 4, 3, 5).reshape(x.shape)
    with torch.no_grad():
        torch.testing.assert_close(model(mixed), model(x))
    with pytest.raises(OptionError, match="16 x 26 does not divide into patches of 4"):
        model(torch.randn(1, 3, 16, 26))
    assert "there is no attention" in model.card.about


def test_other_spellings_mean_the_same():
    with torch.device("meta"), no_init():
        model = load("activator", image_size=16, dim=24, depth=3, classes=5)
    assert len(model.model) == 3
    assert model.classifier.weight.shape == (5, 24)


def test_dropout_falls_in_training_alone():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32)
    for name, same in (("activator", False), ("activator_only_geglu", True)):
        model = load(name, weights=None, **SMALL).train()
        assert torch.equal(model(x), model(x)) is same
        assert torch.equal(model.eval()(x), model(x))
