"""The pictures of the README and the docs, made of the real thing: `make pictures`.

`python tests/support/pictures.py docs/pictures`
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch
from browser import chrome, resize
from PIL import Image

import limelight as ll


def layers(folder: Path) -> None:
    """Fourteen maps of one photo from one pass, as the sheet of maps draws them."""
    net = ll.load("efficientnet_lite0")
    page = ll.explain(net, ll.example("flower"), ["gradcam", "normgrad"], sites="hidden")
    page.maps.save(folder / "layers.png")


def page(folder: Path) -> None:
    """An explanation as a browser shows it."""
    net = ll.load("efficientnet_lite0")
    photos = [ll.example("flower"), ll.example("china")]
    shown = ll.explain(net, photos, ["gradcam", "normgrad", "lrp"], sites="hidden", ledger=True)
    _screenshot(shown.save, folder / "page.png")


def circuit(folder: Path) -> None:
    """A circuit's page."""
    found = ll.circuit(ll.load("induction_2l"), "induction", count=32)
    _screenshot(lambda path: ll.circuit_report(found, path), folder / "circuit.png")


def run(folder: Path) -> None:
    """A run's page, with scores."""
    from limelight.cli import main

    net = ll.load("efficientnet_lite0")
    with tempfile.TemporaryDirectory() as here:
        photos = Path(here) / "photos"
        photos.mkdir()
        for name in ("flower", "china"):
            photo = Image.open(ll.example(name))
            photo.save(photos / f"{name}.png")
            photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(photos / f"{name}_mirrored.png")
        done = ll.run(
            Path(here) / "run",
            net,
            ll.samples(photos),
            ["gradcam", "normgrad"],
            sites="hidden",
            target=["top", "least"],
        )
        ll.score(done, ["class_sensitivity", "sparseness"])
        where = str(Path(here) / "run")
        _screenshot(lambda path: main(["report", where, "-o", str(path)]), folder / "run.png")


def _screenshot(save, path: Path, size: tuple[int, int] = (1200, 800)) -> None:
    """What a browser shows of a page that `save` writes, in 256 colours."""
    with tempfile.TemporaryDirectory() as here, chrome(Path(here) / "profile") as driver:
        written = Path(here) / "page.html"
        save(written)
        resize(driver, *size)
        driver.get(written.as_uri())
        time.sleep(1.0)
        driver.save_screenshot(str(Path(here) / "page.png"))
        with Image.open(Path(here) / "page.png") as picture:
            small = picture.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT)
            small.save(path, optimize=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for make in (layers, page, circuit, run):
        make(folder)
    for picture in sorted(folder.glob("*.png")):
        print(picture, picture.stat().st_size)
