"""BiFormer in both layouts: routing, published sizes, switches."""

from __future__ import annotations

import pytest
import torch

import limelight as ll
from limelight.models import load
from limelight.models.weights.load import no_init
from limelight.probe.errors import ModelError, OptionError

SMALL = {"depth": (1, 1), "embed_dim": (32, 64), "mlp_ratios": (2, 2), "topks": (2, -2),
         "num_heads": 4, "n_win": 4, "num_classes": 5}  # fmt: skip

STL = {
    "biformer_stl": {**SMALL, "n_wins": (4, 4)},
    "biformer_stl_nchw": {**SMALL, "n_wins": 4, "topks": (2, -1)},
}
for _hyper in STL.values():
    del _hyper["n_win"]


@pytest.mark.golden
@pytest.mark.parametrize("built", ["biformer.tiny"], indirect=True)
def test_regions_are_chosen_as_in_the_golden_case(built):
    sites = [f"stages.{s}.0.attn:index" for s in range(3)]
    sites += [f"stages.{s}.0.attn.router:routing" for s in range(3)]
    t = ll.trace(built.model, built.x, sites)
    for s in range(3):
        built.case.close(f"s{s}b0_r_weight", t[sites[3 + s]].act, 1e-3)
        index = t[sites[s]].act
        want = torch.from_numpy(built.case.arrays[f"s{s}b0_r_idx"]).long()
        rows = index.flatten(0, 1)[: len(want) // index.shape[-1]]
        pairs = zip(rows, want[: rows.numel()].reshape(rows.shape), strict=True)
        assert all(set(a.tolist()) == set(b.tolist()) for a, b in pairs)


@pytest.mark.parametrize(
    ("name", "millions", "count"),
    [
        ("biformer_tiny", 13.1, 13142760),
        ("biformer_small", 25.5, None),
        ("biformer_base", 56.8, None),
        ("biformer_stl", 28.4, 28372552),
        ("biformer_stl_nchw", 28.4, 28372552),
    ],
)
def test_published_sizes(name, millions, count):
    with torch.device("meta"), no_init():
        found = sum(p.numel() for p in load(name, weights=None).parameters())
    assert found / 1e6 == pytest.approx(millions, abs=0.06)
    assert count in (None, found)


def test_parameter_names_of_swin_tiny_layout():
    with torch.device("meta"), no_init():
        own = load("biformer_stl", weights=None).state_dict()
    blocks = {
        name.removeprefix("stages.0.blocks.1.") for name in own if "stages.0.blocks.1." in name
    }
    parts = ("norm1", "attn.lepe", "attn.qkv.qkv", "attn.wo", "norm2", "mlp.0", "mlp.2")
    assert blocks == {f"{part}.{kind}" for part in parts for kind in ("weight", "bias")}
    assert own["downsample_layers.0.0.weight"].shape == (96, 3, 4, 4)
    assert own["downsample_layers.2.1.weight"].shape == (384, 192, 2, 2)
    assert own["downsample_layers.2.0.running_mean"].shape == (192,)
    assert own["stages.3.blocks.0.attn.lepe.weight"].shape == (768, 1, 5, 5)
    assert "stages.3.blocks.0.attn.qkv.bias" not in own


def small(name: str, **hyper):
    """A small model of each layout with everything random."""
    torch.manual_seed(0)
    sized = SMALL if name == "biformer_tiny" else STL[name]
    return load(name, **{"weights": None, **sized, **hyper})


@pytest.mark.parametrize("name", ["biformer_tiny", *STL])
def test_every_layout_as_a_model(name, tmp_path):
    model = small(name, in_channels=1, num_classes=5)
    x = torch.randn(3, 1, 64, 96)
    with torch.no_grad():
        out = model(x)
        assert out.shape == (3, 5)
        torch.testing.assert_close(model(x[1:2]), out[1:2])
        half = small(name, in_channels=1, num_classes=5).bfloat16()(x.bfloat16())
        assert half.dtype == torch.bfloat16
        assert half.isfinite().all()
    torch.save(model.state_dict(), tmp_path / "own.pth")
    again = small(name, weights=tmp_path / "own.pth", in_channels=1)
    with torch.no_grad():
        assert torch.equal(again(x), out)


@pytest.mark.parametrize("name", ["biformer_tiny", *STL])
def test_checkpointing_changes_no_gradient(name):
    model, x, found = small(name), torch.randn(1, 3, 64, 64), []
    for enable in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(enable)
        model(x).sum().backward()
        found.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", ["biformer_tiny", *STL])
def test_branches_are_dropped_in_training_only(name):
    model, x = small(name, drop_path=0.9), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(x), small(name)(x))
        model.stages.train()
        torch.manual_seed(0)
        assert not torch.allclose(model(x), small(name)(x))


