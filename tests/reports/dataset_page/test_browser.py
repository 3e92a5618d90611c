"""The page of a data set in a real browser: galleries, the large view, keys, widths, schemes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from browser import browser, resize, shot  # noqa: F401
from head_runs import METRICS, heads_run
from PIL import Image
from reader import Page, contrast
from small_runs import small_run, things

from limelight.reports import Explanation
from limelight.reports.dataset_page.page import render_run
from limelight.reports.scoring.score import score

if not os.environ.get("CI"):
    pytest.importorskip("selenium")
from selenium.webdriver import Keys
from selenium.webdriver.support.ui import WebDriverWait


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    found = small_run(tmp_path_factory.mktemp("data"), lost=1)
    score(found, ["auc", "class_sensitivity", "sparseness"], data=things(found))
    path = found.folder / "page.html"
    path.write_text(render_run(found), encoding="utf-8")
    return path


@pytest.fixture
def page(browser: Any, path: Any) -> Iterator[Page]:  # noqa: F811
    resize(browser, 1280, 900)
    browser.get(path.as_uri())
    WebDriverWait(browser, 20).until(lambda d: d.find_elements("css selector", ".shown.painted"))
    yield Page(browser, Explanation(()))
    assert browser.get_log("browser") == []


def test_galleries_are_painted_and_lead_to_the_large_view(page: Page) -> None:
    assert np.ptp(page.pixels(".shown canvas")[..., :3]) > 50
    button = page.find(".shown")
    label = button.get_attribute("aria-label")
    assert label.startswith("best by auc: p")
    button.click()
    page.settle()
    page.settle()
    method, site = label.rpartition("; ")[2].split(" at ")
    assert page.now.startswith(f"{method} {site} for ")
    assert page.find("#name").text == label.split(": ")[1].partition(",")[0]
    assert page.driver.switch_to.active_element.get_attribute("id") == "stage"
    before = page.now
    page.press(Keys.ARROW_LEFT if site == "layer2" else Keys.ARROW_RIGHT)
    assert page.now != before


def test_another_score_shows_its_own_images(page: Page) -> None:
    page.select("by", "sparseness")
    shown = [one for one in page.all(".galleries") if one.is_displayed()]
    assert len(shown) == 1
    buttons = shown[0].find_elements("css selector", ".shown")
    assert all("painted" in one.get_attribute("class") for one in buttons)
    assert " by sparseness: " in buttons[0].get_attribute("aria-label")


def test_charts_and_spreads_have_words(page: Page) -> None:
    charts = page.all(".depth svg[role=img]")
    assert "auc over depth: gradcam: " in charts[0].get_attribute("aria-label")
    assert all(one.get_attribute("aria-label") for one in page.all(".spread"))
    assert all(one.get_attribute("alt") for one in page.all(".thumb img"))


@pytest.mark.parametrize(
    ("width", "dark"), [(380, False), (900, True), (1280, False), (1920, True)]
)
def test_every_width_fits_and_both_schemes_read(
    page: Page, width: int, dark: bool, tmp_path: Any
) -> None:
    resize(page.driver, width, 900, dark=dark)
    page.settle()
    assert page.driver.execute_script("return document.documentElement.scrollWidth") <= width
    with Image.open(shot(page.driver, tmp_path / "page.png")) as picture:
        assert (sum(picture.convert("RGB").getpixel((2, 2))) < 120) == dark
    for selector in ("h1", ".between", ".pages a em", ".shown span", ".scores thead th", ".quiet"):
        assert contrast(page, selector) >= 4.5, selector


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    root = tmp_path_factory.mktemp("heads")
    found = heads_run(root, "trained", [*METRICS, "gradcam"])
    path = root / "heads.html"
    path.write_text(render_run(found, heads_run(root, "initial")), encoding="utf-8")
    return path


def places(page: Page, selector: str) -> np.ndarray:
    """The middles of what is drawn, in pixels of the page: `n 2`."""
    return np.array(
        page.driver.execute_script(
            """return [...document.querySelectorAll(arguments[0])]
            .map((e) => e.getBoundingClientRect())
            .map((b) => [b.x + b.width / 2, b.y + b.height / 2]);""",
            selector,
        )
    )


def test_heads_are_seen_over_depth(browser: Any, heads: Any) -> None:  # noqa: F811
    resize(browser, 1280, 900)
    browser.get(heads.as_uri())
    page = Page(browser, Explanation(()))
    figures = page.all(".locality")
    assert [f.find_element("css selector", "h3").text for f in figures] == METRICS
    chart = ".locality:first-child svg[role=img]"
    trained, initial = (places(page, f"{chart} .state{n} .one") for n in (0, 1))
    assert len(trained) == len(initial) == 16
    means = places(page, f"{chart} .state0 .mark rect")
    assert np.allclose(means[:, 1], trained[:, 1].reshape(4, 4).mean(1), atol=0.5)
    assert means[3, 1] < means[0, 1], "the last layer looks farther: higher up"
    assert (trained.reshape(4, 4, 2)[..., 0].max(1) < initial.reshape(4, 4, 2)[..., 0].min(1)).all()
    below = [one.get_attribute("textContent") for one in page.all(f"{chart} .site")]
    assert below == [f"blocks.{n}.attn:map{n}" for n in range(4)], "a title and a number"
    words = page.find(chart).get_attribute("aria-label")
    assert words.startswith("nonlocality over depth, means of layers: trained: ")
    page.click(".locality summary")
    cells = [one.text for one in page.all(".locality:first-child tbody tr:first-child td")]
    assert len(cells) == 4
    assert cells[1].count(",") == 3
    assert browser.get_log("browser") == []


def test_gates_are_a_grid_and_darker_where_larger(browser: Any, heads: Any) -> None:  # noqa: F811
    browser.get(heads.as_uri())
    page = Page(browser, Explanation(()))
    captions = [one.text for one in page.all(".gates caption")]
    assert captions == ["trained", "initial"]
    cells = page.all(".gates td")
    assert len(cells) == 24
    drawn = [c.find_element("css selector", "rect").get_attribute("fill-opacity") for c in cells]
    assert [float(c.text) for c in cells] == pytest.approx([float(d) for d in drawn], abs=1e-3)
    assert page.find(".gates rect").size["height"] > 15


@pytest.mark.parametrize(("width", "dark"), [(380, False), (1280, True)])
def test_the_page_of_heads_fits_and_reads(
    browser: Any,  # noqa: F811
    heads: Any,
    width: int,
    dark: bool,
) -> None:
    resize(browser, width, 900, dark=dark)
    browser.get(heads.as_uri())
    page = Page(browser, Explanation(()))
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    for selector in (".locality .quiet", ".gates th", ".gates td", ".gates caption"):
        assert contrast(page, selector) >= 4.5, selector
    right = places(page, ".locality .one")[:, 0].max()
    assert right < width
