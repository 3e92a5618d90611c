"""Targets, classes and values as text."""

from __future__ import annotations

import pytest
import torch

import limelight as ll
from limelight.probe.errors import TargetError
from limelight.probe.targets import class_in, target_in, value_in
from limelight.probe.targets.class_scores import by_name

NAMES = by_name(["cat", "dog", "7up", "--5", "²", "1e3"])
LOGITS = torch.tensor([[1.0, 5.0, 2.0, 4.0, 3.0, 0.0, -1.0, 8.0]])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", 7),
        (" 7 ", 7),
        ("+3", 3),
        ("-2", -2),
        ("007", 7),
        ("daisy", "daisy"),
        (" daisy ", " daisy "),
        ("--5", "--5"),
        ("+-5", "+-5"),
        ("- 5", "- 5"),
        ("²", "²"),
        ("٣", "٣"),
        ("7up", "7up"),
        ("1e3", "1e3"),
        ("3.0", "3.0"),
        ("1_000", "1_000"),
        ("", ""),
        ("-", "-"),
        ("9" * 19, "9" * 19),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_a_class_is_a_number_in_digits_or_a_name(text, expected):
    found = class_in(text)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("text", "index"), [("7", 7), (" +1", 1), ("7UP", 2), ("--5", 3), ("²", 4)]
)
def test_a_target_of_a_class_reads_its_score(text, index):
    assert target_in(text).resolve(NAMES)(LOGITS).item() == LOGITS[0, index]


def test_a_number_below_zero_and_an_unknown_name_are_refused():
    with pytest.raises(TargetError, match="counted from 0, not -2"):
        target_in("-2")
    with pytest.raises(TargetError, match="class name '²²' is unknown"):
        target_in("²²").resolve(NAMES)


def test_targets_with_a_word_in_front():
    assert target_in("margin: dog, --5").resolve(NAMES)(LOGITS).item() == 5.0 - 4.0
    assert target_in("top").fix(LOGITS).rows.tolist() == [7]
    assert [t.fix(LOGITS).rows.item() for t in target_in("top:3")] == [7, 1, 3]
    for text in ("top:", "top:²", "top:-1", "top:three"):
        with pytest.raises(TargetError, match="write top:3 for the three best"):
            target_in(text)
    with pytest.raises(TargetError, match="write margin:daisy,bee"):
        target_in("margin:cat")
    with pytest.raises(TargetError, match="counts from 1, not 0"):
        target_in("top:0")


@pytest.mark.parametrize(
    ("text", "value"),
    [("3", 3), ("0.5", 0.5), ("(1, 2)", (1, 2)), ("True", True), ("None", None), ("gelu", "gelu")],
)
def test_values_are_read_as_python_writes_them(text, value):
    assert value_in(text) == value


def test_the_same_text_means_the_same_class_everywhere():
    from limelight.models.inputs import class_index
    from limelight.reports.runs.plan import target_of

    net = ll.load("resnet18", num_classes=9, img_size=32)
    for text in ("7", " 7 ", "+7"):
        assert class_index(net, text) == 7
        assert target_of("label", [text, 7]).rows.tolist() == [7, 7]
    for text in ("--5", "²"):
        with pytest.raises(TargetError, match="is unknown; the model names no classes"):
            class_index(net, text)
        named = target_of("label", [text, "cat"])
        assert named.resolve(NAMES).rows.tolist() == [3 if text == "--5" else 4, 0]
    with pytest.raises(TargetError, match="counted from 0"):
        target_of("label", ["-3", "7"])
    with pytest.raises(TargetError, match="counted from 0"):
        target_of("label", [None, "7"])


def test_labels_of_a_listing_are_read_alike(tmp_path):
    pytest.importorskip("PIL")
    from PIL import Image

    names = ["--5", "²", " 7 ", "+3", "daisy"]
    for n in range(len(names)):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{n}.png")
    rows = [f"{n}.png,{name}" for n, name in enumerate(names)]
    (tmp_path / "rows.csv").write_text("\n".join(["path,label", *rows]), encoding="utf-8")
    labels = [row.label for row in ll.samples(tmp_path / "rows.csv").rows]
    assert labels == ["--5", "²", 7, 3, "daisy"]
