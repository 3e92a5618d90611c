"""Models of Hugging Face by folder and name, offline."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from foreign import import_foreign
from torch import nn

import limelight as ll
from limelight.models.adapters.load import load_foreign
from limelight.models.inputs import fitted
from limelight.probe.errors import ModelError
from limelight.probe.sites import adapt

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
NAMES = {0: "cat", 1: "dog", 2: "newt"}
PROCESSOR = {
    "size": {"height": 48, "width": 48},
    "resample": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
}


@pytest.fixture
def transformers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    library = import_foreign("transformers")
    library.utils.logging.disable_progress_bar()
    return library


@pytest.fixture
def folder(transformers: ModuleType, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], id2label=NAMES
    )
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path / "net")
    (tmp_path / "net" / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return tmp_path / "net"


def test_a_folder_with_its_processor(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    net = load_foreign("hf:./net", None, {})
    used = fitted(net)
    assert (used.size, used.resize, used.interpolation) == ((48, 48), (48, 48), "bilinear")
    assert (used.mean, used.std, used.notes) == ((0.5,) * 3, (0.25,) * 3, ())
    assert adapt(net).labels == ("cat", "dog", "newt")
    again = load_foreign(f"hf:{folder}", "imagenet", {})
    x = torch.rand(1, 3, 48, 48)
    assert torch.equal(net.eval()(x).logits, again.eval()(x).logits)
    explained = ll.explain(net, torch.rand(3, 30, 40), "gradcam", target="dog")
    assert explained.maps[0].target == "dog (1)"


def test_weights_may_be_random_or_another_file(folder: Path) -> None:
    net, drawn = (load_foreign(f"hf:{folder}", weights, {}) for weights in (None, "none"))
    name = "classifier.1.weight"
    assert not torch.equal(net.state_dict()[name], drawn.state_dict()[name])
    filled = load_foreign(f"hf:{folder}", str(folder / "model.safetensors"), {})
    assert torch.equal(net.state_dict()[name], filled.state_dict()[name])
    wider = load_foreign(f"hf:{folder}", "none", {"embedding_size": 12})
    assert wider.config.embedding_size == 12  # type: ignore[union-attr]


def test_a_head_that_the_files_lack_is_named(transformers: ModuleType, folder: Path) -> None:
    body = transformers.ResNetModel(transformers.ResNetConfig.from_pretrained(folder))
    body.save_pretrained(folder)
    with pytest.warns(UserWarning, match=r"lack classifier.1.bias, .*: these parts are random"):
        load_foreign(f"hf:{folder}", None, {})


def test_other_kinds_are_built_by_the_class_they_name(
    transformers: ModuleType, tmp_path: Path
) -> None:
    config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=11)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    net = load_foreign(f"hf:{tmp_path}", None, {})
    assert type(net).__name__ == "GPT2LMHeadModel"
    config.architectures = ["NoSuchModel"]
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="transformers has no image classifier, and its config"):
        load_foreign(f"hf:{tmp_path}", None, {})


@pytest.mark.usefixtures("transformers")
@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("hf:microsoft/resnet-50", "is not on this machine, and the hub cannot be reached"),
        ("hf:./nowhere", "folder './nowhere' does not exist"),
        ("hf:.", r"folder '\.' holds no config.json"),
        ("hf:", "'hf:' names no model"),
    ],
)
def test_what_cannot_be_loaded(
    spec: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(ModelError, match=told):
        load_foreign(spec, None, {})


def test_a_damaged_folder(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="could not be loaded"):
        load_foreign(f"hf:{folder}", None, {})
    assert isinstance(load_foreign(f"hf:{folder}", "none", {}), nn.Module)
