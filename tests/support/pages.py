"""Explanations made of known numbers, for tests of the page."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Sequence
from html.parser import HTMLParser

import numpy as np
import torch
from PIL import Image

from limelight.probe.results.map_values import About
from limelight.probe.results.maps import Maps
from limelight.probe.results.saliency_map import SaliencyMap
from limelight.probe.sites.site import Site
from limelight.reports import Explanation, Guess, Photo

SIZES = (56, 28, 14, 7)


def picture(seed: int, side: int = 224) -> Image.Image:
    """Smooth blobs with fine grain, about as hard to compress as a photo."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))
    grain = random.normal(0, 6, (side, side, 3))
    return Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))


def about(**options: str) -> About:
    return About(
        model="efficientnet_lite0",
        weights="sha256:0f1e2d",
        preprocessing="resize 256, crop 224",
        options=tuple(options.items()),
        seed=3,
        versions=(("torch", "2.13.0"),),
        created="2026-01-31T12:00:00+00:00",
        score=8.25,
        notes=("layers found by shape",),
    )


def maps_of(sample: str, target: str, seed: int, sizes: Sequence[int] = SIZES) -> list[SaliencyMap]:
    """A one-signed and a signed method at each size, and one method at the input alone."""
    random = torch.Generator().manual_seed(seed)
    found = []
    for i, side in enumerate(sizes):
        for method, shift in (("gradcam", 0.0), ("lrp", 0.5)):
            values = torch.rand(side, side, generator=random) - shift
            site = Site(f"blocks.{i}")
            extent = (0, 0, 224, 224)
            found.append(
                SaliencyMap(values, "y x", sample, target, method, site, extent, about(a=method))
            )
    values = torch.rand(28, 28, generator=random)
    found.append(
        SaliencyMap(values, "y x", sample, target, "rise", Site("", "in"), (0, 0, 224, 224))
    )
    return found


def explanation() -> Explanation:
    """Two pictures with two targets, and a sentence with tokens and attention."""
    maps = [
        *maps_of("dog.jpg", "dog", 0),
        *maps_of("dog.jpg", "cat", 1),
        *maps_of("boat.jpg", "boat", 2),
    ]
    odd = torch.full((7, 7), float("nan"))
    flat = torch.zeros(7, 7)
    tokens = torch.tensor([-1.0, 0.0, 0.25, 0.5])
    attention = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(5))
    maps += [
        SaliencyMap(odd, "y x", "boat.jpg", "boat", "broken", Site("blocks.3"), (0, 0, 224, 224)),
        SaliencyMap(flat, "y x", "boat.jpg", "boat", "flat", Site("blocks.3"), (0, 0, 224, 224)),
        SaliencyMap(tokens, "n", "a sentence", "Mary", "gradient", Site("blocks.0")),
        SaliencyMap(attention, "h q k", "a sentence", "Mary", "attention", Site("blocks.0", "map")),
    ]
    photos = (
        Photo("dog.jpg", picture(0), (427, 640), (0, 106, 427, 533)),
        Photo("boat.jpg", picture(1)),
    )
    top = {"dog.jpg": [Guess("dog", 207, 0.9), Guess("cat", 281, 0.06), Guess("fox", 277, 0.0001)]}
    words = {"a sentence": ["When", " Mary", " and", " John"]}
    return Explanation(Maps(maps), photos, top, words)


EVIL = "</script><script>alert(1)</script><img src=x onerror='a()'>\"'&\u2028\u2029{{ 7 * 7 }}"


def elements(page: str) -> tuple[set[str], set[str]]:
    """The tags and the attributes of a page, as a parser sees them."""
    tags, attributes = set(), set()

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list) -> None:
            tags.add(tag)
            attributes.update(name for name, _ in attrs)

    Reader().feed(page)
    return tags, attributes


def data_of(page: str) -> dict:
    """The data inside a page."""
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert len(found) == 1
    return json.loads(found[0])


def values_of(entry: dict) -> np.ndarray:
    """The values of a map as a page keeps them."""
    codes = np.frombuffer(b64decode(entry["bytes"]), dtype=np.uint8).astype(float)
    codes[codes == 255] = np.nan
    return (entry["base"] + codes * entry["step"]).reshape(entry["size"])
