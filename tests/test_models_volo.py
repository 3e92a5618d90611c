"""VOLO against its golden case, published sizes and timm's names."""

from __future__ import annotations

import hashlib

import pytest
import torch
from foreign import import_foreign
from parity.fill import fill, image
from shared import golden, outputs

import limelight as ll
from limelight.models import load
from limelight.models.volo import FILES, VARIANTS
from limelight.models.weights import no_init
from limelight.probe.errors import OptionError

SMALL = {"layers": (1, 1, 1), "embed_dims": (48, 96, 96), "num_heads": (3, 6, 6), "num_classes": 5}


@pytest.fixture(scope="module")
def case():
    return golden("volo.d1_72")


@pytest.fixture(scope="module")
def d1(case):
    with no_init():
        model = load("volo_d1", img_size=72)
    fill(model, case.case["salt"])
    return model


@pytest.fixture(scope="module")
def x(case):
    told = case.case["input"]
    return torch.from_numpy(image(tuple(told["shape"]), told["seed"]))


def test_names_are_the_published_ones(case, d1):
    order = "\n".join(d1.state_dict())
    assert hashlib.sha1(order.encode()).hexdigest() == case.case["state_dict_order"].split()[-1]
    assert sum(p.numel() for p in d1.parameters()) == case.case["n_parameters"]


def test_layers_equal_the_golden_case(case, d1, x):
    where = {
        "patch_embed": "patch_embed",
        "outlook0": "network.0.0.attn",
        "outlooker0": "network.0.0",
        "outlooker_last": "network.0.3",
        "down": "network.1",
        "stage2": "network.2.3",
        "stage_last": "network.4.1",
        "post0": "post_network.0",
        "x_cls": "head",
        "x_aux": "aux_head",
    }
    found = outputs(d1, x, where)
    logits = outputs(d1, x, {"w": "network.0.0.attn.attn"})["w"]
    found["outlook_logits0"] = logits.unflatten(1, (5, 5))
    ports = ("network.0.0.attn:weight", "network.2.0.attn:map", "post_network.1.attn:map")
    t = ll.trace(d1, x, ports)
    found["outlook_prob0"] = t[ports[0]].act.softmax(-1)
    found["tf_prob0"], found["cls_prob1"] = t[ports[1]].act, t[ports[2]].act
    assert set(found) == {key for key in case.arrays if not key.endswith("__spread")}
    for key, value in found.items():
        case.close(key, value)


@pytest.mark.parametrize(
    ("name", "millions"),
    [("volo_d1", 26.63), ("volo_d2", 59), ("volo_d3", 86), ("volo_d4", 193), ("volo_d5", 296)],
)
def test_published_sizes(name, millions):
    with torch.device("meta"), no_init():
        count = sum(p.numel() for p in load(name).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.006 if name == "volo_d1" else 0.6)


@pytest.mark.parametrize("name", VARIANTS)
def test_timm_has_the_same_entries(name):
    timm = import_foreign("timm")
    for size in FILES[name]:
        own = name if size == 224 else f"{name}_{size}"
        with torch.device("meta"), no_init():
            ours = load(own).state_dict()
            theirs = timm.create_model(f"{name}_{size}").state_dict()
        assert {n: p.shape for n, p in ours.items()} == {n: p.shape for n, p in theirs.items()}


def test_other_sizes_and_files_of_other_sizes(tmp_path):
    model = load("volo_d1", img_size=64, **SMALL)
    assert model(torch.randn(1, 3, 96, 80)).shape == (1, 5)
    assert model(torch.randn(1, 3, 72, 72)).shape == (1, 5)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    other = load("volo_d1", tmp_path / "w.pth", img_size=96, **SMALL)
    assert other.pos_embed.shape == (1, 6, 6, 96)


def test_training_gives_dense_logits_and_the_box_of_mixed_tokens():
    model = load("volo_d1", img_size=64, **SMALL).train()
    torch.manual_seed(3)
    first, dense, box = model(torch.randn(2, 3, 64, 64))
    assert first.shape == (2, 5)
    assert dense.shape == (2, 16, 5)
    assert 0 <= box[0] <= box[2] <= 4
    assert 0 <= box[1] <= box[3] <= 4


def test_without_class_attention_and_dense_logits():
    model = load("volo_d1", img_size=64, post_layers=None, return_dense=False, **SMALL)
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 5)
    assert "cls_token" not in model.state_dict()


def test_checkpointing_changes_no_gradient():
    model = load("volo_d1", img_size=64, mix_token=False, **SMALL).eval()
    x = torch.randn(2, 3, 64, 64)
    found = []
    for enable in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(enable)
        model(x).sum().backward()
        found.append(model.network[0][0].attn.v.weight.grad.clone())
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"layers": (1, 1)}, "different numbers of stages"),
        ({"num_heads": (5, 6, 6)}, "does not divide"),
        ({"embed_dims": (48, 96, 192)}, "share one width"),
        ({"post_layers": ("sa",)}, "class attention, only"),
    ],
)
def test_what_cannot_be_built_is_told(wrong, told):
    with pytest.raises(OptionError, match=told):
        load("volo_d1", **{**SMALL, **wrong})
