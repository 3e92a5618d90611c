"""Boxes over a photo, and photos beside a photo, in a real browser."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import browser, resize  # noqa: F401
from kinds import INPUT, Open, opening
from PIL import Image
from reader import Page, contrast

import limelight as ll
from limelight.probe.results.colour_scales import table
from limelight.probe.results.map_values import About
from limelight.probe.results.maps import Maps
from limelight.probe.results.saliency_map import SaliencyMap
from limelight.probe.sites.site import Site
from limelight.reports import Explanation, Photo
from limelight.reports.explanation.contents import Shapes

if not os.environ.get("CI"):
    pytest.importorskip("selenium")
from selenium.webdriver import Keys

ACCENT = (180, 232, 78)
SIDE = 96


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Open]:  # noqa: F811
    yield from opening(browser, tmp_path)


def on(sample: str, values: torch.Tensor, target: str = "yes", site: Site = INPUT) -> SaliencyMap:
    extent = (0, 0, SIDE, SIDE)
    return SaliencyMap(values, "y x", sample, target, "gradient", site, extent, About(score=0.75))


def grey(level: int) -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE), (level, level, level))


def found() -> Explanation:
    """Four boxes of which the target `yes` reads the second; a line belongs to the first."""
    corners = torch.tensor([[8, 12, 40, 44], [48, 24, 88, 80], [4, 60, 30, 90], [60, 2, 90, 20]])
    boxes = ll.Shape.boxes(corners, torch.tensor([0.9, 0.8, 0.6, 0.2]), [0, 1, 1, 2])
    line = ll.Shape(torch.tensor([[24.0, 28.0], [24.0, 92.0]]), "line", of=0)
    shapes = Shapes([*boxes, line], {"yes": (1,), "no": (0,)}, ("person", "dog", "hat"))
    maps = [on("s", torch.zeros(4, 4)), on("s", torch.zeros(4, 4), "no")]
    crop = (0, 100, 2 * SIDE, 100 + 2 * SIDE)
    photo = Photo("s", grey(60), (2 * SIDE, 400), crop)
    return Explanation(Maps(maps), (photo,), shapes={"s": shapes})


def rows(page: Page) -> list[str]:
    return [row.text.replace("\n", " ") for row in page.all("#shapes button")]


def near(page: Page, x: float, y: float, colour: tuple[int, int, int]) -> bool:
    """Whether the canvas shows a colour at a place, in pixels of the photo."""
    pixels = page.pixels()
    scale = pixels.shape[0] / SIDE
    at, to = round(x * scale), round(y * scale)
    around = pixels[max(0, to - 2) : to + 3, max(0, at - 2) : at + 3, :3]
    return bool((np.abs(around - colour).max(-1) < 80).any())  # thin lines are antialiased


def test_boxes_lie_where_they_are_and_the_explained_one_is_marked(opened: Open) -> None:
    page = opened(found())
    page.slide("opacity", Keys.HOME)
    for x, y in ((48, 70), (88, 70), (60, 80)):
        assert near(page, x, y, ACCENT), (x, y)
    for x, y in ((8, 30), (40, 30), (20, 44), (4, 80), (30, 70)):
        assert near(page, x, y, (255, 255, 255)), (x, y)
    assert not near(page, 60, 15, (255, 255, 255)), "0.2 lies below the threshold"
    assert not near(page, 24, 70, (255, 255, 255)), "the line belongs to a box not chosen"
    assert rows(page) == [
        "dog 0.8 columns 196 to 276, rows 48 to 160 of the file explained",
        "person 0.9 columns 116 to 180, rows 24 to 88 of the file",
        "dog 0.6 columns 108 to 160, rows 120 to 180 of the file",
    ]
    assert page.find("#counted").text == "3 of 4 shown"
    heard = page.find("#picture").get_attribute("aria-label")
    assert heard.endswith("; found: dog 0.8 (explained), person 0.9, dog 0.6")


def test_the_threshold_the_target_and_the_switch(opened: Open) -> None:
    page = opened(found())
    page.slide("opacity", Keys.HOME)
    page.slide("least", Keys.HOME)
    assert page.find("#from").text == "0"
    assert [row[:7] for row in rows(page)] == ["dog 0.8", "person ", "dog 0.6", "hat 0.2"]
    assert near(page, 60, 15, (255, 255, 255))
    page.slide("least", Keys.END)
    assert [row[:7] for row in rows(page)] == ["dog 0.8"], "what is explained is always shown"
    page.select("target", "no")
    assert [row[:10] for row in rows(page)] == ["person 0.9"]
    assert near(page, 8, 30, ACCENT)
    page.click("#boxes")
    assert np.ptp(page.pixels()[..., :3].reshape(-1, 3), axis=0).max() < 4
    assert page.find("#picture").get_attribute("aria-label").endswith("values 0 to 0")


def test_a_box_is_chosen_by_keyboard_with_its_parts(opened: Open) -> None:
    page = opened(found())
    page.slide("opacity", Keys.HOME)
    button = "#shapes li:nth-child(2) button"
    page.press(Keys.ENTER, button)
    assert page.find(button).get_attribute("aria-pressed") == "true"
    focused = page.driver.switch_to.active_element
    assert focused.get_attribute("data-shape") == page.find(button).get_attribute("data-shape")
    assert near(page, 24, 70, (255, 255, 255)), "its line is drawn"
    page.press(Keys.SPACE, button)
    assert page.find(button).get_attribute("aria-pressed") == "false"
    assert not near(page, 24, 70, (255, 255, 255))


def test_a_box_is_read_out_under_the_pointer(opened: Open) -> None:
    page = opened(found())
    assert page.point_in("#picture", 0, 60 / SIDE, 60 / SIDE) == "Row 2, column 2: 0 · dog 0.8"
    assert page.point_in("#picture", 0, 0.5, 2 / SIDE) == "Row 0, column 2: 0"


def pair() -> Explanation:
    """A photo whose map goes from 0 to 1, a query beside it from 1 to 3, and a photo without."""
    low = torch.arange(16.0).reshape(4, 4) / 15
    maps = [
        on("one", low, "similarity"),
        on("one: query", 1 + 2 * low, "similarity"),
        on("one", low, "yes"),
        on("two", low, "yes"),
    ]
    photos = tuple(Photo(name, grey(90)) for name in ("one", "two", "one: query"))
    return Explanation(Maps(maps), photos, partners={"one": ("one: query",)})


def test_a_query_stands_beside_on_the_same_scale(opened: Open) -> None:
    page = opened(pair())
    page.slide("opacity", Keys.END)
    for control in ("#smooth", "#fade"):
        page.click(control)
    assert len(page.all(".thumb")) == 2
    one, two = page.pixels(), page.pixels("#partners canvas")
    assert one.shape == two.shape == (672, 672, 4)
    palette = table("sequential").astype(int)
    for seen, values in ((one, (0, 1)), (two, (1, 3))):
        for place, value in ((84, values[0]), (588, values[1])):
            want = palette[round(254 * value / 3)]
            assert np.abs(seen[place, place, :3] - want).max() <= 3
    page.click("#shared")
    assert (page.pixels("#partners canvas") == two).all(), "they share one range either way"
    (left, top, width, _), (other, level, wide, _) = map(
        page.rect, ("#picture", "#partners canvas")
    )
    assert (top, width) == (level, wide)
    assert other >= left + width
    texts = [e.text for e in page.all("#captions span")]
    assert texts == ["one", "one: query"]
    assert page.find("#captions p").text == "similarity: 0.75"
    assert "one: query: values 1 to 3" in page.find("#partners canvas").get_attribute("aria-label")


def test_the_query_belongs_to_its_target_and_is_read(opened: Open) -> None:
    page = opened(pair())
    assert page.point_in("#partners canvas", 0, 0.9, 0.9).startswith("Row 3, column 3: 3")
    assert page.point_in("#picture", 0, 0.9, 0.9).startswith("Row 3, column 3: 1")
    page.press("g")
    assert len(page.all("#grid button canvas")) == 2
    assert not page.find("#captions").is_displayed()
    page.press("g", "#grid")
    page.select("target", "yes")
    assert page.all("#partners canvas") == []
    assert not page.find("#captions").is_displayed()
    page.press("n")
    assert page.now == "gradient input for yes"
    assert page.find("#name").text == "two"
    page.press("n")
    assert page.find("#name").text == "two", "a query is no sample of its own"


def test_two_inputs_each_with_a_map_or_without(opened: Open) -> None:
    first, second = (torch.rand(4, 4) for _ in range(2))
    other = on("x: b", second, site=Site("", "in.b"))
    both = [on("x", first), other, on("x", first, site=Site("layer"))]
    photos = (Photo("x", grey(30)), Photo("x: b", grey(200)))
    page = opened(Explanation(Maps(both), photos, partners={"x": ("x: b",)}))
    page.select("site", "input")
    assert page.all("#captions em") == []
    page.select("site", "layer")
    assert page.find("#captions em").text == "no map here"
    page.slide("opacity", Keys.HOME)
    assert np.abs(page.pixels("#partners canvas")[..., :3] - 200).max() < 6


@pytest.mark.parametrize(
    ("width", "dark"), [(380, False), (380, True), (900, True), (1280, False), (1920, True)]
)
def test_every_width_fits_and_both_schemes_read(opened: Open, width: int, dark: bool) -> None:
    for shown, selectors in (
        (found(), ("#shapes .where", "#shapes .mark", "#counted", "#from")),
        (pair(), ("#captions span", "#captions p")),
    ):
        page = opened(shown)
        resize(page.driver, width, 900, dark=dark)
        page.settle()
        page.settle()
        assert page.driver.execute_script("return document.documentElement.scrollWidth") <= width
        for canvas in ("#picture", "#partners canvas")[: 1 + bool(page.all("#partners canvas"))]:
            left, _, wide, high = page.rect(canvas)
            assert 0 <= left <= left + wide <= width
            assert abs(wide - high) <= 1, "a square photo stays square"
        for selector in selectors:
            assert contrast(page, selector) >= 4.5, selector
