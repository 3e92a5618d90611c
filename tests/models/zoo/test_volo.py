"""VOLO against published sizes, timm's names and timm's outputs; its mixed tokens."""

from __future__ import annotations

import pytest
import torch
from fill import fill, image
from foreign import import_foreign

import limelight as ll
from limelight.models import load
from limelight.models.weights.load import no_init
from limelight.models.zoo.volo.model import VARIANTS
from limelight.probe.errors import OptionError

SMALL = {"layers": (1, 1, 1), "embed_dims": (48, 96, 96), "num_heads": (3, 6, 6), "num_classes": 5}


@pytest.mark.parametrize(
    ("name", "millions"),
    [("volo_d1", 26.63), ("volo_d2", 59), ("volo_d3", 86), ("volo_d4", 193), ("volo_d5", 296)],
)
def test_published_sizes(name, millions):
    with torch.device("meta"), no_init():
        count = sum(p.numel() for p in load(name, weights=None).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.006 if name == "volo_d1" else 0.6)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_timm_has_the_same_entries(variant):
    timm = import_foreign("timm")
    with torch.device("meta"), no_init():
        ours = load(variant.name, weights=None).state_dict()
        theirs = timm.create_model([variant.name, *variant.also][-1]).state_dict()
    assert {n: p.shape for n, p in ours.items()} == {n: p.shape for n, p in theirs.items()}


def test_other_sizes_and_files_of_other_sizes(tmp_path):
    model = load("volo_d1", weights=None, img_size=64, **SMALL)
    assert model(torch.randn(1, 3, 96, 80)).shape == (1, 5)
    assert model(torch.randn(1, 3, 72, 72)).shape == (1, 5)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    other = load("volo_d1", tmp_path / "w.pth", img_size=96, **SMALL)
    assert other.pos_embed.shape == (1, 6, 6, 96)


def test_a_file_with_other_classes_renews_both_heads(tmp_path):
    model = load("volo_d1", weights=None, img_size=64, **SMALL)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    with pytest.warns(UserWarning, match="another number of classes"):
        other = load("volo_d1", tmp_path / "w.pth", img_size=64, **{**SMALL, "num_classes": 9})
    assert other.head.weight.shape == other.aux_head.weight.shape == (9, 96)
    assert other.head.weight.abs().max() < 1
    assert other.aux_head.weight.abs().max() < 1
    assert torch.equal(other.cls_token, model.cls_token)


def test_training_gives_dense_logits_and_the_box_of_mixed_tokens():
    model = load("volo_d1", weights=None, img_size=72, **SMALL).train()
    torch.manual_seed(3)
    first, dense, box = model(torch.randn(2, 3, 72, 72))
    assert first.shape == (2, 5)
    assert dense.shape == (2, 16, 5)
    assert 0 <= box[0] < box[2] <= 4
    assert 0 <= box[1] < box[3] <= 4


def test_mixed_tokens_are_exchanged_and_their_logits_brought_back(monkeypatch):
    model = load("volo_d1", weights=None, img_size=64, **SMALL).train()
    model.patch_embed.eval()
    x = torch.randn(2, 3, 64, 64)
    plain = model.patch_embed(x).permute(0, 2, 3, 1)
    seen = []
    model.network[0].register_forward_pre_hook(lambda _m, given: seen.append(given[0]))
    model.network[0][0].register_forward_pre_hook(lambda _m, given: seen.append(given[0]))
    aux = []
    model.aux_head.register_forward_hook(lambda _m, _x, y: aux.append(y.unflatten(1, (4, 4))))
    monkeypatch.setattr(model, "_box", lambda height, width: (1, 0, 3, 2))
    _, dense, box = model(x)
    assert box == (1, 0, 3, 2)
    mixed, dense = seen[0], dense.unflatten(1, (4, 4))
    assert torch.equal(mixed[:, 2:6, :4], plain.flip(0)[:, 2:6, :4])
    assert torch.equal(mixed[:, :2], plain[:, :2])
    assert torch.equal(dense[:, 1:3, :2], aux[0].flip(0)[:, 1:3, :2])
    assert torch.equal(dense[:, 3:], aux[0][:, 3:])


