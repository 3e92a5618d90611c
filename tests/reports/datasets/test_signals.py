"""Numbers in files and cells, and what their dimensions mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from limelight.probe.errors import LimelightError
from limelight.reports.datasets.signals import number, of_numbers, read_signal


@pytest.mark.parametrize(
    ("kind", "shape", "axes"),
    [
        ("series", (7,), "t"),
        ("series", (7, 2), ""),
        ("spectrogram", (4, 7), "f t"),
        ("spectrogram", (1, 4, 7), ""),
        ("volume", (3, 4, 5), "z y x"),
        ("film", (3, 4, 5), "t y x"),
        ("features", (3,), "c"),
        ("array", (3, 4), ""),
    ],
)
def test_arrays_are_their_places_with_channels_or_without(tmp_path, kind, shape, axes):
    values = np.random.default_rng(0).random(shape)
    np.save(tmp_path / "x.npy", values)
    for source in (tmp_path / "x.npy", values.tolist()):
        found = read_signal(kind, source)
        assert found.axes == axes
        torch.testing.assert_close(found.values, torch.from_numpy(values).float())


def test_a_series_of_lines_has_named_channels(tmp_path):
    (tmp_path / "x.csv").write_text("I,II\n1,-2\n3,4.5\n0,0\n", encoding="utf-8-sig")
    found = read_signal("series", tmp_path / "x.csv")
    assert (found.axes, found.names) == ("t c", ("I", "II"))
    assert found.values.tolist() == [[1, -2], [3, 4.5], [0, 0]]
    (tmp_path / "x.tsv").write_text("1\t-2\n3\t4\n")
    bare = read_signal("series", tmp_path / "x.tsv")
    assert (bare.names, bare.values.tolist()) == ((), [[1, -2], [3, 4]])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0,1,2\n5,6,7\n", "begins with the line '0,1,2', which may be names or values"),
        ("0\n0\n", "may be names or values"),
        (",I\n0,1\n", "no name above column 1, perhaps an index"),
        ("I,II\n1,2\n3\n", "has 2 channels at first and 1 at step 1"),
        ("I,II\n1,two\n", "step 0 holds 'two', which is no finite number"),
        ("I\n1\nnan\n", "step 1 holds 'nan', which is no finite number"),
        ("I,II\n", "holds no step"),
        ("", "holds no step"),
    ],
)
def test_lines_that_leave_open_what_they_are(tmp_path, text, told):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(LimelightError, match=told):
        read_signal("series", tmp_path / "x.csv")


def test_what_is_no_such_signal(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 4, 5)))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    (tmp_path / "x.wav").write_bytes(b"RIFF")
    for kind, name, told in (
        ("series", "x.npy", r"shape \(2, 3, 4, 5\), but a series is t, or with channels c"),
        ("features", "x.npy", "but a features is c"),
        ("series", "x.wav", r"ends in '.wav': give .npy, .csv, .tsv"),
        ("volume", "x.wav", "give .npy, .nii, .nii.gz, .dcm, .dicom, or a folder"),
        ("series", "gone.npy", "does not exist"),
        ("array", "objects.npy", "cannot be read"),
    ):
        with pytest.raises(LimelightError, match=told):
            read_signal(kind, tmp_path / name)
    with pytest.raises(LimelightError, match="holds no array of numbers"):
        of_numbers("series", [1, [2, 3]], "the cell")
    with pytest.raises(LimelightError, match="holds nothing, which is no finite number"):
        number("", "column 'age'")
