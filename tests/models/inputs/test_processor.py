"""Configurations of Hugging Face's image processors, against their own arithmetic."""

from __future__ import annotations

import pytest

from limelight.models.card import IMAGENET_MEAN, IMAGENET_STD
from limelight.models.inputs.processor import from_processor

SCALE = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.25, 0.5, 0.2], "resample": 3}
SQUARE = {"height": 32, "width": 48}


@pytest.mark.parametrize(
    ("config", "crop", "resize"),
    [
        ({"size": SQUARE}, (32, 48), (32, 48)),
        ({"size": 32}, (32, 32), (32, 32)),
        ({"size": {"shortest_edge": 64}, "crop_pct": 0.875}, (64, 64), 73),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.875}, (384, 384), (384, 384)),
        (
            {"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": SQUARE},
            (32, 48),
            64,
        ),
        ({"size": 64, "do_center_crop": True, "crop_size": 48}, (48, 48), 64),
        ({"size": SQUARE, "do_center_crop": False, "crop_size": 8}, (32, 48), (32, 48)),
    ],
)
def test_sizes(config: dict[str, object], crop: object, resize: object) -> None:
    told = from_processor({**config, **SCALE})
    assert told is not None
    assert told[:3] == (crop, resize, "bicubic")


@pytest.mark.parametrize("told", [{}, {"size": {"longest_edge": 3}}, {"size": None}])
def test_no_size_is_nothing(told: dict[str, object]) -> None:
    assert from_processor(told) is None


@pytest.mark.parametrize(
    "steps",
    [
        {},
        {"do_rescale": False},
        {"do_normalize": False},
        {"rescale_factor": 1 / 127.5},
        {"rescale_factor": 1 / 127.5, "rescale_offset": True},
        {"rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False},
    ],
)
def test_the_scale_is_that_of_the_processor(steps: dict[str, object]) -> None:
    config = {"size": 8, **SCALE, **steps}
    told = from_processor(config)
    assert told is not None
    for c, pixel in enumerate((0.0, 100.0, 255.0)):
        value = pixel
        if config.get("do_rescale", True):
            value = value * float(config.get("rescale_factor", 1 / 255))  # type: ignore[arg-type]
            value -= 1.0 if config.get("rescale_offset") else 0.0
        if config.get("do_normalize", True):
            value = (value - SCALE["image_mean"][c]) / SCALE["image_std"][c]  # type: ignore[index]
        assert (pixel / 255 - told[3][c]) / told[4][c] == pytest.approx(value)


def test_defaults_are_imagenet_s() -> None:
    assert from_processor({"size": 8}) == (
        (8, 8), (8, 8), "bilinear", pytest.approx(IMAGENET_MEAN), pytest.approx(IMAGENET_STD)
    )  # fmt: skip
