"""Explanations of every kind of sample, made of known numbers, opened in a browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from browser import resize
from pages import picture
from PIL import Image
from reader import Page
from torch import Tensor

from limelight.probe.results.maps import Maps
from limelight.probe.results.saliency_map import SaliencyMap
from limelight.probe.sites.site import Site
from limelight.reports import Explanation, Photo, Sample

Open = Callable[[Explanation], Page]
INPUT, HIDDEN = Site("", "in"), Site("blocks.0")


def opening(browser: Any, folder: Path) -> Iterator[Open]:
    """Opens explanations as pages of 1280 x 900; in the end the console must be empty."""

    def open_it(shown: Explanation) -> Page:
        path = shown.save(folder / "page.html")
        resize(browser, 1280, 900)
        browser.get(path.as_uri())
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(browser, 20).until(lambda d: d.find_element("css selector", "#now").text)
        return Page(browser, shown)

    yield open_it
    assert browser.get_log("browser") == []


def one(values: Tensor, axes: str, extent: tuple[float, ...], site: Site = INPUT) -> SaliencyMap:
    return SaliencyMap(values, axes, "s", "yes", f"over {axes}", site, extent)


def series() -> Explanation:
    """Two channels of 50 steps: a signed map of both, one a channel, a coarse one."""
    steps = torch.arange(50.0)
    values = torch.stack([steps / 10, torch.sin(steps)])
    signed = torch.zeros(50)
    signed[10], signed[40] = 1.0, -1.0
    each = torch.stack([steps, 50 - steps])
    coarse = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    maps = [
        one(signed, "t", (0, 50)),
        one(each, "c t", (0, 50)),
        replace(one(coarse, "t", (0, 50), HIDDEN), method="coarse"),
    ]
    return Explanation(Maps(maps), samples=(Sample("s", values, "c t", ("flow", "pressure")),))


def table_page(count: int = 4) -> Explanation:
    """A row of a table whose map has both signs, and a map of hidden units."""
    numbers = torch.tensor([0.5, -2.0, 1.0, 0.0])
    many = torch.cat([numbers, torch.full((count - 4,), 0.001)])
    held = torch.cat([torch.tensor([41.0, 5200.0, 0.25, float("nan")]), torch.zeros(count - 4)])
    names = ("age", "income", "debt ratio", "children", *(f"x{i}" for i in range(count - 4)))
    units = replace(one(torch.tensor([3.0, 1.0, 2.0]), "c", (0, 3), HIDDEN), method="units")
    maps = [one(many, "c", (0, count)), units]
    return Explanation(Maps(maps), samples=(Sample("s", held, "c", names),))


def volume() -> Explanation:
    """A ramp over 4 x 6 x 5 places, a map that is the number of the place, and a coarse one."""
    places = torch.arange(120.0).reshape(4, 6, 5)
    coarse = torch.arange(12.0).reshape(2, 3, 2) / 11
    maps = [
        one(places, "z y x", (0, 0, 0, 4, 6, 5)),
        replace(one(coarse, "z y x", (0, 0, 0, 4, 6, 5), HIDDEN), method="coarse"),
    ]
    return Explanation(Maps(maps), samples=(Sample("s", places[None], "c z y x"),))


def over_photo(**said: Any) -> Explanation:
    m = SaliencyMap(torch.zeros(8, 8), "y x", "s", "yes", "gradient", INPUT, (0, 0, 8, 8))
    return Explanation(Maps([m]), (Photo("s", Image.new("RGB", (8, 8), "white")),), **said)


def mixed() -> Explanation:
    """One page with a photo, a series, a row of a table and a volume."""
    parts = {"series": series(), "table": table_page(30), "volume": volume()}
    maps, samples = [], []
    for name, part in parts.items():
        maps += [replace(m, sample=name) for m in part.maps]
        samples += [replace(s, sample=name) for s in part.samples]
    photo = Photo("photo", picture(0, 64))
    maps.append(SaliencyMap(torch.rand(8, 8), "y x", "photo", "yes", "gradient", INPUT))
    return Explanation(Maps(maps), (photo,), samples=tuple(samples))