@pytest.mark.parametrize("size", [(72, 72), (64, 96), (88, 56)])
def test_small_volo_computes_what_timm_computes(size):
    timm = import_foreign("timm")
    hyper = {"layers": (1, 2, 1, 1), "embed_dims": (48, 64, 64, 64), "num_heads": (3, 4, 2, 4)}
    rest = {"mlp_ratio": 2.0, "qkv_bias": True, "num_classes": 7}
    theirs = timm.models.volo.VOLO(**hyper, **rest, img_size=size, use_mix_token=True).eval()
    ours = load("volo_d1", weights=None, img_size=size, **hyper, **rest)
    fill(theirs)
    ours.load_state_dict(theirs.state_dict())
    x = torch.from_numpy(image((2, 3, *size), 7))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
        ours.mix_token = theirs.mix_token = False
        ours.train(), theirs.train()
        first, dense, _ = theirs.forward_train(x)  # first: before the classifier
        for a, b in zip(ours(x)[:2], (theirs.head(first), dense), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "hyper",
    [
        {"out_kernel": 5, "out_stride": 3, "out_padding": 2},
        {"out_stride": 1},
        {"out_kernel": 2, "out_padding": 0},
        {"patch_size": 16, "pooling_scale": 1},
        {"pooling_scale": 4},
        {"post_layers": ()},
        {"post_layers": ("ca",) * 3, "pool": "avg"},
        {"qkv_bias": True, "mlp_ratio": (1, 2, 3), "stem_hidden_dim": 24},
    ],
)
def test_other_keywords_run_in_both_modes(hyper):
    model = load("volo_d1", weights=None, img_size=64, **{**SMALL, **hyper})
    x = torch.randn(2, 3, 64, 64)
    assert model(x).shape == (2, 5)
    first, dense, _ = model.train()(x)
    side = 64 // hyper.get("patch_size", 8) // hyper.get("pooling_scale", 2)
    assert first.shape == (2, 5)
    assert dense.shape == (2, side * side, 5)


def test_dense_class_map_is_half_of_the_difference():
    model = load("volo_d1", weights=None, img_size=64, **SMALL)
    x = torch.randn(2, 3, 72, 64)
    t = ll.trace(model, x, (":dense", "head"))
    dense, first = t[":dense"].act, t["head"].act
    assert dense.shape == (2, 4, 4, 5)
    torch.testing.assert_close(model(x), first + 0.5 * dense.flatten(1, 2).amax(1))


@pytest.mark.parametrize("built", ["volo.d1_72"], indirect=True)
def test_outlook_map_times_values_is_the_mixing(built):
    d1, x = built.model, built.x
    t = ll.trace(d1, x[:1], ("network.0.3.attn:map", "network.0.3.attn.v", "network.0.3.attn.proj"))
    own, v, out = t["network.0.3.attn:map"].act, t["network.0.3.attn.v"].act, None
    mixed = own @ v.flatten(1, 2).unflatten(2, (6, 32)).transpose(1, 2)
    out = d1.network[0][3].attn.proj(mixed.transpose(1, 2).flatten(2)).unflatten(1, (9, 9))
    torch.testing.assert_close(out, t["network.0.3.attn.proj"].act, atol=1e-4, rtol=1e-4)


def test_without_class_attention_and_dense_logits():
    model = load(
        "volo_d1", weights=None, img_size=64, post_layers=None, return_dense=False, **SMALL
    )
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 5)
    assert "cls_token" not in model.state_dict()
    assert not any(name.startswith("aux_head") for name in model.state_dict())
    assert model.train()(torch.randn(2, 3, 64, 64)).shape == (2, 5)


def test_a_batch_does_not_change_its_members_and_half_precision_is_finite():
    model = load("volo_d1", weights=None, img_size=64, in_channels=1, **SMALL)
    x = torch.randn(3, 1, 64, 64)
    with torch.no_grad():
        alone = torch.cat([model(row[None]) for row in x])
        torch.testing.assert_close(model(x), alone, atol=1e-5, rtol=1e-5)
        half = model.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert half.isfinite().all()


def test_dropped_branches_grow_with_depth_and_spare_outlookers():
    small = {**SMALL, "layers": (2, 2, 1)}
    model = load("volo_d1", weights=None, img_size=64, drop_path=0.4, dropout=0.1, **small)
    rates = [b.drop for stage in (0, 2, 3) for b in model.network[stage]]
    assert rates == pytest.approx([0, 0, 0.2, 0.3, 0.4])
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x)[0], model(x)[0])


def test_checkpointing_changes_no_gradient():
    model = load("volo_d1", weights=None, img_size=64, mix_token=False, **SMALL).eval()
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
        ({"embed_dims": (48, 96, 192)}, "change after the second stage"),
        ({"post_layers": ("sa",)}, "is not 'ca'"),
        ({"patch_size": 7}, "give an even number"),
        ({"img_size": 8}, "give sides of at least 16"),
        ({"pooling_scale": 0}, "pooling_scale=0"),
        ({"pool": "tokens"}, "did you mean 'token'"),
    ],
)
def test_what_cannot_be_built_is_told(wrong, told):
    with pytest.raises(OptionError, match=told):
        load("volo_d1", weights=None, **{**SMALL, **wrong})