@pytest.mark.parametrize("name", ["biformer_tiny", *STL])
def test_ports_of_routed_attention(name):
    model = small(name)
    where = "stages.0.0.attn" if name == "biformer_tiny" else "stages.0.blocks.0.attn"
    by = f"{where}.router" if name != "biformer_stl_nchw" else where
    sites = [f"{where}:{port}" for port in ("index", "q", "map", "lepe")]
    t = ll.trace(model, torch.randn(1, 3, 64, 64), [*sites, f"{by}:affinity", f"{by}:routing"])
    assert t[f"{where}:index"].act.shape == (1, 16, 2)
    assert t[f"{where}:q"].act.shape == (1, 1, 256, 32)
    assert t[f"{by}:affinity"].act.shape == (1, 16, 16)
    torch.testing.assert_close(t[f"{by}:routing"].act.sum(-1), torch.ones(1, 16))
    attention = t[f"{where}:map"].act
    torch.testing.assert_close(attention.sum(-1), torch.ones(1, 1, 256))
    assert (attention > 0).sum(-1).unique().tolist() == [2 * 16]
    assert t[f"{where}:lepe"].act.numel() == 256 * 32


@pytest.mark.parametrize(
    "switch",
    [
        {"kv_downsample_mode": "ada_avgpool", "kv_per_wins": (2, 2)},
        {"kv_downsample_mode": "maxpool", "kv_downsample_ratios": (2, 2)},
        {"soft_routing": True, "diff_routing": True, "param_routing": True},
        {"mlp_dwconv": True, "pre_norm": False, "layer_scale_init": 0.1},
        {"topks": (-1, 0)},
        {"param_attention": "qkv", "qk_scale": 0.2},
        {"qk_dims": (16, 32), "head_dim": 8, "side_dwconv": 0, "before_attn_dwconv": 0},
    ],
)
def test_switches_build_and_differentiate(switch):
    model = load("biformer_tiny", weights=None, **{**SMALL, **switch})
    x = torch.randn(1, 3, 64, 64, requires_grad=True)
    model(x).sum().backward()
    assert x.grad.isfinite().all()
    if "diff_routing" in switch:
        assert model.stages[0][0].attn.router.emb.weight.grad.abs().sum() > 0


def test_maps_that_do_not_divide_are_refused_or_padded():
    x = torch.randn(1, 3, 72, 56)
    with pytest.raises(ModelError, match="auto_pad=True"):
        load("biformer_tiny", weights=None, **SMALL)(x)
    padded = load("biformer_tiny", weights=None, auto_pad=True, **SMALL)
    t = ll.trace(padded, x, ["stages.0.0", "stages.0.0.attn:index"])
    assert t["stages.0.0"].act.shape == (1, 32, 18, 14)
    assert small("biformer_stl_nchw")(x).shape == (1, 5)
    assert small("biformer_stl", auto_pad=True)(x).shape == (1, 5)


def test_a_region_sees_all_of_itself_when_all_are_chosen():
    model = load("biformer_tiny", weights=None, **{**SMALL, "topks": (16, -2)})
    x = torch.randn(1, 3, 64, 64)
    ports = ("map", "q", "k")
    t = ll.trace(model, x, [f"stages.0.0.attn:{port}" for port in ports])
    attention, q, k = (t[f"stages.0.0.attn:{port}"].act for port in ports)
    torch.testing.assert_close(attention, (q @ k.mT * 32**-0.5).softmax(-1))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"depth": (1, 1, 1)}, "different numbers of stages"),
        ({"head_dim": 10}, "do not divide into 3 heads"),
        ({"head_dim": 64}, "do not divide into 0 heads"),
        ({"num_heads": 5}, "do not divide into 5 heads"),
        ({"topks": (17, -2)}, "topk=17 regions were asked for of 4 x 4"),
        ({"topks": (2, -3)}, "stands for no mixer"),
        ({"param_attention": "o"}, "write 'qkvo' or 'qkv'"),
        ({"param_routing": True}, "set diff_routing=True too"),
        ({"kv_downsample_mode": "avgpol"}, "did you mean 'avgpool'"),
    ],
)
def test_what_cannot_be_built_is_told(wrong, told):
    with pytest.raises(OptionError, match=told):
        load("biformer_tiny", weights=None, **{**SMALL, **wrong})


def test_what_the_refactored_layout_refuses():
    with pytest.raises(OptionError, match="or -1 for all places"):
        small("biformer_stl_nchw", topks=(2, -2))
