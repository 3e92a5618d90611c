"""Targets at places of dense outputs in one to three dimensions, against sums written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import limelight as ll
from limelight.probe.errors import TargetError
from limelight.probe.targets.class_scores import by_name

draw = torch.Generator().manual_seed(0)
SERIES = torch.randn(2, 3, 7, generator=draw)
PICTURE = torch.randn(2, 3, 4, 5, generator=draw)
VOLUME = torch.randn(2, 3, 4, 5, 6, generator=draw)
T, YX, ZYX = (torch.rand(f.shape[2:], generator=draw) for f in (SERIES, PICTURE, VOLUME))
BYX = torch.rand(2, 4, 5, generator=draw)
SIDES = torch.randn(2, 4, 4, 5, generator=draw)
LEVELS = {"scores": [PICTURE, PICTURE[..., :2, :2]], "boxes": [SIDES, SIDES[..., :2, :2]]}
NAMES = by_name(["cat", "dog", "left"])


@pytest.mark.parametrize(
    ("target", "output", "expected"),
    [
        (ll.pixel(3, 2), SERIES, SERIES[:, 2, 3]),
        (ll.pixel(1, -1, 2), PICTURE, PICTURE[:, 2, 1, -1]),
        (ll.pixel(1, -1, [2, 0]), PICTURE, PICTURE[[0, 1], [2, 0], 1, -1]),
        (ll.pixel(1, 2, "dog"), PICTURE, PICTURE[:, 1, 1, 2]),
        (ll.pixel(np.int64(3), 4, 5, np.int64(1)), VOLUME, VOLUME[:, 1, 3, 4, 5]),
        (ll.pixel(1, 2, 0, of="probability"), PICTURE, PICTURE.softmax(1)[:, 0, 1, 2]),
        (ll.pixel(1, 2, 0, at="out"), {"out": PICTURE, "aux": T}, PICTURE[:, 0, 1, 2]),
        (ll.region(T, 2), SERIES, (SERIES[:, 2] * T).sum(1)),
        (ll.region(YX, 2), PICTURE, (PICTURE[:, 2] * YX).sum((1, 2))),
        (ll.region(YX.numpy() > 0.5, 2), PICTURE, (PICTURE[:, 2] * (YX > 0.5)).sum((1, 2))),
        (ll.region(BYX, "dog"), PICTURE, (PICTURE[:, 1] * BYX).sum((1, 2))),
        (ll.region(ZYX[None], 1), VOLUME, (VOLUME[:, 1] * ZYX).sum((1, 2, 3))),
        (ll.region(ZYX, 1, per_sample=False), VOLUME, (VOLUME[:, 1] * ZYX).sum((1, 2, 3))),
        (ll.region(BYX[..., 0], 1, per_sample=True), SERIES[..., :4],
         (SERIES[:, 1, :4] * BYX[..., 0]).sum(1)),
        (ll.region(YX, 1, of="probability"), PICTURE,
         (PICTURE.softmax(1)[:, 1] * YX).sum((1, 2))),
        (ll.region(YX, 1, of="sigmoid"), PICTURE, (PICTURE[:, 1].sigmoid() * YX).sum((1, 2))),
        (ll.box(1, 0, 1, 2), [PICTURE, PICTURE.flip(2)], PICTURE[:, 2, -1, 1]),
        (ll.box(1, 0, 1, 2, at="scores"), LEVELS, PICTURE[:, 2, 0, 1]),
        (ll.box("p3", 0, 1, "dog"), {"p3": PICTURE, "p4": PICTURE}, PICTURE[:, 1, 0, 1]),
        (ll.box(0, 2, 1, "left", at="boxes"), LEVELS, SIDES[:, 0, 2, 1]),
        (ll.box(0, 2, 1, "bottom", at="boxes"), LEVELS, SIDES[:, 3, 2, 1]),
        (ll.peak(1), PICTURE, PICTURE[:, 1].amax((1, 2))),
        (ll.peak([2, 0]), SERIES, torch.stack([SERIES[0, 2].max(), SERIES[1, 0].max()])),
        (ll.peak("cat", soft=3), PICTURE, (3 * PICTURE[:, 0]).exp().sum((1, 2)).log() / 3),
        (ll.peak(1, at="heat"), {"heat": VOLUME, "tags": T}, VOLUME[:, 1].amax((1, 2, 3))),
    ],
)  # fmt: skip
def test_values(target, output, expected):
    found = target.resolve(NAMES)
    torch.testing.assert_close(found(output, 2), expected)
    for i in range(2):
        part = _rows(output, [i])
        torch.testing.assert_close(found.take([i])(part, 1), expected[i : i + 1])


def _rows(output, rows):
    if isinstance(output, dict):
        return {key: _rows(part, rows) for key, part in output.items()}
    if isinstance(output, list):
        return [_rows(part, rows) for part in output]
    return output[rows] if len(output) == 2 else output


@pytest.mark.parametrize(
    ("make", "output", "error"),
    [
        (lambda: ll.pixel(9, 0, 1), PICTURE, "pixel (9, 0) lies outside the output of (4, 5)"),
        (lambda: ll.pixel(0, 1), PICTURE, "pixel (0) lies outside the output of (4, 5)"),
        (
            lambda: ll.pixel(0, 0, 1),
            PICTURE[..., 0, 0],
            "a place needs a dense output b c and t, y x or z y x, but the output is (2, 3)",
        ),
        (
            lambda: ll.pixel(1),
            PICTURE,
            "pixel takes a place of one to three numbers and then a class, not (1,)",
        ),
        (
            lambda: ll.pixel(0.5, 1, 1),
            PICTURE,
            "pixel takes a place of whole numbers and then a class, not (0.5, 1)",
        ),
        (lambda: ll.pixel(0, 0, 7), PICTURE, "class 7 was asked, but the model has 3 classes"),
        (
            lambda: ll.region(YX[:2], 1),
            PICTURE,
            "a mask of (2, 5) does not fit an output (2, 3, 4, 5)",
        ),
        (
            lambda: ll.region(ZYX, 1),
            VOLUME[[0, 1, 0, 1]],
            "a mask of (5, 6) does not fit an output (4, 3, 4, 5, 6); say whether samples come "
            "first in it by per_sample=",
        ),
        (
            lambda: ll.region(torch.ones(1, 1, 1, 1, 1), 1),
            VOLUME,
            "a mask covers t, y x or z y x, with samples in front if there is one a sample, but "
            "this one is (1, 1, 1, 1, 1)",
        ),
        (
            lambda: ll.box(7, 0, 0, 1, at="scores"),
            LEVELS,
            "at='scores.7' names no part of what the model returned: scores.0 (2, 3, 4, 5), "
            "scores.1 (2, 3, 2, 2), boxes.0 (2, 4, 4, 5), boxes.1 (2, 4, 2, 2); did you mean "
            "'scores.1' or 'scores.0' or 'boxes.1'?",
        ),
        (
            lambda: ll.box(0, 0, 0, "left", at="scores"),
            LEVELS,
            "box reads its left side of four channels, left, top, right, bottom, but the part "
            "'scores.0' has 3: name the boxes by at=",
        ),
        (lambda: ll.peak(3), PICTURE, "class 3 was asked, but the model has 3 classes"),
        (lambda: ll.peak(0, soft=0), PICTURE, "peak takes soft above 0, not 0"),
    ],
)
def test_errors(make, output, error):
    with pytest.raises(TargetError) as found:
        make()(output)
    assert str(found.value) == error


def test_names():
    assert ll.pixel(12, 7, "dog").name == "dog at (12, 7)"
    assert ll.pixel(12, 7, 3, at="out").name == "3 at (12, 7) of out"
    assert ll.box(0, 12, 7, 3, at="scores").name == "3 at (12, 7) of level 0 of scores"
    assert ll.box("p3", 12, 7, "top").name == "top at (12, 7) of level p3"
    assert ll.region(YX, 2).name == "2 in a region"
    assert ll.peak("cat").name == "peak of cat"
    assert ll.peak("cat", soft=2).name == "peak of cat, soft 2"
