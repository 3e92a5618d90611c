"""The page in a real browser, opened from disk: every control, every key, the numbers it shows."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import browser, resize, shot  # noqa: F401
from pages import explanation
from PIL import Image
from reader import Page, contrast

from limelight.probe.results.colour_scales import table

if not os.environ.get("CI"):
    pytest.importorskip("selenium")
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.support.ui import WebDriverWait


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Iterator[Page]:  # noqa: F811
    shown = explanation()
    path = shown.save(tmp_path / "page.html")
    resize(browser, 1280, 900)
    browser.get(path.as_uri())
    WebDriverWait(browser, 20).until(lambda d: d.find_element("css selector", "#now").text)
    made = Page(browser, shown)
    yield made
    assert browser.get_log("browser") == []


def plain(page: Page) -> None:
    """Only the map's own colours: no photo, no smoothing, no fading."""
    page.slide("opacity", Keys.END)
    page.click("#smooth")
    page.click("#fade")


def test_the_first_view(page: Page) -> None:
    assert page.now == "gradcam blocks.3 for dog"
    assert page.find("h1").text == "What efficientnet_lite0 looks at"
    assert page.pixels().shape == (672, 672, 4)
    assert np.ptp(page.pixels()[..., :3]) > 100
    assert "gradcam at blocks.3 for dog" in page.find("#picture").get_attribute("aria-label")
    tops = [row.text.replace("\n", " ") for row in page.all("#top li")]
    assert tops == ["dog 90.0 %", "cat 6.0 %", "fox < 0.1 %"]
    low, high = (float(page.find(f"#{name}").text.replace("−", "-")) for name in ("low", "high"))
    own = page.values("gradcam", "blocks.3")
    assert (low, high) == pytest.approx((own.min(), own.max()), abs=1e-4)
    page.click("#shared")
    low, high = (float(page.find(f"#{name}").text.replace("−", "-")) for name in ("low", "high"))
    shared = page.explanation.maps.where(method="gradcam")
    assert low == pytest.approx(min(m.values.min().item() for m in shared), abs=1e-4)
    assert high == pytest.approx(max(m.values.max().item() for m in shared), abs=1e-4)


@pytest.mark.parametrize(
    ("control", "text"),
    [
        ("sign", "Positive only"),
        ("sign", "Negative only"),
        ("sign", "Absolute value"),
        ("scale", "Sequential"),
        ("scale", "Grey"),
        ("ground", "In colour"),
        ("ground", "None: the map alone"),
        ("target", "cat"),
        ("site", "blocks.0"),
    ],
)
def test_each_list_changes_the_picture(page: Page, control: str, text: str) -> None:
    page.click("#methods label", 1)
    assert page.now == "lrp blocks.3 for dog"
    before = page.pixels()
    page.select(control, text)
    assert (page.pixels() != before).any()


def test_each_switch_and_slider_changes_the_picture(page: Page) -> None:
    for act in (
        lambda: page.click("#smooth"),
        lambda: page.click("#fade"),
        lambda: page.click("#shared"),
        lambda: page.slide("opacity", Keys.ARROW_LEFT, 9),
        lambda: page.slide("layer", Keys.ARROW_LEFT),
        lambda: page.click("#methods label", 2),
        lambda: page.click(".thumb", 1),
    ):
        before = page.pixels()
        act()
        after = page.pixels()
        assert before.shape != after.shape or (before != after).any()
    assert page.find("#percent").text == "71 %"
    assert page.now == "rise input for boat"


@pytest.mark.parametrize("shared", [False, True])
def test_the_colours_are_those_of_the_values(page: Page, shared: bool) -> None:
    plain(page)
    if shared:
        page.click("#shared")
    for method, index in (("gradcam", 0), ("lrp", 1)):
        page.click("#methods label", index)
        group = page.explanation.maps.where(method=method)
        if not shared:
            group = group.where(site="blocks.3", target="dog")
        lo = min(m.values.min().item() for m in group)
        hi = max(m.values.max().item() for m in group)
        lo, hi = (-max(-lo, hi), max(-lo, hi)) if lo < 0 else (lo, hi)
        palette = table("diverging" if lo < 0 else "sequential").astype(int)
        values = page.values(method, "blocks.3")
        seen = page.pixels()[48::96, 48::96, :3]
        steps = np.rint((values - lo) / (hi - lo) * 254).astype(int)
        assert seen.shape == (7, 7, 3)
        assert np.abs(seen - palette[steps]).max() <= 12
        assert np.abs(seen - palette[steps]).mean() < 2


def test_smoothing_equals_bilinear_resize(page: Page) -> None:
    plain(page)
    page.click("#smooth")
    page.select("scale", "Grey")
    m = page.explanation.maps.where(method="gradcam", site="blocks.3", target="dog")[0]
    big = m.resize((672, 672)).values.numpy()
    lo, hi = m.values.min().item(), m.values.max().item()
    grey = table("grey")[np.rint((big - lo) / (hi - lo) * 254).astype(int), 0]
    assert np.abs(page.pixels()[..., 0] - grey.astype(int)).max() <= 3


