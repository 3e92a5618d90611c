"""From photos to an explanation: each is read, resized and cropped once, as a run does it too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import limelight as ll
from limelight.models.inputs import preprocessing
from limelight.probe.errors import ImageError

SIZES = [(40, 48), (90, 30), (64, 64)]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return ll.load("resnet18", num_classes=6, img_size=32)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    draw = np.random.default_rng(0)
    paths = [tmp_path / f"p{n}.png" for n in range(len(SIZES))]
    for path, (width, height) in zip(paths, SIZES, strict=True):
        Image.fromarray(draw.integers(0, 255, (height, width, 3), np.uint8)).save(path)
    return paths


@pytest.fixture
def resized(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The sizes of the pictures that PIL was asked to resize."""
    sizes: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def counted(self: Image.Image, *arguments: object, **options: object) -> Image.Image:
        sizes.append(self.size)
        return resize(self, *arguments, **options)

    monkeypatch.setattr(Image.Image, "resize", counted)
    return sizes


def test_each_photo_is_resized_once(net, photos, resized):
    ll.explain(net, photos, "gradcam")
    assert resized == SIZES


def test_a_run_resizes_each_photo_once(tmp_path, net, photos, resized):
    ll.run(tmp_path / "run", net, photos, "gradcam", workers=0)
    assert resized == SIZES


def test_the_preprocessing_is_looked_up_once(net, photos, monkeypatch):
    calls = []
    sides = preprocessing.sides
    monkeypatch.setattr(preprocessing, "sides", lambda size: calls.append(size) or sides(size))
    ll.explain(net, photos, "gradcam")
    assert len(calls) == 1


def test_the_photo_is_the_crop_that_the_model_sees(net, photos):
    explained = ll.explain(net, photos, "gradcam")
    x = ll.preprocess(net, photos)
    mean, std = (torch.tensor(v)[:, None, None] for v in (net.card.mean, net.card.std))
    for photo, tensor, size in zip(explained.photos, x, SIZES, strict=True):
        pixels = torch.from_numpy(np.array(photo.image)).permute(2, 0, 1) / 255
        torch.testing.assert_close(tensor, (pixels - mean) / std, atol=1e-5, rtol=1e-5)
        assert photo.original == size[::-1]
        top, left, bottom, right = photo.crop
        assert (bottom - top) / (right - left) == pytest.approx(1, rel=0.05)


def test_what_cannot_be_read_is_named(net, photos, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    explained = ll.explain(net, [*photos, tmp_path / "bad.png", photos[0]], "gradcam")
    assert [p.sample for p in explained.photos] == ["p0", "p1", "p2", "p0 (2)"]
    assert [which for which, _ in explained.skipped] == [str(tmp_path / "bad.png")]
    with pytest.raises(ImageError, match="in no format that Pillow reads"):
        ll.explain(net, tmp_path / "bad.png", "gradcam")
    with pytest.raises(ImageError, match="no pictures were given"):
        ll.explain(net, [], "gradcam")
