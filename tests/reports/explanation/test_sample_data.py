"""Samples as the page gets them: every number comes back, and what is left out is countable."""

from __future__ import annotations

from base64 import b64decode

import numpy as np
import pytest
import torch

from limelight.probe.errors import OptionError
from limelight.reports import Areas, Sample
from limelight.reports.explanation.sample_data import (
    areas_data,
    drawn_sample,
    in_blocks,
    seen_sample,
)

NAN = float("nan")


def decoded(form: dict) -> np.ndarray:
    codes = np.frombuffer(b64decode(form["bytes"]), "<u2").astype(float)
    codes[codes == 65535] = np.nan
    rows = codes.reshape(form["size"][0], -1)
    return np.array(form["base"])[:, None] + rows * np.array(form["step"])[:, None]


def test_a_series_comes_back_to_a_step_of_each_channel() -> None:
    values = torch.randn(3, 200) * torch.tensor([[1.0], [1e-6], [1e6]])
    values[0, 5], values[1, 7] = NAN, float("inf")
    form = drawn_sample(Sample("s", values, "c t", ("a", "b", "c")))
    assert (form["kind"], form["size"], form["every"]) == ("series", [3, 200], 1)
    assert form["names"] == ["a", "b", "c"]
    found, want = decoded(form), values.double().numpy().copy()
    want[1, 7] = np.nan
    assert np.array_equal(np.isnan(found), np.isnan(want))
    assert (np.nanmax(np.abs(found - want), axis=1) <= np.array(form["step"]) / 2 * 1.001).all()


def test_flat_and_empty_channels_survive() -> None:
    form = drawn_sample(Sample("s", torch.tensor([[2.0, 2.0], [NAN, NAN]]), "c t"))
    assert decoded(form)[0].tolist() == [2.0, 2.0]
    assert np.isnan(decoded(form)[1]).all()


def test_of_a_long_series_the_least_and_the_greatest_stay() -> None:
    values = torch.zeros(1, 1_000_000)
    values[0, 123_456], values[0, 999_999], values[0, 5] = 3.0, -2.0, NAN
    form = drawn_sample(Sample("s", values, "c t"))
    every, found = form["every"], decoded(form)[0]
    assert every == 4
    assert len(found) <= 1 << 18
    run = 123_456 // (2 * every)
    assert found[2 * run : 2 * run + 2] == pytest.approx([0.0, 3.0], abs=1e-4)
    assert found[-2:] == pytest.approx([-2.0, 0.0], abs=1e-4)
    assert not np.isnan(found).any()


def test_a_table_keeps_its_numbers() -> None:
    form = drawn_sample(Sample("s", torch.tensor([41.0, NAN, 1e-5]), "c", ("age", "a", "b")))
    assert form["kind"] == "table"
    assert form["names"] == ["age", "a", "b"]
    assert form["values"] == [41.0, None, pytest.approx(1e-5)]


def test_a_volume_in_grey_and_in_colour() -> None:
    values = torch.arange(24.0).reshape(1, 2, 3, 4)
    form = drawn_sample(Sample("s", values, "c z y x"))
    assert (form["kind"], form["axes"], form["size"]) == ("volume", "z y x", [2, 3, 4])
    grey = np.frombuffer(b64decode(form["bytes"]), np.uint8)
    assert grey.tolist() == [round(255 * n / 23) for n in range(24)]
    colour = drawn_sample(Sample("s", torch.stack([values[0], -values[0], values[0]]), "c t y x"))
    pixels = np.frombuffer(b64decode(colour["bytes"]), np.uint8).reshape(2, 3, 4, 3)
    assert colour["channels"] == 3
    assert pixels[1, 2, 3].tolist() == [255, 0, 255]


def test_large_volumes_are_means_of_blocks_that_say_so() -> None:
    x = torch.arange(300.0).expand(16, 300, 300)
    small, block = in_blocks(x)
    assert block == [1, 2, 1] or block == [1, 1, 2]
    assert list(small.shape) == [-(-n // k) for n, k in zip(x.shape, block, strict=True)]
    assert small.numel() <= 1 << 20
    assert torch.equal(small[0, 0], x[0, 0].reshape(-1, block[2]).mean(1))
    odd, block = in_blocks(torch.ones(1, 1100, 1100) * 3)
    assert (odd == 3).all(), "the last blocks are smaller, and means still"
    small = torch.rand(4, 5, 6)
    assert in_blocks(small)[0] is small


def test_areas_by_share_and_as_runs() -> None:
    classes = torch.tensor([[7, 7, 2], [7, 2, 2], [7, 7, 0]])
    form = areas_data(Areas(classes, ("sky",)))
    assert form["classes"] == [["class 7", 7], ["class 2", 2], ["sky", 0]]
    assert form["shares"] == pytest.approx([5 / 9, 3 / 9, 1 / 9])
    runs = np.frombuffer(b64decode(form["runs"]), "<u4").reshape(-1, 2)
    places = np.repeat(runs[:, 0], runs[:, 1]).reshape(3, 3)
    numbers = np.array([n for _, n in form["classes"]])
    assert np.array_equal(numbers[places], classes.numpy())


@pytest.mark.parametrize(
    ("shape", "axes", "words"),
    [
        ((4,), "c", "4 features as the model sees them"),
        ((1, 9), "c t", "9 steps as the model sees them"),
        ((2, 9), "c t", "2 channels of 9 steps as the model sees them"),
        ((1, 3, 4, 5), "c z y x", "3 × 4 × 5 values (z y x) as the model sees them"),
    ],
)
def test_sizes_in_words(shape: tuple[int, ...], axes: str, words: str) -> None:
    assert seen_sample(Sample("s", torch.zeros(shape), axes)) == words


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(OptionError, match="over 'c y x' cannot be drawn"):
        Sample("s", torch.zeros(3, 4, 5), "c y x")
    with pytest.raises(OptionError, match=r"shape \(3,\) over 'c t'"):
        Sample("s", torch.zeros(3), "c t")
    with pytest.raises(OptionError, match="gives 2 names, but 's' has 3 features"):
        Sample("s", torch.zeros(3), "c", ("a", "b"))
    with pytest.raises(OptionError, match="gives 2 names, but 's' has 3 channels"):
        Sample("s", torch.zeros(3, 9), "c t", ("a", "b"))
    with pytest.raises(OptionError, match="channels of a series or columns"):
        Sample("s", torch.zeros(1, 2, 3, 4), "c z y x", ("a",))
