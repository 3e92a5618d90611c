"""The grid of maps and two maps side by side, in a real browser."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import browser  # noqa: F401
from kinds import Open, opening
from pages import explanation, picture
from reader import Page

from limelight.probe.results.colour_scales import table
from limelight.probe.results.map_values import About
from limelight.probe.results.maps import Maps
from limelight.probe.results.saliency_map import SaliencyMap
from limelight.probe.sites.site import Site
from limelight.reports import Explanation, Photo

if not os.environ.get("CI"):
    pytest.importorskip("selenium")
from selenium.webdriver import ActionChains

SIDE = 64


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Open]:  # noqa: F811
    yield from opening(browser, tmp_path)


def on(method: str, site: str, scale: float, kept: float | None = None) -> SaliencyMap:
    values = scale * torch.arange(16.0).reshape(4, 4) / 15
    place = Site("", "in") if site == "input" else Site(site)
    about = About(kept=kept)
    return SaliencyMap(values, "y x", "s", "yes", method, place, (0, 0, SIDE, SIDE), about)


def many() -> Explanation:
    """Three methods at the input and twenty layers, whose values grow a hundred times."""
    sites = ["input", *(f"blocks.{i}" for i in range(20))]
    kept = {"lrp": 0.046, "deep": 0.8, "cam": None}
    maps = [
        on(method, site, 10.0 ** (i % 3 - 2), kept[method] if site == "input" else None)
        for method in ("cam", "lrp", "deep")
        for i, site in enumerate(sites)
    ]
    return Explanation(Maps(maps), (Photo("s", picture(3, SIDE)),))


def names(page: Page, scope: str) -> list[str]:
    return [head.text for head in page.all(f"#grid th[scope={scope}]")]


def grid(page: Page) -> Page:
    page.click("[name=view][value=grid]")
    return page


def test_each_map_has_its_own_range_until_it_is_shared(opened: Open) -> None:
    page = grid(opened(many()))
    cells = [f"#grid tr:nth-child(2) td:nth-child({n}) canvas" for n in (2, 3, 4)]
    one, *others = (page.pixels(cell) for cell in cells)
    assert all(np.abs(other - one).max() < 6 for other in others), "one form, the same colours"
    page.click("#shared")
    faint, _, strong = (np.ptp(page.pixels(cell)[..., 0]) for cell in cells)
    assert faint < strong


def test_the_photo_below_is_grey_in_colour_or_none(opened: Open) -> None:
    page = opened(many())
    page.slide("opacity", "\ue011")
    grey = page.pixels()[..., :3]
    assert np.ptp(grey, axis=-1).max() <= 1
    page.select("ground", "In colour")
    assert np.ptp(page.pixels()[..., :3], axis=-1).max() > 60
    page.select("ground", "None: the map alone")
    page.click("#smooth")
    assert not page.find("#opacity").is_displayed(), "a map alone is not mixed with anything"
    assert not page.find("#fade").is_displayed()
    first = page.pixels()[84, 84]
    assert first.tolist() == [*table("sequential")[0].tolist(), 255]


def test_the_input_is_in_view_and_captions_keep_apart(opened: Open) -> None:
    page = grid(opened(many()))
    cell, room = page.rect("#grid tr:nth-child(2) td:nth-child(2) button"), page.rect("#grid")
    assert cell[0] >= room[0]
    page.driver.execute_script("document.getElementById('grid').scrollLeft = 900")
    page.settle()
    assert page.rect("#grid tr:nth-child(2) td:nth-child(2) button")[0] == pytest.approx(cell[0])
    boxes = [page.rect("#grid tr:nth-child(2) .caption", n) for n in range(21)]
    assert all(a[0] + a[2] <= b[0] for a, b in pairwise(boxes[1:]))
    inside = page.driver.execute_script(
        "return [...document.querySelectorAll('#grid .caption')]"
        ".every((e) => e.scrollWidth <= e.clientWidth)"
    )
    assert inside


def test_the_reader_sorts(opened: Open) -> None:
    page = grid(opened(many()))
    assert names(page, "row") == ["cam", "lrp", "deep"]
    assert "kept 4.6 %" in page.find("#grid tr:nth-child(3)").text.replace("\xa0", " ")
    page.select("order", "Methods by name")
    assert names(page, "row") == ["cam", "deep", "lrp"]
    page.select("order", "Methods by relevance kept")
    assert names(page, "row") == ["deep", "lrp", "cam"]
    page.select("order", "Layers")
    assert names(page, "row")[:2] == ["input", "blocks.0"]
    assert names(page, "col") == ["cam", "lrp", "deep"]


def test_kept_is_no_order_where_nothing_keeps_account(opened: Open) -> None:
    page = grid(opened(explanation()))
    assert not page.find("#order [value=kept]").is_enabled()


def test_two_ticked_maps_are_compared_at_full_size(opened: Open) -> None:
    page = grid(opened(many()))
    assert not page.find("#both").is_enabled()
    for start in ("Compare lrp at input", "Compare deep at blocks.1 "):
        page.click(f"#grid input[aria-label^='{start}']")
    page.click("#both")
    assert [e.text for e in page.all("#compared figcaption")] != []
    chosen = [s.get_attribute("value") for s in page.all("#compared select")]
    labels = [
        page.find(f"#compared option[value='{value}']").get_attribute("textContent")
        for value in chosen
    ]
    assert labels == ["lrp at input", "deep at blocks.1"]
    left, right = (page.rect("#compared .side > canvas", n) for n in (0, 1))
    assert left[1:] == right[1:]
    assert left[2] > 350
    move = ActionChains(page.driver)
    move.w3c_actions.pointer_action.move_to_location(
        round(right[0] + right[2] * 0.9), round(right[1] + right[3] * 0.9)
    )
    move.perform()
    assert page.find("#readout").text == "Left: 0.01, right: 1"


def test_the_second_map_is_chosen_from_all_of_the_sample(opened: Open) -> None:
    page = opened(many())
    page.press("c")
    assert page.find("#compared").is_displayed()
    page.driver.execute_script(
        "const s = document.querySelectorAll('#compared select')[1];"
        "s.value = s.options[3].value; s.dispatchEvent(new Event('change'))"
    )
    page.settle()
    right = page.all("#compared .side > canvas")[1].get_attribute("aria-label")
    assert right.startswith("cam at blocks.2")
    page.press("c", "#compared")
    assert page.find("#picture").is_displayed()


def test_little_relevance_kept_is_said_in_words(opened: Open) -> None:
    page = opened(many())
    page.select("site", "input")
    page.click("#methods label", 1)
    said = page.find("#advice").text.replace("\xa0", " ")
    assert said.startswith("Of the score 4.6 % arrives in this map")
    page.click("#methods label", 2)
    assert page.find("#advice").text == ""


def test_a_page_without_maps_has_neither_view(opened: Open) -> None:
    shown = replace(many(), maps=Maps([on("cam", "input", 1.0)]))
    page = grid(opened(shown))
    assert len(page.all("#grid button")) == 1
    page.click("[name=view][value=compare]")
    assert len(page.all("#compared .side")) == 2, "one map beside itself"
