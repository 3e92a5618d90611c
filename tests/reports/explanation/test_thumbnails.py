"""Small pictures of samples that are no photos."""

from __future__ import annotations

from base64 import b64decode
from io import BytesIO

import numpy as np
import torch
from PIL import Image

from limelight.reports.explanation.contents import Sample
from limelight.reports.explanation.thumbnails import thumbnails


def test_a_series_is_lines_in_their_own_range():
    values = torch.tensor([[0.0, 1.0, float("nan"), 2.0], [7.0, 7.0, 7.0, 7.0]])
    lines = thumbnails([Sample("s", values, "c t")])["s"].lines
    points = [[tuple(map(float, p.split(","))) for p in line.split()] for line in lines]
    assert points[0] == [(4.0, 36.0), (22.7, 20.0), (41.3, 36.0), (60.0, 4.0)]
    assert {y for _, y in points[1]} == {20.0}
    (long,) = thumbnails([Sample("l", torch.arange(6400.0)[None], "c t")])["l"].lines
    assert len(long.split()) == 32


def test_a_volume_is_its_middle_slice():
    values = torch.zeros(1, 3, 8, 8)
    values[0, 1, :4] = 1
    uri = thumbnails([Sample("v", values, "c z y x")])["v"].picture
    image = Image.open(BytesIO(b64decode(uri.partition(",")[2])))
    pixels = np.asarray(image.convert("L"), int)
    assert pixels[:3].min() > 200
    assert pixels[5:].max() < 60


def test_a_row_of_a_table_is_its_first_features():
    sample = Sample("t", torch.tensor([41.0, 0.25, -3.0, 9.0]), "c", ("age", "ratio", "x", "y"))
    assert thumbnails([sample])["t"].words == ("age 41", "ratio 0.25", "x −3")
    bare = thumbnails([Sample("b", torch.tensor([1.0]), "c")])["b"]
    assert bare.words == ("feature 0 1",)
