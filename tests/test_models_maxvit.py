"""MaxViT in both layouts against its golden cases, published sizes and timm's names."""

from __future__ import annotations

import hashlib

import pytest
import torch
from foreign import import_foreign
from parity.fill import fill, image
from shared import golden, outputs

import limelight as ll
from limelight.kernels.windows import Window
from limelight.models import load
from limelight.models.weights import no_init
from limelight.probe.errors import ModelError, OptionError

SMALL = {"embed_dim": (32, 64), "depths": (1, 1), "stem_width": (16, 32), "img_size": 64,
         "num_classes": 5, "window": 4, "grid": 4}  # fmt: skip


def parts(attention, window):
    """A map `b h n m` cut into its windows, `(b w) h q k`."""
    queries, keys = window.query_index(), window.key_index()
    cut = attention[:, :, queries[:, :, None], keys[:, None, :]]
    return cut.transpose(1, 2).flatten(0, 1)


@pytest.mark.parametrize(
    ("case_name", "name", "size"),
    [
        ("maxvit.tiny_tf_224", "maxvit_tiny_tf_224", 224),
        ("maxvit.nano_rw_128x96", "maxvit_nano_rw_256", (128, 96)),
    ],
)
def test_golden_cases(case_name, name, size):
    case = golden(case_name)
    with no_init():
        model = load(name, img_size=size)
    fill(model, case.case["salt"])
    order = "\n".join(model.state_dict())
    assert hashlib.sha1(order.encode()).hexdigest() == case.case["state_dict_order"].split()[-1]
    assert sum(p.numel() for p in model.parameters()) == case.case["n_parameters"]
    told = case.case["input"]
    x = torch.from_numpy(image(tuple(told["shape"]), told["seed"]))
    first = "stages.0.blocks.0"
    where = {"stem": "stem", "mbconv0": f"{first}.conv", "block_attn0": f"{first}.attn_block"}
    where |= {"win_attn0": f"{first}.attn_block.attn", "grid_attn0": f"{first}.attn_grid.attn"}
    where |= {f"stage{s}": f"stages.{s}.blocks.{len(model.stages[s].blocks) - 1}" for s in range(4)}
    if "pre_logits" in case.arrays:
        where["pre_logits"] = "head.pre_logits"
    found = outputs(model, x, where)
    sites = [f"{first}.attn_block.attn:map", f"{first}.attn_grid.attn:map"]
    t = ll.trace(model, x, sites)
    own = model.stages[0].blocks[0].attn_block.attn.size
    for kind, short, site in zip(("block", "grid"), ("win", "grid"), sites, strict=True):
        out = found[f"{short}_attn0"]
        window = Window(kind, own, tuple(out.shape[1:3]))
        found[f"{short}_prob0"] = parts(t[site].act, window)
        cut = out.flatten(1, 2)[:, window.query_index()].flatten(0, 1)
        found[f"{short}_attn0"] = cut.unflatten(1, own)
    last = found["stage3"] if "pre_logits" in case.arrays else model.norm(found["stage3"])
    keep = case.case["outputs"][[o["key"] for o in case.case["outputs"]].index("pooled")]
    found["pooled"] = last.mean((2, 3)).reshape(keep["shape"])
    assert set(found) == {key for key in case.arrays if not key.endswith("__spread")}
    for key, value in found.items():
        case.close(key, value)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("maxvit_tiny_tf_224", 30.92),
        ("maxvit_small_tf_224", 69),
        ("maxvit_base_tf_224", 119),
        ("maxvit_large_tf_224", 212),
        ("maxvit_xlarge_tf_512", 475),
        ("maxvit_nano_rw_256", 15.45),
        ("maxvit_tiny_rw_224", 29.06),
    ],
)
def test_published_sizes_and_timms_names(name, millions):
    with torch.device("meta"), no_init():
        ours = load(name)
    assert sum(p.numel() for p in ours.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)
    timm = import_foreign("timm")
    with torch.device("meta"):
        theirs = timm.create_model(name).state_dict()
    assert {n: p.shape for n, p in ours.state_dict().items()} == {
        n: p.shape for n, p in theirs.items()
    }


@pytest.mark.parametrize("layout", ["tf", "rw"])
def test_larger_pictures_and_files_of_another_window(layout, tmp_path):
    model = load("maxvit_tiny_tf_224", layout=layout, **SMALL)
    assert model(torch.randn(1, 3, 96, 64)).shape == (1, 5)
    with pytest.raises(ModelError, match="does not divide into windows"):
        model(torch.randn(1, 3, 72, 72))
    if layout == "tf":
        torch.save(model.state_dict(), tmp_path / "w.pth")
        other = load("maxvit_tiny_tf_224", tmp_path / "w.pth", **{**SMALL, "window": 2})
        assert other(torch.randn(1, 3, 64, 64)).shape == (1, 5)


def test_checkpointing_changes_no_gradient():
    model = load("maxvit_tiny_tf_224", **SMALL).eval()
    x = torch.randn(1, 3, 64, 64)
    found = []
    for enable in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(enable)
        model(x).sum().backward()
        found.append(model.stages[0].blocks[0].attn_grid.attn.qkv.weight.grad.clone())
    torch.testing.assert_close(*found)


def test_what_cannot_be_built_is_told():
    with pytest.raises(OptionError, match="write 'tf' or 'rw'"):
        load("maxvit_tiny_tf_224", layout="jax")
    with pytest.raises(OptionError, match="divide by dim_head=32"):
        load("maxvit_tiny_tf_224", embed_dim=(48, 64), depths=(1, 1))
