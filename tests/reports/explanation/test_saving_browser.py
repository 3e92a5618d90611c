"""What a reader takes from a page: its address, pictures and numbers, in a real browser."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from xml.etree import ElementTree

import numpy as np
import pandas
import pytest
from browser import browser  # noqa: F401
from kinds import Open, mixed, opening
from pages import explanation
from PIL import Image
from reader import Page

if not os.environ.get("CI"):
    pytest.importorskip("selenium")
from selenium.webdriver.support.ui import WebDriverWait

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Open]:  # noqa: F811
    yield from opening(browser, tmp_path)


@pytest.fixture
def saved(browser: Any, tmp_path: Path) -> Callable[[Page, str], Path]:  # noqa: F811
    """Presses a button and waits for the file."""
    folder = tmp_path / "saved"
    folder.mkdir()
    where = {"behavior": "allow", "downloadPath": str(folder)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", where)

    def save(page: Page, ending: str) -> Path:
        page.click(f"#{ending}")
        for _ in range(200):
            found = list(folder.glob(f"*.{ending}"))
            if found and found[0].stat().st_size:
                return found[0]
            time.sleep(0.05)
        raise AssertionError(f"no {ending} was saved: {list(folder.iterdir())}")

    return save


def again(page: Page, address: str) -> Page:
    page.driver.get("about:blank")
    page.driver.get(address)
    WebDriverWait(page.driver, 20).until(lambda d: d.find_element("css selector", "#now").text)
    page.settle()
    return page


def asked(page: Page) -> dict[str, list[str]]:
    return parse_qs(page.driver.current_url.partition("#")[2])


def test_the_address_keeps_what_is_chosen_and_restores_it(opened: Open) -> None:
    page = opened(explanation())
    assert "#" not in page.driver.current_url, "nothing is written before the reader chooses"
    page.click("#methods label", 1)
    page.select("site", "blocks.1")
    page.select("target", "cat")
    page.select("sign", "Positive only")
    page.select("ground", "In colour")
    page.click("#smooth")
    page.click("#shared")
    assert asked(page) == {
        "sample": ["dog.jpg"],
        "target": ["cat"],
        "method": ["lrp"],
        "layer": ["blocks.1"],
        "view": ["picture"],
        "sign": ["positive"],
        "photo": ["colour"],
        "smooth": ["no"],
        "shared": ["yes"],
    }
    before = page.pixels()
    again(page, page.driver.current_url)
    assert page.now == "lrp blocks.1 for cat"
    assert (page.pixels() == before).all()
    assert not page.find("#smooth").is_selected()
    assert page.find("#shared").is_selected()
    assert page.find("#sign").get_attribute("value") == "positive"


def test_the_address_keeps_grid_and_comparison(opened: Open) -> None:
    page = opened(explanation())
    page.click("[name=view][value=grid]")
    page.select("order", "Layers")
    again(page, page.driver.current_url)
    assert page.find("#grid th[scope=row]").text == "input"
    for start in ("Compare gradcam at blocks.1", "Compare lrp at blocks.2"):
        page.click(f"#grid input[aria-label^='{start}']")
    page.click("#both")
    again(page, page.driver.current_url)
    labels = [c.get_attribute("aria-label") for c in page.all("#compared .side > canvas")]
    assert labels[0].startswith("gradcam at blocks.1")
    assert labels[1].startswith("lrp at blocks.2")


def test_an_address_that_asks_for_what_is_not_here_is_answered(opened: Open) -> None:
    page = opened(explanation())
    bad = "#method=nothing&view=cinema&opacity=7&smooth=maybe&beside=%7B&layer=blocks.2&x=1"
    again(page, page.driver.current_url + bad)
    assert page.now == "gradcam blocks.2 for dog", "what is known is taken"
    said = page.find("#told").text
    for words in ("method “nothing”", "view “cinema”", "opacity “7”", "smooth “maybe”", "x “1”"):
        assert words in said
    assert page.find("#percent").text == "80 %"


def test_a_link_within_the_page_is_no_state(opened: Open) -> None:
    page = opened(explanation())
    again(page, f"{page.driver.current_url}#how")
    assert page.now == "gradcam blocks.3 for dog"
    assert page.find("#told").text == ""


def test_the_numbers_of_the_picture(opened: Open, saved: Callable[[Page, str], Path]) -> None:
    page = opened(explanation())
    path = saved(page, "csv")
    assert path.name == "dog-jpg-gradcam-blocks-3.csv"
    assert page.find("#told").text == f"Saved as {path.name}."
    rows = pandas.read_csv(path)
    assert len(rows) == 49
    assert set(rows["axes"]) == {"y x"}
    values = page.values("gradcam", "blocks.3")
    places = rows["place"].str.split(expand=True).astype(int).to_numpy()
    error = np.abs(rows["value"] - values[places[:, 0], places[:, 1]])
    assert (error <= rows["within"] * 1.02 + 1e-6).all()
    assert rows["within"].max() < 0.01 * np.ptp(values)


def test_the_numbers_of_the_grid_are_those_of_its_target(
    opened: Open, saved: Callable[[Page, str], Path]
) -> None:
    page = opened(explanation())
    page.click("[name=view][value=grid]")
    rows = pandas.read_csv(saved(page, "csv"))
    assert set(rows["target"]) == {"dog"}
    assert len(rows.groupby(["method", "layer"])) == 9
    assert rows.groupby(["method", "layer"]).size().max() == 56 * 56


@pytest.mark.parametrize("view", ["picture", "grid", "compare"])
def test_pictures_hold_what_is_seen(
    opened: Open, saved: Callable[[Page, str], Path], view: str
) -> None:
    page = opened(explanation())
    page.click(f"[name=view][value={view}]")
    root = ElementTree.parse(saved(page, "svg")).getroot()
    assert root.tag == f"{SVG}svg"
    images = root.findall(f".//{SVG}image")
    assert len(images) == {"picture": 2, "grid": 10, "compare": 4}[view], "maps and scales"
    assert all(image.get("href", "").startswith("data:image/png;base64,") for image in images)
    words = " ".join(text.text or "" for text in root.iter(f"{SVG}text"))
    assert "gradcam" in words
    assert "for dog" in words
    assert "Opacity" not in words
    assert not re.search(r"(href|src)=\"(?!data:)", ElementTree.tostring(root, "unicode"))
    with Image.open(saved(page, "png")) as png:
        wide, high = (float(root.get(name, "0")) for name in ("width", "height"))
        assert png.size == (2 * wide, 2 * high)
        pixels = np.asarray(png.convert("RGB")).reshape(-1, 3)
    assert np.ptp(pixels, axis=0).min() > 150
    image = images[0]
    middle = [
        2 * (float(image.get(a, "0")) + float(image.get(b, "0")) / 2)
        for a, b in (("x", "width"), ("y", "height"))
    ]
    with Image.open(next((saved(page, "png").parent).glob("*.png"))) as png:
        seen = np.asarray(png.convert("RGB"))[round(middle[1]), round(middle[0])].astype(int)
    canvas = {"picture": "#picture", "grid": "#grid button canvas", "compare": ".side > canvas"}
    drawn = page.pixels(canvas[view])
    assert np.abs(seen - drawn[drawn.shape[0] // 2, drawn.shape[1] // 2, :3]).max() < 40


def test_every_kind_of_sample_is_saved(
    opened: Open,
    saved: Callable[[Page, str], Path],
    browser: Any,  # noqa: F811
    tmp_path: Path,
) -> None:
    page = opened(mixed())
    for n in range(len(page.all(".thumb"))):
        page.click(".thumb", n)
        folder = tmp_path / f"sample{n}"
        folder.mkdir()
        where = {"behavior": "allow", "downloadPath": str(folder)}
        browser.execute_cdp_cmd("Browser.setDownloadBehavior", where)
        for ending in ("svg", "csv", "png"):
            page.click(f"#{ending}")
            WebDriverWait(page.driver, 10).until(
                lambda _, f=folder, e=ending: any(p.stat().st_size for p in f.glob(f"*.{e}"))
            )
        root = ElementTree.parse(next(folder.glob("*.svg"))).getroot()
        assert len(list(root.iter())) > 8
        assert len(pandas.read_csv(next(folder.glob("*.csv")))) > 1
