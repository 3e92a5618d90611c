"""Series and rows of tables in a real browser: lines, bands, bars, the cursor."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import browser  # noqa: F401
from kinds import Open, one, opening, series, table_page
from reader import Page

from limelight.probe.results.colour_scales import table
from limelight.probe.results.maps import Maps
from limelight.reports import Explanation, Sample

if not os.environ.get("CI"):
    pytest.importorskip("selenium")
from selenium.webdriver import Keys


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Open]:  # noqa: F811
    yield from opening(browser, tmp_path)


def strip(page: Page, index: int = 0) -> np.ndarray:
    """The pixels of a channel's band."""
    return np.array(
        page.driver.execute_async_script(
            """const [index, done] = arguments;
            const href = document.querySelectorAll('#chart image')[index].getAttribute('href');
            const image = new Image(); image.src = href;
            image.decode().then(() => {
              const c = document.createElement('canvas');
              c.width = image.width; c.height = image.height;
              const at = c.getContext('2d'); at.drawImage(image, 0, 0);
              done([...at.getImageData(0, 0, c.width, 1).data]);
            });""",
            index,
        )
    ).reshape(-1, 4)


def test_a_series_has_a_line_and_a_band_for_each_channel(opened: Open) -> None:
    page = opened(series())
    assert page.now == "over t input for yes"
    assert not page.find("#picture").is_displayed()
    assert [e.text for e in page.all("#chart .channel")] == ["flow", "pressure"]
    assert len(page.all("#chart .signal")) == len(page.all("#chart image")) == 2
    low, high = (e.text for e in page.all("#chart .value")[1::-1])
    assert (low, high) == ("0", "4.9")
    path = page.find("#chart .signal").get_attribute("d")
    points = np.array([[float(n) for n in p.split()] for p in re.split("[ML]", path)[1:]])
    assert len(points) == 50
    assert np.ptp(np.diff(points[:, 0])) < 0.11, "steps are equally far apart"
    assert np.ptp(np.diff(points[:, 1])) < 0.11, "a straight line is straight"
    assert points[0, 1] > points[-1, 1], "up is more"


def test_the_band_shows_where_and_which_sign(opened: Open) -> None:
    page = opened(series())
    page.click("#smooth")
    band, palette = strip(page), table("diverging").astype(int)
    assert len(band) == 50
    assert (band[[0, 20, 49], 3] == 0).all(), "nothing is laid where the map is zero"
    assert np.abs(band[10] - [*palette[227], 255]).max() <= 2
    assert np.abs(band[40] - [*palette[27], 255]).max() <= 2
    page.click("#fade")
    assert np.abs(strip(page)[20] - [*palette[127], 255]).max() <= 2
    page.select("sign", "Positive only")
    assert np.abs(strip(page)[40, :3] - table("sequential").astype(int)[0]).max() <= 2


def test_a_map_of_each_channel_colours_its_own(opened: Open) -> None:
    page = opened(series())
    page.click("#methods label", 1)
    page.click("#smooth")
    first, second = strip(page, 0), strip(page, 1)
    assert first[[0, 49], 3].tolist() == pytest.approx([0, 251], abs=2)
    assert second[[0, 49], 3].tolist() == pytest.approx([255, 14], abs=2)


def test_pointing_at_a_series_reads_step_signal_and_map(opened: Open) -> None:
    page = opened(series())
    assert page.find("#readout").text == "Point at the map to read a value."
    assert page.point_in("#chart .frame", 0, 10.5 / 50, 0.5) == "Step 10, flow 1: 1"
    cursor = page.find("#chart .cursor")
    assert cursor.get_attribute("visibility") == "visible"
    left, _, wide, _ = page.rect("#chart .frame")
    assert page.rect("#chart .cursor")[0] == pytest.approx(left + 10.5 / 50 * wide, abs=1)
    text = page.point_in("#chart .frame", 1, 40.5 / 50, 0.9)
    assert text == f"Step 40, pressure {np.sin(40):.4g}: -1"
    page.click("#methods label", 2)
    assert page.now == "coarse blocks.0 for yes"
    for step, value in ((0, 0), (9, 0), (10, 0.25), (49, 1)):
        text = page.point_in("#chart .frame", 0, (step + 0.5) / 50, 0.5)
        assert text.startswith(f"Step {step}, flow ")
        assert float(text.rsplit(": ", 1)[1]) == pytest.approx(value, abs=1 / 508 + 1e-3)


