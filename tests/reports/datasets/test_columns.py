"""What columns hold is said in words or by their names, and nothing else."""

from __future__ import annotations

import pytest

from limelight.probe.errors import OptionError
from limelight.reports.datasets.columns import (
    InputColumn,
    in_header,
    input_columns,
    kind_of_file,
    named_in,
)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("features:age, bmi", [InputColumn("features", ("age", "bmi"))]),
        (["series:ecg"], [InputColumn("series", ("ecg",))]),
        ("volume", [InputColumn("volume")]),
        ("scan=volume", [InputColumn("volume", (), "scan")]),
        (
            ["picture:a", "mask=mask:m", "picture:b"],
            [
                InputColumn("picture", ("a",)),
                InputColumn("mask", ("m",), "mask"),
                InputColumn("picture", ("b",), "1"),
            ],
        ),
        (
            {"image": "picture:photo", "text": "sentence:caption"},
            [
                InputColumn("picture", ("photo",), "image"),
                InputColumn("sentence", ("caption",), "text"),
            ],
        ),
    ],
)
def test_inputs_in_words(words, found):
    assert list(input_columns(words)) == found
    assert list(input_columns([str(column) for column in found])) == found


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("serie:ecg", "KIND one of picture, .*did you mean 'series'"),
        ("series:", "write KIND or KIND:COLUMN"),
        ("features", r"names no columns: write features:\*"),
        ("series:a,b", "names several columns, but a series is in one"),
        (["series", "picture:a"], "KIND:COLUMN for each input"),
        ([], "one kind alone"),
        (["x=series:a", "x=series:b"], "the model's argument 'x' twice"),
    ],
)
def test_words_that_are_not_understood(words, told):
    with pytest.raises(OptionError, match=told):
        input_columns(words)


def test_wildcards_mean_columns_that_are_nothing_else():
    header = ["id", "age", "bmi", "label", "t0", "t1"]
    asked = input_columns(["features:*", "steps:t?"])
    every, steps = (in_header(c, header, ("id", "label"), "list.csv") for c in asked)
    assert every.columns == ("age", "bmi", "t0", "t1")
    assert steps.columns == ("t0", "t1")
    label, *_ = input_columns("features:label")
    assert in_header(label, header, ("label",), "list.csv").columns == ("label",)
    for words, told in (("features:bim", "did you mean 'bmi'"), ("series:e*", "no column 'e\\*'")):
        with pytest.raises(OptionError, match=told):
            in_header(*input_columns(words), header, ("id", "label"), "list.csv")


def test_names_of_columns_say_what_they_hold():
    header = ["id", "features.age", "series.ecg", "mask", "features.bmi", "label"]
    assert named_in(header) == (
        InputColumn("features", ("features.age", "features.bmi"), "0", ("age", "bmi")),
        InputColumn("series", ("series.ecg",), "1", ("ecg",)),
    )
    assert [c.kind for c in named_in(["picture", "sentence", "mask.lesion"])] == [
        "picture",
        "sentence",
        "mask",
    ]
    assert named_in(["mask", "features", "age", "timeseries"]) == ()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.NII.gz", "volume"), ("a.dcm", "volume"), ("a.npy", "array"), ("a.jpg", "picture")],
)
def test_endings_say_what_files_are(name, kind):
    assert kind_of_file(name) == kind
