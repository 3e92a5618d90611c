"""The panel of relevance and the outlines of foci, as a reader meets them in a browser."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import browser, resize  # noqa: F401
from reader import Page, contrast
from waterfalls import METHOD, flowing, with_foci

if not os.environ.get("CI"):
    pytest.importorskip("selenium")
from selenium.webdriver.support.ui import WebDriverWait

OUTLINE = (180, 232, 78)


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Iterator[Page]:  # noqa: F811
    shown = flowing()
    path = shown.save(tmp_path / "page.html")
    resize(browser, 1280, 900)
    browser.get(path.as_uri())
    WebDriverWait(browser, 20).until(lambda d: d.find_element("css selector", "#now").text)
    yield Page(browser, shown)
    assert browser.get_log("browser") == []


def outlined(page: Page) -> tuple[np.ndarray, ...]:
    return (np.abs(page.pixels()[..., :3] - OUTLINE).max(-1) <= 6).nonzero()


def choose(page: Page, method: str) -> None:
    names = [label.text for label in page.all("#methods label")]
    page.click("#methods label", names.index(method))


@pytest.mark.parametrize(("width", "dark"), [(380, False), (1280, True)])
def test_the_panel_is_there_at_every_width(page: Page, width: int, dark: bool) -> None:
    resize(page.driver, width, 900, dark=dark)
    page.settle()
    assert page.find("#goes").text == "Where relevance goes"
    assert [e.text for e in page.all(".fall h3")] == ["lrp:epsilon_plus", "lrp:epsilon"]
    assert page.find(".fall p").text.startswith("92.9 % of the score reaches the input; ")
    assert page.driver.execute_script("return document.documentElement.scrollWidth") <= width
    boxes = page.driver.execute_script(
        """const svg = document.querySelector('.bars'), all = svg.getBoundingClientRect();
        return [...svg.querySelectorAll('rect, text')].map((e) => e.getBoundingClientRect())
          .map((b) => [b.left - all.left, all.right - b.right, b.width]);"""
    )
    assert min(min(box) for box in boxes) > -1.5
    assert min(box[2] for box in boxes) > 0.1
    for selector in (".fall p", "summary", ".reasons li"):
        assert contrast(page, selector) >= 4.5, selector


def test_bars_are_coloured_by_reason_without_inline_style(page: Page) -> None:
    fills = {
        kind: page.find(f".bars .{kind}").value_of_css_property("fill")
        for kind in ("end", "bias", "stabiliser", "leak", "small")
    }
    assert len(set(fills.values())) == 5
    assert page.all(".flow [style]") == []


def test_the_table_opens(page: Page) -> None:
    assert not page.find(".ledger table").is_displayed()
    page.click("summary")
    assert page.find(".ledger table").is_displayed()
    assert len(page.find(".ledger").find_elements("css selector", "tbody tr")) == 13


def test_foci_are_outlined_and_can_be_switched_off(page: Page) -> None:
    assert not page.find("#focal").is_displayed()
    assert len(outlined(page)[0]) == 0
    choose(page, METHOD)
    assert page.find("#focal").is_displayed()
    assert "outlined above 0.8" in page.find("#facts").text
    rows, columns = outlined(page)
    cell = 672 / 28
    foci = (with_foci().values > 0.8).numpy()
    edges = sum(int(np.abs(np.diff(np.pad(foci, 1).astype(int), axis=a)).sum()) for a in (0, 1))
    assert edges == 2 * (6 + 8) + 4
    assert edges * cell < len(rows) < edges * cell * 4
    on_edge = np.maximum(
        np.abs((rows + 0.5) / cell % 1 - 0.5), np.abs((columns + 0.5) / cell % 1 - 0.5)
    )
    assert on_edge.min() > 0.5 - 3 / cell
    assert rows.min() == pytest.approx(4 * cell, abs=3)
    assert rows.max() == pytest.approx(21 * cell, abs=3)
    page.click("#foci")
    assert len(outlined(page)[0]) == 0
    assert "outlined" not in page.find("#facts").text
    page.click("#foci")
    assert len(outlined(page)[0]) == len(rows)
    choose(page, "gradcam")
    assert not page.find("#focal").is_displayed()


def test_print_keeps_the_panel(page: Page) -> None:
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    assert page.find(".bars").is_displayed()
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
