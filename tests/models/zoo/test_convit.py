"""ConViT's maps against its golden case, published sizes; the digits model on its digits."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from shared import TESTS

import limelight as ll
from limelight.kernels.attention.reference import attention_statistics
from limelight.models import load
from limelight.models.inputs import labels
from limelight.models.weights.load import no_init
from limelight.models.zoo.convit import grid_offsets
from limelight.probe.errors import OptionError

LOCAL = 10


@pytest.mark.golden
@pytest.mark.parametrize("built", ["convit.tiny_64"], indirect=True)
def test_maps_gates_and_distances_equal_the_golden_case(built):
    case, tiny, x = built.case, built.model, built.x
    ports = ("map", "q", "k", "v", "position", "gate")
    t = ll.trace(tiny, x, [f"blocks.{n}.attn:{port}" for n in range(LOCAL) for port in ports])
    first = {port: t[f"blocks.3.attn:{port}"].act for port in ports}
    case.close("gated_attention", first["map"])
    case.close("positional_attention", first["position"].softmax(-1)[None])
    content = (first["q"] @ first["k"].mT * 48**-0.5).softmax(-1)
    case.close("content_attention", content)
    gates = [t[f"blocks.{n}.attn:gate"].act for n in range(LOCAL)]
    case.close("gates", torch.stack(gates))
    far = []
    for n in range(LOCAL):
        own = {port: t[f"blocks.{n}.attn:{port}"].act for port in ports if port != "map"}
        _, found = attention_statistics(**own, grid=(4, 4))
        far.append(found["distance"].mean((0, 2)))
    case.close("nonlocality_insitu", torch.stack(far))


@pytest.mark.parametrize(
    ("name", "count"),
    [("convit_tiny", 5_710_512), ("convit_small", 27_777_322), ("convit_base", 86_540_040)],
)
def test_published_sizes(name, count):
    with torch.device("meta"), no_init():
        assert sum(p.numel() for p in load(name, weights=None).parameters()) == count


def test_heads_start_around_their_offsets():
    model = load("convit_tiny", weights=None, depth=2, local_up_to_layer=1, img_size=224)
    attn = model.blocks[0].attn
    want = [[-1, -1, -1], [-1, 1, -1], [1, -1, -1], [1, 1, -1]]
    assert attn.pos_proj.weight.tolist() == want
    assert torch.equal(attn.v.weight, torch.eye(192))
    x = torch.randn(1, 196, 192)
    scores = attn.pos_proj(attn.offsets(196, x)).permute(2, 0, 1)
    q = torch.zeros(1, 4, 196, 48)
    _, found = attention_statistics(q, q, q, position=scores, gate=torch.ones(4), grid=(14, 14))
    want = torch.full((4,), 0.98594)
    torch.testing.assert_close(found["distance"].mean(2)[0], want, atol=5e-5, rtol=0)


def test_other_sizes_classes_and_channels():
    model = load(
        "convit_tiny", weights=None, depth=3, local_up_to_layer=2, num_classes=7, in_channels=1
    )
    assert model(torch.randn(2, 1, 96, 96)).shape == (2, 7)
    assert model(torch.randn(1, 1, 64, 96)).shape == (1, 7)
    with pytest.raises(OptionError, match="do not fit"):
        load("convit_tiny", weights=None, embed_dim=50)
    with pytest.raises(OptionError, match="leaves none"):
        load("convit_tiny", weights=None, depth=4)


def test_a_file_of_another_size_resizes_its_positions(tmp_path):
    small = load("convit_tiny", weights=None, depth=2, local_up_to_layer=1, img_size=64)
    torch.save(small.state_dict(), tmp_path / "w.pth")
    other = load("convit_tiny", tmp_path / "w.pth", depth=2, local_up_to_layer=1, img_size=128)
    assert other.pos_embed.shape == (1, 64, 192)
    same = load("convit_tiny", tmp_path / "w.pth", depth=2, local_up_to_layer=1, img_size=64)
    y = torch.randn(1, 3, 64, 64)
    assert torch.equal(same(y), small(y))


@pytest.mark.parametrize("built", [(32, 128), (64, 64), (128, 32)])
def test_a_grid_is_that_of_the_picture_not_of_as_many_tokens(built):
    hyper = {"depth": 2, "local_up_to_layer": 1, "use_pos_embed": False}
    model, want = (
        load("convit_tiny", weights=None, img_size=size, **hyper) for size in (built, (64, 64))
    )
    want.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(model(x), want(x))


def test_turning_a_picture_turns_the_offsets():
    like = torch.zeros(1)
    lying, standing = grid_offsets((2, 3), like), grid_offsets((3, 2), like)
    turned = torch.arange(6).reshape(2, 3).T.flatten()
    assert torch.equal(standing, lying[turned][:, turned][..., [1, 0, 2]])
    assert lying[0].tolist() == [[0, 0, 0], [1, 0, 1], [2, 0, 4], [0, 1, 1], [1, 1, 2], [2, 1, 5]]


def test_an_oblong_model_loads_its_own_file(tmp_path):
    hyper = {"depth": 2, "local_up_to_layer": 1, "img_size": (64, 96)}
    model = load("convit_tiny", weights=None, **hyper)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    x = torch.randn(1, 3, 64, 96)
    assert torch.equal(load("convit_tiny", tmp_path / "w.pth", **hyper)(x), model(x))


def test_training_after_inference_mode():
    model = load("convit_digits")
    with torch.inference_mode():
        model(torch.randn(1, 3, 32, 32))
    model.train()(torch.randn(1, 3, 32, 32)).sum().backward()
    assert model.blocks[0].attn.pos_proj.weight.grad.any()


def test_paths_drop_in_training_alone():
    torch.manual_seed(0)
    model = load("convit_digits", drop_path=0.9)
    assert [block.drop for block in model.blocks] == pytest.approx([0, 0.3, 0.6, 0.9])
    x = torch.randn(4, 3, 32, 32)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


def test_samples_do_not_see_each_other_and_bfloat16_is_finite():
    model = load("convit_digits", weights="digits")
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        whole = model(x)
        for n in range(3):
            torch.testing.assert_close(model(x[n : n + 1]), whole[n : n + 1])
        low = model.bfloat16()(x.bfloat16())
    assert low.isfinite().all()
    assert (low.float() - whole).abs().max() < 0.5


def test_checkpointing_changes_no_gradient():
    model = load("convit_digits").train()
    y = torch.randn(2, 3, 32, 32)
    found = []
    for enable in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(enable)
        model(y).sum().backward()
        found.append(model.blocks[0].attn.qk.weight.grad.clone())
    torch.testing.assert_close(*found)


@pytest.fixture(scope="module")
def digits():
    datasets = pytest.importorskip("sklearn.datasets")
    raw = datasets.load_digits()
    test = torch.arange(len(raw.target)) % 5 == 4
    pictures = torch.from_numpy(raw.images).float()[test, None] / 16
    grown = F.interpolate(pictures, 32, mode="bilinear", align_corners=False)
    return (grown.expand(-1, 3, -1, -1) - 0.5) / 0.5, torch.from_numpy(raw.target)[test]


def test_the_digits_model_reads_digits(digits):
    model, (pictures, truth) = load("convit_digits", weights="digits"), digits
    told = json.loads((TESTS / "parity" / "convit_digits.json").read_text())
    with torch.no_grad():
        found = model(pictures)
    assert float((found.argmax(1) == truth).float().mean()) == pytest.approx(
        told["measured"]["test_accuracy"]["as trained"], abs=1e-4
    )
    want = torch.tensor(told["expected_logits_first5"])
    torch.testing.assert_close(found[:5], want, rtol=0, atol=2e-3)
    gates = torch.stack([model.blocks[n].attn.gating_param.sigmoid() for n in range(3)])
    torch.testing.assert_close(
        gates, torch.tensor(told["measured"]["gates_sigmoid"]), rtol=0, atol=1e-4
    )


def test_digits_have_names(digits):
    model, (pictures, truth) = load("convit_digits", weights="digits"), digits
    assert labels(model) == tuple("0123456789")
    assert labels(load("convit_digits", weights=None, num_classes=3)) == ()
    named, numbered = (
        ll.maps(model, pictures[:1], "gradcam", target=ll.label(one), sites="blocks.2")[0]
        for one in ("4", 4)
    )
    assert int(truth[0]) == 4
    assert torch.equal(named.values, numbered.values)


@pytest.mark.parametrize(("gate", "want"), [(1.0, 0.8078), (0.0, 0.117)])
def test_forcing_the_gates_costs_accuracy(digits, gate, want):
    model, (pictures, truth) = load("convit_digits", weights="digits"), digits
    edits = {f"blocks.{n}.attn:gate": lambda g, _: torch.full_like(g, gate) for n in range(3)}
    found = ll.patch(model, pictures, edits)
    assert float((found.argmax(1) == truth).float().mean()) == pytest.approx(want, abs=1e-3)
