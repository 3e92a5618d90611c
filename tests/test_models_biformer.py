"""BiFormer in both layouts against its golden cases."""

from __future__ import annotations

import pytest
import torch
from parity.fill import fill, image
from shared import golden, outputs

import limelight as ll
from limelight.models import load
from limelight.models.weights import no_init
from limelight.probe.errors import ModelError, OptionError

SMALL = {"depth": (1, 1), "embed_dim": (32, 64), "mlp_ratios": (2, 2), "topks": (2, -2),
         "num_heads": 4, "n_win": 4, "num_classes": 5}  # fmt: skip


def built(name, case):
    with no_init():
        model = load(name)
    fill(model, case.case["salt"])
    told = case.case["input"]
    return model, torch.from_numpy(image(tuple(told["shape"]), told["seed"]))


def test_legacy_equals_its_golden_case():
    case = golden("biformer.tiny")
    model, x = built("biformer_tiny", case)
    own = sorted([name, list(p.shape)] for name, p in model.named_parameters())
    assert own == sorted(case.case["parameters"])
    where = {"stem": "downsample_layers.0", "s0b0_attn": "stages.0.0.attn", "s0b0": "stages.0.0"}
    where |= {f"stage{s}": f"stages.{s}.{n - 1}" for s, n in enumerate((2, 2, 8, 2))}
    where["s3b0_attn"] = "stages.3.0.attn"
    for key, found in outputs(model, x, where).items():
        case.close(key, found)
    sites = [f"stages.{s}.0.attn:index" for s in range(3)]
    sites += [f"stages.{s}.0.attn.router:routing" for s in range(3)]
    t = ll.trace(model, x, sites)
    for s in range(3):
        case.close(f"s{s}b0_r_weight", t[sites[3 + s]].act, 1e-3)
        got = t[sites[s]].act
        want = torch.from_numpy(case.arrays[f"s{s}b0_r_idx"]).long()
        rows = got.flatten(0, 1)[: len(want) // got.shape[-1]]
        pairs = zip(rows, want[: rows.numel()].reshape(rows.shape), strict=True)
        assert all(set(a.tolist()) == set(b.tolist()) for a, b in pairs)


def test_refactored_equals_its_golden_case():
    case = golden("biformer.stl_nchw")
    model, x = built("biformer_stl_nchw", case)
    own = sorted([name, list(p.shape)] for name, p in model.named_parameters())
    assert own == sorted(case.case["parameters"])
    where = {"stem": "downsample_layers.0", "s0b0_attn": "stages.0.blocks.0.attn"}
    where |= {f"stage{s}": f"stages.{s}.blocks.{n - 1}" for s, n in enumerate((2, 2, 6, 2))}
    where["s3b0_attn"] = "stages.3.blocks.0.attn"
    for key, found in outputs(model, x, where).items():
        case.close(key, found)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("biformer_tiny", 13.1), ("biformer_small", 25.5), ("biformer_base", 56.8)],
)
def test_published_sizes(name, millions):
    with torch.device("meta"), no_init():
        count = sum(p.numel() for p in load(name).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize(
    "switch",
    [
        {"kv_downsample_mode": "ada_avgpool", "kv_per_win": (2, 2)},
        {"kv_downsample_mode": "maxpool", "kv_downsample_ratios": (2, 2)},
        {"soft_routing": True, "diff_routing": True, "param_routing": True},
        {"mlp_dwconv": True, "pre_norm": False, "layer_scale_init": 0.1},
        {"topks": (-1, 0)},
        {"qk_dims": (16, 32), "head_dim": 8, "side_dwconv": 0, "before_attn_dwconv": 0},
    ],
)
def test_switches_build_and_differentiate(switch):
    model = load("biformer_tiny", **{**SMALL, **switch})
    x = torch.randn(1, 3, 64, 64, requires_grad=True)
    model(x).sum().backward()
    assert x.grad.isfinite().all()
    if "diff_routing" in switch:
        assert model.stages[0][0].attn.router.emb.weight.grad.abs().sum() > 0


def test_maps_that_do_not_divide_are_refused_or_padded():
    x = torch.randn(1, 3, 72, 56)
    with pytest.raises(ModelError, match="auto_pad=True"):
        load("biformer_tiny", **SMALL)(x)
    padded = load("biformer_tiny", auto_pad=True, **SMALL)
    t = ll.trace(padded, x, ["stages.0.0", "stages.0.0.attn:index"])
    assert t["stages.0.0"].act.shape == (1, 32, 18, 14)
    nchw = load("biformer_stl_nchw", depth=(1, 1), embed_dim=(32, 64), mlp_ratios=(2, 2),
                n_wins=(4, 4), topks=(2, -1), num_heads=4)  # fmt: skip
    assert nchw(x).shape == (1, 1000)


def test_a_region_sees_all_of_itself_when_all_are_chosen():
    model = load("biformer_tiny", **{**SMALL, "topks": (16, -2)})
    x = torch.randn(1, 3, 64, 64)
    ports = ("map", "q", "k")
    t = ll.trace(model, x, [f"stages.0.0.attn:{port}" for port in ports])
    attention, q, k = (t[f"stages.0.0.attn:{port}"].act for port in ports)
    torch.testing.assert_close(attention, (q @ k.mT * 32**-0.5).softmax(-1))


def test_checkpointing_changes_no_gradient():
    model = load("biformer_tiny", **SMALL).eval()
    x = torch.randn(1, 3, 64, 64)
    found = []
    for enable in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(enable)
        model(x).sum().backward()
        found.append(model.stages[0][0].attn.qkv.qkv.weight.grad.clone())
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"depth": (1, 1, 1)}, "different numbers of stages"),
        ({"head_dim": 24}, "does not divide by 24"),
        ({"kv_downsample_mode": "avgpol"}, "did you mean 'avgpool'"),
    ],
)
def test_what_cannot_be_built_is_told(wrong, told):
    with pytest.raises(OptionError, match=told):
        load("biformer_tiny", **{**SMALL, **wrong})