def test_keys_move_the_cursor_of_a_series(opened: Open) -> None:
    page = opened(series())

    def read(keys: str) -> str:
        page.press(keys)
        return page.find("#readout").text.replace("−", "-")

    assert read(Keys.SHIFT + Keys.ARROW_RIGHT).startswith("Step 0, flow 0")
    assert read(Keys.SHIFT + Keys.ARROW_RIGHT * 10) == "Step 10, flow 1: 1"
    assert read(Keys.SHIFT + Keys.ARROW_DOWN).startswith("Step 10, pressure ")
    assert read(Keys.PAGE_DOWN).startswith("Step 13, pressure ")
    assert read(Keys.SHIFT + Keys.ARROW_LEFT * 60).startswith("Step 0, pressure ")
    assert page.now == "over t input for yes"
    assert read(Keys.ARROW_DOWN) == "Point at the map to read a value."
    assert page.now == "over c t input for yes"


def test_long_series_show_their_peaks(opened: Open) -> None:
    values, saliency = torch.zeros(1, 600_000), torch.zeros(600_000)
    values[0, 300_001], saliency[300_001] = 5.0, 1.0
    m = one(saliency, "t", (0, 600_000))
    page = opened(Explanation(Maps([m]), samples=(Sample("s", values, "c t"),)))
    path = page.find("#chart .signal").get_attribute("d")
    tops = [float(n) for n in re.findall(r"V([\d.]+)", path)]
    assert min(tops) == 0
    assert sorted(tops)[1] > 50, "one column reaches the peak"
    page.click("#smooth")
    assert (strip(page)[:, 3] > 200).sum() == 1
    page.press(Keys.SHIFT + Keys.ARROW_RIGHT)
    text = page.find("#readout").text
    assert re.match(r"Steps 0 to 5, value 0 to 0: 0$", text), text


def test_a_series_without_its_numbers_is_its_map(opened: Open) -> None:
    page = opened(Explanation(Maps([one(torch.tensor([0.0, 2.0, 1.0]), "t", (0, 30))])))
    assert page.all("#chart .signal")[0].get_attribute("d").count("L") == 2
    assert page.point_in("#chart .frame", 0, 15.5 / 30, 0.5) == "Step 15: 2"


def rows(page: Page) -> list[list[str]]:
    found = page.all("#bars li:not(.head)")
    return [r.text.replace("−", "-").split("\n") for r in found]


def test_a_table_is_bars_from_the_strongest_on(opened: Open) -> None:
    page = opened(table_page())
    assert rows(page) == [
        ["income", "5200", "-2"],
        ["debt ratio", "0.25", "1"],
        ["age", "41", "0.5"],
        ["children", "no number", "0"],
    ]
    zero = page.rect("#bars .zero-line")[0]
    down, up, half = (page.rect("#bars .fill", i) for i in range(3))
    assert down[0] + down[2] == pytest.approx(zero, abs=1)
    assert up[0] == pytest.approx(zero, abs=1)
    assert down[2] == pytest.approx(2 * up[2], abs=2)
    assert up[2] == pytest.approx(2 * half[2], abs=2)
    fills = page.all("#bars .fill")
    seen = [re.findall(r"\d+", f.value_of_css_property("background-color"))[:3] for f in fills]
    want = table("diverging")[[0, 190, 159]].astype(int)
    assert np.abs(np.array(seen[:3], int) - want).max() <= 3
    page.select("sign", "Positive only")
    assert [r[0] for r in rows(page)[:2]] == ["debt ratio", "age"]
    assert page.rect("#bars .fill", 0)[2] > page.rect("#bars .beam")[2] - 2


def test_hidden_units_have_no_names_of_features(opened: Open) -> None:
    page = opened(table_page())
    page.click("#methods label", 1)
    assert rows(page) == [["unit 0", "3"], ["unit 2", "2"], ["unit 1", "1"]]
    assert not page.find("#opacity").is_displayed()


def test_what_a_long_table_leaves_out_is_counted(opened: Open) -> None:
    page = opened(table_page(104))
    found = rows(page)
    assert len(found) == 41
    assert found[-1] == ["64 weaker ones, together 0.063"]
