"""ViG and hierarchical ViG: published sizes, files, switches."""

from __future__ import annotations

import pytest
import torch

from limelight.models import load
from limelight.models.registry import hyper_parameters
from limelight.models.weights.load import no_init
from limelight.models.zoo.vig import hierarchical as vig_h
from limelight.probe.errors import OptionError


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("vig_tiny", 5_834_536),
        ("vig_small", 22_615_144),
        ("vig_base", 89_022_184),
        ("vig_h_tiny", 28_600_680),
        ("vig_h_small", 50_051_688),
        ("vig_h_base", 88_904_360),
    ],
)
def test_published_sizes(name, count):
    with torch.device("meta"), no_init():
        assert sum(p.numel() for p in load(name, weights=None).parameters()) == count


def test_the_published_eval_halves_once_more():
    model = load("vig_tiny", weights=None, depth=1)
    x = torch.randn(1, 196, 192)
    mixer = model.blocks[0].attn
    with torch.no_grad():
        mixer.qkv_proj.weight.mul_(1000)  # far above eps
        once = mixer(x, (14, 14))
        mixer.halve = False
        assert not torch.equal(mixer(x, (14, 14)), once)
        mixer.g_norm.eps = 1e-20
        whole = mixer(x, (14, 14))
        mixer.halve = True
        torch.testing.assert_close(mixer(x, (14, 14)), whole)  # but for eps the norm undoes it


def test_old_names_and_square_kernels_are_read(tmp_path):
    model = load(
        "vig_h_tiny", weights=None, dims=32, depths=(1, 1), num_heads=(1, 2), num_classes=5
    )
    old = {}
    for name, value in model.state_dict().items():
        name = name.replace("classifier.", "").replace(".op.", ".self_attention.")
        name = name.replace("patch_embed.0", "patch_embed.proj").replace(
            "patch_embed.2", "patch_embed.norm"
        )
        name = name.replace("blocks.0.norm.", "blocks.0.ln_1.")
        old[name] = value[:, :, None, None] if "qkv_proj" in name or "fc1" in name else value
    torch.save({"model": old}, tmp_path / "old.pth")
    again = load("vig_h_tiny", tmp_path / "old.pth", dims=32, depths=(1, 1), num_heads=(1, 2),
                 num_classes=5)  # fmt: skip
    x = torch.randn(1, 3, 40, 56)
    assert torch.equal(again(x), model(x))


def test_a_file_of_another_size_resizes_its_positions(tmp_path):
    torch.save(load("vig_tiny", weights=None, depth=1).state_dict(), tmp_path / "w.pth")
    model = load("vig_tiny", tmp_path / "w.pth", depth=1, img_size=128)
    assert model.pos_embed.shape == (1, 64, 192)
    assert model(torch.randn(1, 3, 128, 128)).shape == (1, 1000)


SMALL = [
    ("vig_tiny", {"depth": 2, "num_classes": 4, "in_channels": 1}),
    ("vig_h_tiny", {"dims": 32, "depths": (1, 1), "num_heads": (1, 2), "in_channels": 1}),
]


@pytest.mark.parametrize(("name", "small"), SMALL)
def test_odd_sizes_single_pictures_and_halves(name, small):
    model = load(name, weights=None, **small)
    again = load(name, weights=None, **small)
    again.load_state_dict(model.state_dict())
    x = torch.randn(3, 1, 71, 100)
    with torch.no_grad():
        y = model(x)
        assert torch.equal(again(x), y)
        torch.testing.assert_close(model(x[1:2]), y[1:2], rtol=1e-4, atol=1e-5)
        half = again.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    assert half.isfinite().all()


@pytest.mark.parametrize(("name", "small"), SMALL)
def test_checkpointing_changes_no_gradient(name, small):
    model = load(name, weights=None, **small).train()
    x = torch.randn(2, 1, 64, 64)
    found = []
    for enable in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(enable)
        model(x).sum().backward()
        found.append(next(p.grad.clone() for n, p in model.named_parameters() if "qkv" in n))
    torch.testing.assert_close(*found)


def test_switches_of_no_published_model_are_refused():
    refused = r"if_cls_token=True was asked of 'vig_tiny', but .* keeps if_cls_token=False"
    with pytest.raises(OptionError, match=refused):
        load("vig_tiny", weights=None, if_cls_token=True)
    with pytest.raises(OptionError, match="keeps rope_mode='none': leave it out"):
        load("vig_h_tiny", weights=None, rope_mode="axial")
    assert hyper_parameters("vig_tiny")["patch_embed_version"] == "v2"
    with pytest.raises(OptionError, match="different numbers of stages"):
        vig_h.vig_h(depths=(1, 1))
    with pytest.raises(OptionError, match="do not divide into 5 heads"):
        load("vig_tiny", weights=None, num_heads=5)