@pytest.mark.parametrize("method", ["gradcam", "lrp"])
def test_hover_reads_the_value(page: Page, method: str) -> None:
    page.click("#methods label", ["gradcam", "lrp"].index(method))
    page.driver.execute_script("window.scrollTo(0, 0)")
    for site, side in (("blocks.3", 7), ("blocks.1", 28)):
        page.select("site", site)
        page.driver.execute_script("window.scrollTo(0, 0)")
        values = page.values(method, site)
        span = 2 * float(np.abs(values).max())
        for row, column in ((0, 0), (2, 5), (side - 1, 1)):
            text, value = page.hover(row, column, side, side)
            assert text.startswith(f"Row {row}, column {column}: ")
            assert value == pytest.approx(float(values[row, column]), abs=span / 508 + 1e-4)


def test_keys(page: Page) -> None:
    page.press(Keys.ARROW_LEFT)
    assert page.now == "gradcam blocks.2 for dog"
    page.press(Keys.ARROW_RIGHT * 3)
    assert page.now == "gradcam blocks.3 for dog"
    page.press(Keys.ARROW_DOWN)
    assert page.now == "lrp blocks.3 for dog"
    page.press(Keys.ARROW_UP)
    page.press("n")
    assert page.now == "gradcam blocks.3 for boat"
    page.press("p")
    assert page.now == "gradcam blocks.3 for dog"
    page.press("s")
    assert not page.find("#smooth").is_selected()
    page.press("g")
    assert page.find("#grid").is_displayed()
    assert page.driver.switch_to.active_element.get_attribute("id") == "grid"
    page.press(Keys.ARROW_LEFT, "#grid")
    assert page.now == "gradcam blocks.2 for dog"
    page.press("g", "#grid")
    assert page.find("#picture").is_displayed()


def test_everything_is_reached_by_tab_and_focus_is_seen(page: Page) -> None:
    reached = []
    for _ in range(30):
        ActionChains(page.driver).send_keys(Keys.TAB).perform()
        active = page.driver.switch_to.active_element
        reached.append(active.get_attribute("id") or active.get_attribute("name") or "thumb")
        width = page.driver.execute_script(
            "const e = arguments[0], n = e.nextElementSibling;"
            "const look = (x) => x && getComputedStyle(x).outlineStyle === 'solid';"
            "return look(e) || (e.type === 'radio' && look(n))",
            active,
        )
        assert width, reached[-1]
        if reached[-1] == "fade":
            break
    wanted = (
        "view stage layer site png svg csv thumb method target opacity sign scale ground shared "
        "smooth fade"
    )
    assert set(wanted.split()) <= set(reached)


def test_the_grid_shows_every_map_and_leads_to_it(page: Page) -> None:
    page.click("[name=view][value=grid]")
    assert [e.text for e in page.all("#grid th[scope=row]")] == ["gradcam", "lrp", "rise"]
    columns = [e.text for e in page.all("#grid th[scope=col]")]
    assert columns == ["input", "blocks.0", "blocks.1", "blocks.2", "blocks.3"]
    assert len(page.all("#grid button")) == 9
    assert np.ptp(page.pixels("#grid button canvas")[..., :3]) > 50
    page.click("#grid button[aria-label^='lrp at blocks.1']")
    assert page.now == "lrp blocks.1 for dog"
    assert page.find("#picture").is_displayed()


def test_maps_that_say_nothing_say_so(page: Page) -> None:
    page.click(".thumb", 1)
    page.click("#methods label", 3)
    assert page.now == "broken blocks.3 for boat"
    assert "holds no number" in page.find("#facts").text
    page.click("#methods label", 4)
    assert "constant 0" in page.find("#facts").text


def test_tokens_are_coloured_words(page: Page) -> None:
    page.click(".thumb", 2)
    assert page.now == "gradient blocks.0 for Mary"
    spans = page.all("#tokens span")
    assert [s.text.strip() for s in spans] == ["When", "Mary", "and", "John"]
    colours = [re.findall(r"\d+", s.value_of_css_property("background-color"))[:3] for s in spans]
    palette = table("diverging")
    for at, step in zip(colours, (0, 127, 159, 190), strict=True):
        assert [int(c) for c in at] == pytest.approx(palette[step].tolist(), abs=4)
    ActionChains(page.driver).move_to_element(spans[2]).perform()
    assert page.find("#readout").text.startswith("Token 2 “and”: 0.25")
    page.click("#methods label", 6)
    assert page.now == "attention blocks.0:map for Mary"
    assert "2 × 4 × 4 values (h q k)" in page.find("#facts").text


@pytest.mark.parametrize(
    ("width", "dark"), [(380, False), (900, True), (1280, False), (1920, True)]
)
def test_every_width_fits_and_both_schemes_read(
    page: Page, width: int, dark: bool, tmp_path: Path
) -> None:
    resize(page.driver, width, 900, dark=dark)
    page.settle()
    for view in ("grid", "picture"):
        page.click(f"[name=view][value={view}]")
        assert page.driver.execute_script("return document.documentElement.scrollWidth") <= width
        with Image.open(shot(page.driver, tmp_path / f"{view}.png")) as picture:
            paper = picture.convert("RGB").getpixel((2, 2))
            assert picture.width == width
        assert (sum(paper) < 120) == dark
    for selector in (
        "h1",
        ".asked",
        ".share",
        "#facts",
        ".provenance th",
        ".pills input:checked + span",
    ):
        assert contrast(page, selector) >= 4.5, selector


def test_print_shows_picture_and_grid_without_controls(page: Page) -> None:
    page.driver.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    for selector, shown in (
        ("#picture", True),
        ("#grid", True),
        ("#opacity", False),
        (".slider", False),
    ):
        assert page.find(selector).is_displayed() == shown
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
