"""The page of visited tiles: its figures, its maps, its errors, and how a browser paints it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from browser import browser, resize  # noqa: F401
from pages import data_of, values_of

import limelight as ll
from limelight.kernels.errors import KernelError
from limelight.kernels.neighborhood import axes_of, simulate
from limelight.probe.errors import OptionError
from limelight.reports.tiles_page import page as module
from limelight.reports.tiles_page.page import render_tiles


def hunyuan():
    """The sheet's example whose tiles are all seen whole."""
    return ll.tile_visits(
        (30, 48, 80), (18, 24, 24), (16, 8, 8), q_tile=(4, 8, 8), kv_tile=(2, 8, 8)
    )


def dilated():
    return ll.tile_visits((64, 48), (16, 12), dilation=(2, 3), q_tile=8, kv_tile=8)


def test_figures_are_those_of_the_simulator():
    found = hunyuan()
    assert found.visits == simulate(found.axes, (4, 8, 8), (2, 8, 8))
    assert found.whole_tiles == found.visits.visited_tiles == 38880
    assert found.figures["speed-up by tiles, at most"] == "11.11 x"
    assert found.figures["fully block sparse"] == "yes"
    assert dilated().axes == axes_of((64, 48), (16, 12), dilation=(2, 3))
    assert dilated().whole_tiles == int((dilated().map == 2).sum()) == 0


@pytest.mark.parametrize("make", [hunyuan, dilated])
def test_the_page_holds_the_map(make):
    found = make()
    page = render_tiles(found)
    first, *others = data_of(page)["figures"]
    np.testing.assert_allclose(values_of(first), found.map.numpy(), atol=1e-6)
    assert all(entry["range"] == [0, 2] for entry in (first, *others))
    for value in found.figures.values():
        assert value in page


def test_one_tile_is_a_row_of_the_map():
    found = hunyuan()
    rows = module._one_by_one(found)
    labels = [row.label.partition(",")[0] for row in rows]
    assert labels == [
        "first tile",
        "middle tile",
        "last tile",
    ]
    whole = torch.zeros(15, 6, 10)
    for number, m in rows[2].maps:
        whole[int(number)] = m.values
    assert torch.equal(whole.flatten(), found.map[-1].float())


def test_a_map_that_is_too_large_is_told(monkeypatch):
    monkeypatch.setattr(module, "MOST_CELLS", 100)
    page = render_tiles(dilated())
    assert "the map over all axes has 2,304 cells, more than a page bears" in page
    assert len(data_of(page)["figures"]) == 2


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(KernelError, match="does not fit an axis of 8 tokens"):
        ll.tile_visits((8,), 9, q_tile=4, kv_tile=4)
    with pytest.raises(KernelError, match="cannot cut 2 axes"):
        ll.tile_visits((8, 8), 3, q_tile=(4, 4, 4), kv_tile=4)
    with pytest.raises(OptionError, match="choose the ending"):
        dilated().save(tmp_path / "tiles.png")


@pytest.mark.parametrize(("width", "dark"), [(380, True), (1280, False)])
def test_a_browser_paints_it(browser, tmp_path, width, dark):  # noqa: F811
    resize(browser, width, 900, dark=dark)
    browser.get(dilated().save(tmp_path / "tiles.html").as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    sizes, colours = browser.execute_async_script("""
        const done = arguments[0], wait = () => {
          const all = [...document.querySelectorAll(".tiles canvas")];
          const painted = all.every((c) => c.width >= 320 || c.height >= 320);
          if (!painted) return requestAnimationFrame(wait);
          const [c] = all;
          const seen = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
          const colours = new Set();
          for (let i = 0; i < seen.length; i += 4) colours.add(seen.slice(i, i + 4).join());
          done([all.map((c) => c.width), [...colours]]);
        };
        wait();""")
    assert sizes[0] == 960
    assert len(sizes) == 6
    assert len(colours) == 2  # left out and masked; none of these tiles is seen whole
    assert browser.get_log("browser") == []
