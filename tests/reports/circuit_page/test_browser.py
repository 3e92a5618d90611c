"""The page of a circuit in a real browser: grid, legend, graph, maps, keys, widths, schemes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from browser import browser, resize  # noqa: F401
from reader import Page, contrast

import limelight as ll
from limelight.reports import Explanation
from limelight.reports.circuit_page.page import circuit_report

if not os.environ.get("CI"):
    pytest.importorskip("selenium")
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.support.ui import WebDriverWait

METHODS = ("attribution", "code_attr", "edge_attribution", "mutual_information", "norm")


@pytest.fixture(scope="module")
def found():
    torch.manual_seed(0)
    model = ll.load("induction_2l", "induction")
    return ll.circuit(model, "induction", METHODS, count=16, truth_pairs=4)


@pytest.fixture(scope="module")
def path(found, tmp_path_factory):
    target = tmp_path_factory.mktemp("page") / "circuit.html"
    return circuit_report(found, target, heads=3, prompts=2, checked=4)


@pytest.fixture
def page(browser: Any, path: Any) -> Iterator[Page]:  # noqa: F811
    resize(browser, 1280, 900)
    browser.get(path.as_uri())
    WebDriverWait(browser, 20).until(lambda d: d.find_elements("css selector", ".map image"))
    yield Page(browser, Explanation(()))
    assert browser.get_log("browser") == []


def opacities(page: Page) -> list[float]:
    return [float(e.get_attribute("fill-opacity")) for e in page.all(".cell .value")]


def hover(page: Page, selector: str, index: int = 0, x: int = 0, y: int = 0) -> None:
    element = page.all(selector)[index]
    page.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    ActionChains(page.driver).move_to_element_with_offset(element, x, y).perform()
    page.settle()


def test_the_grid_follows_the_method(page: Page, found: Any) -> None:
    for n, name in enumerate(METHODS):
        page.click("#methods label", n)
        values = found.score(name).values.abs()
        assert opacities(page) == pytest.approx((values / values.max()).sqrt().tolist(), abs=3e-3)
        assert page.find("#range").text.startswith(f"{name}: score, up to ")
    page.click("#methods label", 0)
    page.click("#views label", 1)
    excess = found.score().excess
    share = excess.abs() / excess.abs().max()
    assert opacities(page) == pytest.approx(share.sqrt().tolist(), abs=3e-3)
    page.click("#views label", 0)


def test_pointing_at_a_head_tells_its_numbers(page: Page, found: Any) -> None:
    hover(page, ".cell .value", 6)
    told = page.find("#about-head").text
    assert told.startswith("Head 1.2\nattribution, in the circuit")
    assert f"{float(found.score().values[6]):.3g}" in told
    assert f"{float(found.score().p[6]):.3g}" in told
    assert f"{float(found.truth.effects[6]):.3g}" in told


def test_keys_move_in_the_grid_and_lead_to_a_section(page: Page, found: Any) -> None:
    page.press(Keys.ARROW_RIGHT, on="#grid-map")
    assert page.find("#about-head h3").text == "Head 0.0"
    page.press(Keys.ARROW_RIGHT, on="#grid-map")
    page.press(Keys.ARROW_DOWN, on="#grid-map")
    assert page.find("#about-head h3").text == "Head 1.1"
    layer, head = found.top(1)[0]
    for _ in range(4):
        page.press(Keys.ARROW_LEFT, on="#grid-map")
    page.press(Keys.ARROW_UP * (1 - layer), on="#grid-map")
    page.press(Keys.ARROW_RIGHT * head, on="#grid-map")
    page.press(Keys.ENTER, on="#grid-map")
    assert page.driver.current_url.endswith(f"#head-{layer}.{head}")


def test_the_legend_hides_curves(page: Page) -> None:
    lines = page.all('.curves [data-method="1"]')
    assert len(lines) == 2
    assert all(line.is_displayed() for line in lines)
    page.click("#toggles input", 1)
    assert not any(line.is_displayed() for line in lines)
    page.click("#toggles input", 1)


def test_the_graph_shows_the_edges_of_a_head(page: Page) -> None:
    hover(page, "#net .node circle", 0)
    edges = page.all("#net g.edge")
    faded = [e for e in edges if "faded" in e.get_attribute("class")]
    place = page.all("#net .node")[0].get_attribute("data-node")
    own = [e for e in edges if place in (e.get_attribute("data-from"), e.get_attribute("data-to"))]
    assert own
    assert len(faded) == len(edges) - len(own)
    assert all("→" in e.get_attribute("innerHTML") for e in edges)


def test_maps_have_tokens_and_tell_values(page: Page, found: Any) -> None:
    layer, head = found.top(1)[0]
    pair = found.pairs[0]
    labels = [e.get_attribute("textContent") for e in page.all(".attention")[0].find_elements(
        "css selector", ".map .from")]  # fmt: skip
    assert labels == [str(i) for i in pair.clean.tolist()]
    sites = [f"layers.{layer}.attn:map"]
    (value,) = ll.trace(found.evidence.model, pair.clean[None], sites=sites).values()
    row = value.act[0, head, -1]
    told = page.find(".attention .readout").text
    assert float(told.rpartition(": ")[2]) == pytest.approx(float(row.max()), abs=5e-3)
    before = told
    page.press(Keys.ARROW_UP, on=".map")
    assert page.find(".attention .readout").text != before
    hover(page, ".map", 0, 60, 60)
    assert " attends to " in page.find(".attention .readout").text
    chips = page.all(".attention")[0].find_elements("css selector", ".reading span")
    assert [c.text for c in chips] == labels


def test_another_prompt_is_shown_by_all_heads(page: Page, found: Any) -> None:
    page.click(".which label", 1)
    other = [str(i) for i in found.pairs[1].clean.tolist()]
    for box in page.all(".attention"):
        got = [e.get_attribute("textContent") for e in box.find_elements(
            "css selector", ".map .to")]  # fmt: skip
        assert got == other
    page.click(".which label", 0)


@pytest.mark.parametrize(("width", "dark"), [(380, False), (900, True), (1280, True)])
def test_every_width_fits_and_both_schemes_read(page: Page, width: int, dark: bool) -> None:
    resize(page.driver, width, 900, dark=dark)
    page.settle()
    assert page.driver.execute_script("return document.documentElement.scrollWidth") <= width
    for selector in (".prose p", ".caveats li", ".judged td", ".value-of", ".readout", "#range"):
        assert contrast(page, selector) >= 4.5, selector
    assert page.find("#net").is_displayed()


def test_print_keeps_tables_and_maps(page: Page) -> None:
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    assert page.find(".judged").is_displayed()
    assert page.find(".map").is_displayed()
    assert not page.find("#views").is_displayed()
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
