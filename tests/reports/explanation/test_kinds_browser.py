"""Every kind of sample on one page in a real browser: widths, schemes, grid, print."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import browser, resize, shot  # noqa: F401
from kinds import Open, mixed, opening
from PIL import Image
from reader import contrast

if not os.environ.get("CI"):
    pytest.importorskip("selenium")


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Open]:  # noqa: F811
    yield from opening(browser, tmp_path)


@pytest.mark.parametrize(
    ("width", "dark"), [(380, False), (900, True), (1280, False), (1920, True)]
)
def test_every_kind_fits_every_width_and_reads_in_both_schemes(
    opened: Open, width: int, dark: bool, tmp_path: Path
) -> None:
    page = opened(mixed())
    resize(page.driver, width, 900, dark=dark)
    page.settle()
    for sample, stage in enumerate(("#picture", "#chart", "#bars", "#picture")):
        page.click(".thumb", sample)
        assert page.find(stage).is_displayed()
        left, _, wide, _ = page.rect(stage)
        assert 0 <= left <= left + wide <= width
        assert page.driver.execute_script("return document.documentElement.scrollWidth") <= width
        with Image.open(shot(page.driver, tmp_path / "shot.png")) as image:
            assert (sum(image.convert("RGB").getpixel((2, 2))) < 120) == dark
        for selector in ("#readout", "#facts", *(("#bars .held",) if stage == "#bars" else ())):
            assert contrast(page, selector) >= 4.5, selector
        for view in ("grid", "picture"):
            page.click(f"[name=view][value={view}]")
        assert page.find("#now").text


def test_the_grid_and_print_show_every_kind(opened: Open) -> None:
    page = opened(mixed())
    for place, name in enumerate(("photo", "series", "table", "volume")):
        page.click(".thumb", place)
        page.press("g")
        shown = page.explanation.maps.where(sample=name)
        assert len(page.all("#grid button canvas")) == len(shown)
        assert np.ptp(page.pixels("#grid button canvas")) > 40
        page.driver.execute_script("window.dispatchEvent(new Event('beforeprint'))")
        page.press("g", "#grid")
