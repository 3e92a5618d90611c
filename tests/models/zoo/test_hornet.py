"""HorNet's gates and maps, its published sizes and its own switches."""

from __future__ import annotations

import pytest
import torch
from fill import fill, image
from golden_models import NETWORKS
from shared import outputs
from torch import nn

import limelight as ll
from limelight.models import load
from limelight.models.weights.load import no_init
from limelight.models.zoo import hornet
from limelight.probe.errors import OptionError

CASES = [name for name in NETWORKS if name.startswith("hornet.")]
SMALL = {"depths": (1, 1, 1, 1), "base_dim": 16, "num_classes": 7}


def filled(name: str, salt: int = 0, **hyper: object) -> nn.Module:
    with no_init():
        model = load(name, weights=None, **hyper)
    fill(model, salt)
    return model


@pytest.mark.parametrize("built", CASES, indirect=True)
def test_without_hooks_the_gates_are_never_formed_and_logits_stay(built):
    hooked = outputs(built.model, built.x, NETWORKS[built.name].where)["logits"]
    with torch.no_grad():
        torch.testing.assert_close(built.model(built.x), hooked, atol=1e-5, rtol=1e-5)


@pytest.mark.golden
@pytest.mark.parametrize("built", ["hornet.tiny_7x7_64"], indirect=True)
def test_a_probe_sees_products_gates_and_maps(built):
    model, site = built.model, "stages.0.0.gnconv"
    with ll.Probe(model) as probe:
        names = ("dw0", "p0", "dw1", "p1", "map", "context", "first")
        probe.watch(*(f"{site}:{name}" for name in names))
        probe(built.x)
        trace = {str(site): value.act.detach() for site, value in probe.trace.items()}
    gates = torch.cat([trace[f"{site}:dw0"], trace[f"{site}:dw1"]], 1) * 3
    built.case.close("dw0", gates)
    first, context = trace[f"{site}:first@1"], trace[f"{site}:context@1"]
    torch.testing.assert_close(trace[f"{site}:p1"], first * trace[f"{site}:dw1"])
    bias = model.get_submodule(site).dwconv.bias[32:, None, None] / 3
    tokens = trace[f"{site}:map@1"] @ context.flatten(2)[..., None]
    want = (trace[f"{site}:p1"] - first * bias).flatten(2)[..., None]
    torch.testing.assert_close(tokens, want.detach(), atol=1e-5, rtol=1e-5)


PUBLISHED = {
    "hornet_tiny_7x7": 22_409_512,
    "hornet_tiny_gf": 22_991_848,
    "hornet_small_7x7": 50e6,
    "hornet_small_gf": 50e6,
    "hornet_base_7x7": 87e6,
    "hornet_base_gf": 88e6,
    "hornet_large_7x7": 209e6,
    "hornet_large_gf": 211e6,
    "hornet_large_gf_img384": 216e6,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_the_published_ones(name):
    with torch.device("meta"):
        model = load(
            name, weights=None, num_classes=10450 if "large" in name else 1000
        )  # ImageNet-21K-P
    count = sum(p.numel() for p in model.parameters())
    assert abs(count - PUBLISHED[name]) <= (0 if isinstance(PUBLISHED[name], int) else 0.6e6)


def test_weights_at_another_size_keep_the_published_filters():
    with torch.device("meta"):
        model = load("hornet_tiny_gf", weights=None, img_size=256)
    assert model.stages[2][0].gnconv.dwconv.complex_weight.shape[1:3] == (14, 8)
    with torch.device("meta"):
        auto = load(
            "hornet_tiny_gf", weights=None, img_size=(384, 320), spatial=("dw7", "dw7", "gf", "gf")
        )
    assert auto.stages[2][0].gnconv.dwconv.complex_weight.shape[1:3] == (24, 11)
    assert auto.stages[3][0].gnconv.dwconv.complex_weight.shape[1:3] == (12, 6)


def test_every_switch_builds_and_runs():
    mixed = {"spatial": ["dw3", "gf 4x3", (3, 2), None], "orders": (1, 2, 3, 4), "scale": 0.5}
    model = filled("hornet_tiny_7x7", in_channels=1, layer_scale_init=0, **mixed, **SMALL)
    assert not [name for name, _ in model.named_parameters() if "gamma" in name]
    assert model(torch.randn(2, 1, 70, 45)).shape == (2, 7)
    wide = load("hornet_tiny_gf", weights=None, dims=(16, 16, 32, 32), **SMALL)
    assert wide(torch.randn(1, 3, 64, 64)).shape == (1, 7)


def test_checkpointing_gives_equal_gradients():
    model = filled("hornet_tiny_gf", **SMALL)
    x = torch.randn(2, 3, 64, 64)
    grads = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).square().sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(grads[0], grads[1])


def test_samples_of_a_batch_do_not_mix():
    model = filled("hornet_tiny_gf", **SMALL)
    x = torch.randn(3, 3, 64, 48)
    with torch.no_grad():
        torch.testing.assert_close(model(x)[1:2], model(x[1:2]), atol=1e-5, rtol=1e-5)


def test_training_drops_branches_and_bfloat16_runs():
    model = filled("hornet_tiny_gf", drop_path=0.9, **SMALL).train()
    x = torch.randn(1, 3, 64, 64)
    torch.manual_seed(0)
    assert not torch.equal(model(x), model(x))
    half = filled("hornet_tiny_gf", **SMALL).bfloat16()
    assert half(x.bfloat16()).isfinite().all()


def test_state_goes_round():
    model = filled("hornet_tiny_gf", **SMALL)
    other = load("hornet_tiny_gf", weights=None, **SMALL)
    other.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x), other(x))


def test_impossible_shapes_are_told():
    with pytest.raises(OptionError, match="cannot be halved 4 times"):
        load("hornet_tiny_7x7", weights=None, base_dim=24, orders=(5, 3, 4, 5))
    with pytest.raises(OptionError, match="give one a stage"):
        load("hornet_tiny_7x7", weights=None, orders=(2, 3))
    with pytest.raises(OptionError, match="no spatial part"):
        load("hornet_tiny_7x7", weights=None, spatial="dw4")
    with pytest.raises(OptionError, match="no halves"):
        hornet.GlobalLocalFilter(5, (3, 2), 1e-6)


@pytest.mark.parametrize("name", ["hornet_tiny_7x7", "hornet_tiny_gf"])
def test_relevance_halves_at_each_product_and_every_op_closes(name):
    model = filled(name, **SMALL)
    x = torch.from_numpy(image((1, 3, 64, 64), 0))
    books = ll.ledger(model, x, "lrp:epsilon", target=3)
    assert books.leaks(1e-4) == ()
    products = [e for e in books if e.op.startswith("mul") and e.place.endswith("gnconv")]
    assert len(products) == 2 + 3 + 4 + 5 + 4  # every order of every stage, and each scale


def test_it_compiles_whole():
    model, x = filled("hornet_tiny_gf", **SMALL), torch.randn(1, 3, 64, 64)
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))
