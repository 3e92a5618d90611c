"""What a token mixer does, as a reader meets it in a browser."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import browser, resize  # noqa: F401
from matrix import SMALL
from pages import picture
from reader import Page, contrast

import limelight as ll

if not os.environ.get("CI"):
    pytest.importorskip("selenium")
from selenium.webdriver.support.ui import WebDriverWait

FIGURES = {
    "litv2_s": [
        "Where the centre looks", "High and low frequencies", "Power spectra", "Sampling offsets",
    ],
    "karat_tiny_g3b": [
        "Where the class token looks", "Learned functions", "Singular values", "Negative mass",
    ],
    "sparsifiner_small": ["Connectivity of the centre", "Mask recall", "The basis"],
}  # fmt: skip


@pytest.fixture(scope="module", params=FIGURES)
def saved(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Path]:
    small = next(s for s in SMALL if s.name == request.param)
    shown = ll.explain(small.build(), picture(0), "gradcam", mixer=True)
    path = tmp_path_factory.mktemp("page") / "page.html"
    return request.param, shown, shown.save(path)


@pytest.fixture
def page(browser: Any, saved: Any) -> Iterator[Page]:  # noqa: F811
    _, shown, path = saved
    resize(browser, 1280, 900)
    browser.get(path.as_uri())
    painted = "return [...document.querySelectorAll('.tiles canvas')].every((c) => c.width >= 320)"
    WebDriverWait(browser, 20).until(lambda d: d.execute_script(painted))
    yield Page(browser, shown)
    assert browser.get_log("browser") == []


def pixels(page: Page, index: int) -> np.ndarray:
    """The middle row of a tile."""
    found = page.driver.execute_script(
        """const c = document.querySelectorAll('.tiles canvas')[arguments[0]];
        return [...c.getContext('2d').getImageData(0, c.height >> 1, c.width, 1).data];""",
        index,
    )
    return np.array(found).reshape(-1, 4)


@pytest.mark.parametrize(("width", "dark"), [(380, False), (380, True), (1280, False)])
def test_the_section_is_there_at_every_width(
    page: Page, saved: Any, width: int, dark: bool
) -> None:
    resize(page.driver, width, 900, dark=dark)
    page.settle()
    assert page.find("#mixes").text == "What the mixer does"
    assert page.find(".mixer > p").text == "On picture 1."
    assert [e.text for e in page.all(".mixed h3")] == FIGURES[saved[0]]
    assert page.driver.execute_script("return document.documentElement.scrollWidth") <= width
    inside = page.driver.execute_script(
        """return [...document.querySelectorAll('.mixed canvas, .mixed svg[role=img]')]
          .map((e) => e.getBoundingClientRect())
          .map((b) => [b.left, innerWidth - b.right, b.width])"""
    )
    assert min(min(left, right) for left, right, _ in inside) >= 0
    assert min(w for *_, w in inside) > 60
    for selector in (".mixed .quiet", ".mixed .label", ".tiles span"):
        if page.all(selector):
            assert contrast(page, selector) >= 4.5, selector


def test_tiles_are_painted_over_the_picture(page: Page) -> None:
    count = len(page.all(".tiles canvas"))
    assert count == sum(len(r.maps) for f in page.explanation.mixer.figures for r in f.rows)
    rows = [pixels(page, i) for i in range(count)]
    assert all((row[:, 3] == 255).all() for row in rows)
    assert len({row.tobytes() for row in rows}) > count // 3
    for canvas in page.all(".tiles canvas"):
        assert (
            " .. " in canvas.get_attribute("aria-label")
            or canvas.find_element("xpath", "ancestor::div[1]").text
        )


def test_lines_lie_within_their_chart_in_colours_of_their_own(page: Page) -> None:
    charts = page.all(".mixed .depth > svg")
    assert len(charts) == sum(
        bool(r.curves) for f in page.explanation.mixer.figures for r in f.rows
    )
    boxes = page.driver.execute_script(
        """return [...document.querySelectorAll('.mixed path')].map((path) => {
          const a = path.getBoundingClientRect();
          const b = path.closest('.depth').querySelector('svg[role=img]').getBoundingClientRect();
          return [a.left - b.left, b.right - a.right, a.top - b.top, b.bottom - a.bottom];
        })"""
    )
    assert min(min(box) for box in boxes) > -2
    lines = page.all(".mixed .depth")[0].find_elements("css selector", "path")
    colours = [line.value_of_css_property("stroke") for line in lines]
    assert len(set(colours)) == len(colours)
    assert page.all(".mixer [style]") == []


def test_print_keeps_the_section(page: Page) -> None:
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    assert page.find(".mixed").is_displayed()
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
