"""Small runs with known scores, for tests of scores and pages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas
import torch
from PIL import Image

import limelight as ll
from limelight.reports.datasets.samples import Annotation, Sample, Samples
from limelight.reports.runs.run import Run, run


def photos(root: Path, count: int = 6) -> Path:
    """Dark photos of 60 x 40 with one bright square each, and `things.csv` with the squares."""
    rows = []
    for n in range(count):
        pixels = np.full((40, 60, 3), 20, np.uint8)
        left, top = 14 + 4 * n, 5 + 3 * n
        pixels[top : top + 8, left : left + 8] = 250
        Image.fromarray(pixels).save(root / f"p{n}.png")
        rows.append((f"p{n}.png", n % 3, left, top, left + 8, top + 8))
    heads = ["path", "label", "left", "top", "right", "bottom"]
    pandas.DataFrame(rows, columns=heads).to_csv(root / "things.csv", index=False)
    return root / "things.csv"


def small_run(root: Path, *, lost: int = 0) -> Run:
    """A run of two methods at two layers for three targets; the last `lost` photos are gone."""
    torch.manual_seed(0)
    net = ll.load("resnet18", weights=None, num_classes=6, img_size=32)
    (root / "photos").mkdir()
    photos(root / "photos")
    table = pandas.read_csv(root / "photos" / "things.csv")
    rows = []
    for n, row in enumerate(table.itertuples()):
        square = Annotation(row.label, (row.left, row.top, row.right, row.bottom))
        gone = n >= len(table) - lost
        path = root / "photos" / ("gone.png" if gone else row.path)
        rows.append(Sample(row.path, str(path), row.label, (square,)))
    asked = ["gradcam", "normgrad"]
    options = {"sites": ["layer1", "layer2"], "target": ["label", "top", "least"]}
    return run(root / "run", net, Samples(rows), asked, shard=4, workers=0, **options)


def things(found: Run) -> Path:
    """The boxes of a small run."""
    return found.folder.parent / "photos" / "things.csv"
