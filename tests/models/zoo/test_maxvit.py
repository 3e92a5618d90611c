"""MaxViT in both layouts against published sizes, timm's names and timm's outputs."""

from __future__ import annotations

import pytest
import torch
from fill import fill, image
from foreign import import_foreign
from shared import golden

import limelight as ll
from limelight.models import load
from limelight.models.weights.load import no_init
from limelight.probe.errors import ModelError, OptionError

SMALL = {"embed_dim": (32, 64), "depths": (1, 1), "stem_width": (16, 32), "img_size": 64,
         "num_classes": 5, "window": 4, "grid": 4}  # fmt: skip


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
        ("maxvit_rmlp_pico_rw_256", 7.52),
        ("maxvit_rmlp_small_rw_224", 64.9),
        ("maxvit_rmlp_base_rw_384", 116.1),
    ],
)
def test_published_sizes_and_timms_names(name, millions):
    with torch.device("meta"), no_init():
        ours = load(name, weights=None)
    assert sum(p.numel() for p in ours.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)
    timm = import_foreign("timm")
    with torch.device("meta"):
        theirs = timm.create_model(name).state_dict()
    assert {n: p.shape for n, p in ours.state_dict().items()} == {
        n: p.shape for n, p in theirs.items()
    }


@pytest.mark.parametrize("layout", ["tf", "rw"])
def test_larger_pictures_and_files_of_another_window(layout, tmp_path):
    model = load("maxvit_tiny_tf_224", weights=None, layout=layout, **SMALL)
    assert model(torch.randn(1, 3, 96, 64)).shape == (1, 5)
    with pytest.raises(ModelError, match="does not divide into windows"):
        model(torch.randn(1, 3, 72, 72))
    if layout == "tf":
        torch.save(model.state_dict(), tmp_path / "w.pth")
        other = load("maxvit_tiny_tf_224", tmp_path / "w.pth", **{**SMALL, "window": 2})
        assert other(torch.randn(1, 3, 64, 64)).shape == (1, 5)


def test_checkpointing_changes_no_gradient():
    model = load("maxvit_tiny_tf_224", weights=None, **SMALL).eval()
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
        load("maxvit_tiny_tf_224", weights=None, layout="jax")
    with pytest.raises(OptionError, match="divide by dim_head=32"):
        load("maxvit_tiny_tf_224", weights=None, embed_dim=(48, 64), depths=(1, 1))


def test_every_form_has_timms_names():
    timm = import_foreign("timm")
    forms = [card.name for card in ll.list_models("maxvit_*")]
    assert len(forms) == 26
    for name in forms:
        with torch.device("meta"), no_init():
            ours = load(name, weights=None)
        with torch.device("meta"):
            theirs = timm.create_model(name, num_classes=1000).state_dict()
        found = [(n, p.shape) for n, p in ours.state_dict().items()]
        assert found == [(n, p.shape) for n, p in theirs.items()], name


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("maxvit_rmlp_pico_rw_256", (64, 96)),
        ("maxvit_rmlp_small_rw_224", 64),
        ("maxvit_rmlp_base_rw_224", 64),
        ("maxvit_pico_rw_256", (96, 64)),
    ],
)
def test_forms_without_golden_cases_compute_what_timm_computes(name, size):
    timm = import_foreign("timm")
    with no_init():
        ours = load(name, weights=None, img_size=size)
    fill(ours, 3)
    theirs = timm.create_model(name, img_size=size).eval()
    theirs.load_state_dict(ours.state_dict())
    sides = (size, size) if isinstance(size, int) else size
    x = torch.from_numpy(image((1, 3, *sides), 5))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("case_name", "other", "name"),
    [
        ("maxvit.tiny_tf_224", "maxvit_nano_rw_256", "maxvit_tiny_tf_224"),
        ("maxvit.nano_rw_128x96", "maxvit_tiny_tf_224", "maxvit_nano_rw_256"),
    ],
)
def test_the_words_of_a_case_build_its_network(case_name, other, name):
    config = golden(case_name).case["config"]
    config = {"output_bias": True, **config}  # what the tf case leaves out
    with no_init():
        ours, theirs = (
            load(other, weights=None, **config),
            load(name, weights=None, img_size=config["img_size"]),
        )
    assert list(ours.state_dict()) == list(theirs.state_dict())
    fill(ours, 1)
    fill(theirs, 1)
    side = config["img_size"]
    x = torch.randn(1, 3, *((side, side) if isinstance(side, int) else side))
    with torch.no_grad():
        assert torch.equal(ours(x), theirs(x))


def test_fresh_weights_are_drawn_as_timm_draws_them():
    torch.manual_seed(0)
    block = load("maxvit_tiny_tf_224", weights=None).stages[2].blocks[0]
    qkv, depthwise = block.attn_grid.attn.qkv, block.conv.conv2_kxk.weight
    assert qkv.weight.std().item() == pytest.approx((2 / (4 * 256)) ** 0.5, rel=0.02)
    assert not qkv.bias.any()
    assert 0 < block.attn_grid.mlp.fc1.bias.abs().max() < 1e-5
    assert depthwise.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.03)
    assert block.attn_block.attn.rel_pos().std().item() == pytest.approx(0.02, rel=0.1)


def test_flat_bias_tables_of_another_window_fit_too(tmp_path):
    model = load("maxvit_nano_rw_256", weights=None, layout="rw", **SMALL)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    other = load("maxvit_nano_rw_256", tmp_path / "w.pth", **{**SMALL, "window": (2, 4)})
    own, new = (m.stages[0].blocks[0].attn_block.attn.rel_pos for m in (model, other))
    table = own.relative_position_bias_table.T.unflatten(1, (7, 7))
    want = torch.nn.functional.interpolate(table[None], (3, 7), mode="bilinear")[0]
    torch.testing.assert_close(new.relative_position_bias_table.T, want.flatten(1))


@pytest.mark.parametrize("name", ["maxvit_tiny_tf_224", "maxvit_rmlp_small_rw_224"])
def test_batches_channels_and_half_precision(name):
    torch.manual_seed(0)
    model = load(name, weights=None, in_channels=1, **SMALL)
    x = torch.randn(3, 1, 64, 64)
    with torch.no_grad():
        whole, apart = model(x), torch.cat([model(one[None]) for one in x])
        torch.testing.assert_close(whole, apart, rtol=1e-4, atol=1e-5)
        assert model.bfloat16()(x.bfloat16()).isfinite().all()


@pytest.mark.parametrize(
    ("hyper", "told"),
    [
        ({"rel_pos": "rope"}, "rel_pos='rope' is unknown: write 'bias_tf' or"),
        ({"padding": "valid"}, "write 'same' or 'symmetric'"),
        ({"act": "tanh"}, "there is no activation 'tanh'; did you mean"),
    ],
)
def test_unknown_words_are_told(hyper, told):
    with pytest.raises(OptionError, match=told):
        load("maxvit_tiny_tf_224", weights=None, **SMALL, **hyper)
