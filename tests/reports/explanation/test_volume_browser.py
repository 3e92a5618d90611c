"""Volumes and dense outputs in a real browser: planes, slices, areas, restored pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import browser  # noqa: F401
from kinds import INPUT, Open, opening, over_photo, volume
from PIL import Image
from reader import Page

from limelight.probe.results.colour_scales import table
from limelight.probe.results.maps import Maps
from limelight.probe.results.saliency_map import SaliencyMap
from limelight.reports import Areas, Explanation, Sample

if not os.environ.get("CI"):
    pytest.importorskip("selenium")
from selenium.webdriver import Keys


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Open]:  # noqa: F811
    yield from opening(browser, tmp_path)


def value(text: str) -> float:
    return float(text.rsplit(": ", 1)[1])


def planes(page: Page) -> dict[str, tuple[float, float, float, float]]:
    """Where the planes of a volume of 4 x 6 x 5 lie in the window."""
    left, top, width, height = page.rect("#picture")
    deep, gap = 4, 0.025 * 6
    scale_x, scale_y = width / (5 + gap + deep), height / (6 + gap + deep)
    return {
        "across": (left, top, 5 * scale_x, 6 * scale_y),
        "upright": (left + (5 + gap) * scale_x, top, deep * scale_x, 6 * scale_y),
        "level": (left, top + (6 + gap) * scale_y, 5 * scale_x, deep * scale_y),
    }


def test_three_planes_of_a_volume_read_their_values(opened: Open) -> None:
    page = opened(volume())
    text = page.find("#readout").text
    assert text.startswith("z 2, y 3, x 2: ")
    assert value(text) == pytest.approx(2 * 30 + 3 * 5 + 2, abs=0.3)
    assert page.find("#sliced").text == "z 2 of 4"
    for plane, (down, right) in (("across", (1, 4)), ("upright", (5, 3)), ("level", (0, 1))):
        left, top, width, height = planes(page)[plane]
        n_down, n_right = {"across": (6, 5), "upright": (6, 4), "level": (4, 5)}[plane]
        read = page.point(
            left + (right + 0.5) / n_right * width, top + (down + 0.5) / n_down * height
        )
        z, y, x = {
            "across": (2, down, right),
            "upright": (right, down, 2),
            "level": (down, 3, right),
        }[plane]
        assert read.startswith(f"z {z}, y {y}, x {x}: ")
        assert value(read) == pytest.approx(z * 30 + y * 5 + x, abs=0.3)


def test_slider_keys_and_pointer_move_through_a_volume(opened: Open) -> None:
    page = opened(volume())
    before = page.pixels()
    page.slide("slice", Keys.ARROW_LEFT)
    assert page.find("#sliced").text == "z 1 of 4"
    assert (page.pixels() != before).any()
    page.press(Keys.PAGE_UP)
    assert page.find("#readout").text.startswith("z 0, y 3, x 2: ")
    page.press(Keys.PAGE_DOWN * 9)
    assert page.find("#readout").text.startswith("z 3, ")
    page.press(Keys.SHIFT + Keys.ARROW_LEFT + Keys.ARROW_UP)
    assert page.find("#readout").text.startswith("z 3, y 2, x 1: ")
    left, top, width, height = planes(page)["upright"]
    page.point(left + 0.1 * width, top + 0.95 * height, press=True)
    assert page.find("#sliced").text == "z 0 of 4"
    page.click("#methods label", 1)
    text = page.find("#readout").text
    assert text.startswith("z 0, y 5, x 1: "), "another map is read at the same point"
    assert value(text) == pytest.approx(4 / 11, abs=0.01)


def test_the_slice_is_that_of_the_volume_and_of_the_map(opened: Open) -> None:
    page = opened(volume())
    page.slide("opacity", Keys.HOME)
    grey = page.pixels()
    scale = 800 / (6 + 0.15 + 4)
    centre = lambda n: round((n + 0.5) * scale)  # noqa: E731
    for z in (2, 1):
        for y, x in ((0, 0), (5, 4), (1, 4)):
            want = round(255 * (z * 30 + y * 5 + x) / 119)
            assert abs(grey[centre(y), centre(x), 0] - want) <= 2
        page.slide("slice", Keys.ARROW_LEFT)
        grey = page.pixels()
    page.slide("opacity", Keys.END)
    for control in ("#smooth", "#fade"):
        page.click(control)
    colours = table("sequential").astype(int)
    seen = page.pixels()[centre(5), centre(4), :3]
    assert np.abs(seen - colours[round(254 * 29 / 119)]).max() <= 3


def test_frames_of_a_film_and_maps_without_a_volume(opened: Open) -> None:
    m = SaliencyMap(torch.rand(3, 4, 5), "t y x", "s", "yes", "gradient", INPUT, (0, 0, 0, 3, 4, 5))
    film = Sample("s", torch.rand(3, 3, 4, 5), "c t y x")
    page = opened(Explanation(Maps([m]), samples=(film,)))
    assert page.find("#slices label").text == "Frame"
    assert page.find("#sliced").text == "t 1 of 3"
    page = opened(Explanation(Maps([replace(m, extent=())])))
    assert page.find("#readout").text.startswith("t 1, y 2, x 2: ")
    assert np.ptp(page.pixels()[..., :3]) > 50


def test_areas_are_outlined_named_and_measured(opened: Open) -> None:
    classes = torch.zeros(8, 8, dtype=torch.int64)
    classes[2:6, 4:] = 1
    page = opened(over_photo(areas={"s": Areas(classes, ("sky", "sea"))}))
    assert page.find("#says").text == "Where the model sees what"
    tops = [row.text.replace("\n", " ") for row in page.all("#top li")]
    assert tops == ["sky 75.0 %", "sea 25.0 %"]
    page.slide("opacity", Keys.HOME)
    lines = (page.pixels()[..., :3] < 250).any(-1)
    cell = 672 / 8
    rows_of, columns_of = lines.nonzero()
    assert rows_of.min() == pytest.approx(2 * cell, abs=4)
    assert rows_of.max() == pytest.approx(6 * cell, abs=4)
    assert columns_of.min() == pytest.approx(4 * cell, abs=4)
    assert not lines[int(3 * cell) : int(5 * cell), -2:].any(), "no line along the picture's edge"
    assert page.point_in("#picture", 0, 5.5 / 8, 3.5 / 8) == "Row 3, column 5: 0 · sea"
    assert page.point_in("#picture", 0, 1.5 / 8, 3.5 / 8) == "Row 3, column 1: 0 · sky"
    page.click("#areas")
    assert (page.pixels()[..., :3] > 250).all()


def test_the_restored_picture_is_beside_the_photo(opened: Open) -> None:
    page = opened(over_photo(restored={"s": Image.new("RGB", (8, 8), "black")}))
    page.slide("opacity", Keys.HOME)
    seen = page.pixels()[336, :, 0]
    assert (seen[:330] > 250).all()
    assert (seen[340:] < 5).all()
    page.slide("wipe", Keys.HOME)
    assert (page.pixels()[..., 0] < 5).all()
    page.slide("wipe", Keys.END)
    assert (page.pixels()[..., 0] > 250).all()
    page = opened(over_photo())
    assert not page.find("#wipe").is_displayed()
    assert not page.find("#areas").is_displayed()
