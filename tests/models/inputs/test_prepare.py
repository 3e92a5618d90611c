"""Photos as inputs: exact resizing and cropping, the crop's place in the photo, foreign models."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from limelight.models import load
from limelight.models.inputs import preprocess
from limelight.models.inputs.prepare import PreparedPhoto, geometry, prepare
from limelight.models.inputs.preprocessing import Preprocessing, preprocessing_of
from limelight.probe.errors import ImageError


def photo(width: int, height: int) -> Image.Image:
    values = np.random.RandomState(0).randint(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def prepared(net: nn.Module, image: Image.Image) -> PreparedPhoto:
    return prepare(preprocessing_of(net), image)


@pytest.fixture(scope="module")
def lite() -> nn.Module:
    return load("efficientnet_lite0", weights=None, width=0.25, depth=0.1)


@pytest.mark.parametrize("size", [(640, 427), (427, 640), (300, 300), (31, 50), (451, 300)])
def test_lite_preprocessing_as_published(lite, size):
    image = photo(*size)
    short = min(size)
    resized = image.resize([int(256 * side / short) for side in size], Image.Resampling.BICUBIC)
    left, top = (round((side - 224) / 2) for side in resized.size)
    crop = np.asarray(resized.crop((left, top, left + 224, top + 224)), np.float32)
    want = torch.from_numpy((crop - 127) / 128).permute(2, 0, 1)[None]
    assert torch.equal(preprocess(lite, image), want)
    assert np.array_equal(np.asarray(prepared(lite, image).crop), crop.astype(np.uint8))


def test_imagenet_normalisation_equals_the_formula():
    net = load("resnet18", weights=None, layers=(1,), width=8)
    x = preprocess(net, photo(256, 256))
    crop = torch.from_numpy(np.array(prepared(net, photo(256, 256)).crop)).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in (net.card.mean, net.card.std))
    torch.testing.assert_close(x[0], (crop - mean) / std, atol=1e-6, rtol=1e-6)


def test_crops_tell_the_part_of_the_photo(lite):
    wide, tall = prepared(lite, photo(512, 256)), prepared(lite, photo(256, 1024))
    assert wide.tensor.shape == tall.tensor.shape == (3, 224, 224)
    assert (wide.box, tall.box) == ((144.0, 16.0, 368.0, 240.0), (16.0, 400.0, 240.0, 624.0))
    assert wide.crop.size == (224, 224)
    halved = geometry(preprocessing_of(lite), (1024, 512))
    assert halved.resized == (512, 256)
    assert halved.box == (288.0, 32.0, 736.0, 480.0)


def test_oblong_inputs_are_covered():
    net = load("deit_tiny", weights=None, img_size=(64, 128), depth=1)
    for size in ((300, 200), (200, 300), (64, 64)):
        ready = prepared(net, photo(*size))
        assert ready.tensor.shape == (3, 64, 128)
        left, top, right, bottom = ready.box
        assert 0 <= left < right <= size[0] + 1e-6
        assert 0 <= top < bottom <= size[1] + 1e-6
        assert (right - left) / (bottom - top) == pytest.approx(2, rel=0.03)
    assert net(preprocess(net, photo(50, 40))).shape == (1, 1000)


def test_one_or_many_of_any_kind(lite):
    image = photo(300, 280)
    one = preprocess(lite, image)
    array = np.asarray(image)
    for several in ([image, array], (i for i in (image, image)), np.stack([array] * 2)):
        assert torch.equal(preprocess(lite, several), one.repeat(2, 1, 1, 1))
    assert torch.equal(preprocess(lite, torch.from_numpy(array.copy())), one)


def test_inputs_have_the_models_dtype():
    net = load("deit_tiny", weights=None, img_size=32, depth=1).to(torch.bfloat16)
    x = preprocess(net, photo(40, 40))
    assert x.dtype == torch.bfloat16
    assert net(x).shape == (1, 1000)


def test_grey_models_get_grey_inputs():
    net = load("resnet18", weights=None, layers=(1,), width=8, in_channels=1, num_classes=2)
    x = preprocess(net, photo(256, 256))
    grey = np.asarray(prepared(net, photo(256, 256)).crop.convert("L"), np.float32) / 255
    want = (grey - net.card.mean[0]) / net.card.std[0]
    np.testing.assert_allclose(x[0, 0].numpy(), want, atol=1e-5)
    assert net(x).shape == (1, 2)


def test_refusals(lite):
    with pytest.raises(ImageError, match="5000 x 3 is too narrow"):
        preprocess(lite, photo(5000, 3))
    with pytest.raises(ImageError, match="no pictures were given"):
        preprocess(lite, [])


def foreign(**attributes: object) -> nn.Module:
    net = nn.Linear(1, 1)
    for name, value in attributes.items():
        setattr(net, name, value)
    return net


def test_timm_configurations_are_read():
    told = {"input_size": (3, 96, 96), "crop_pct": 0.9, "interpolation": "bicubic"}
    net = foreign(pretrained_cfg={**told, "mean": (0.5,) * 3, "std": (0.25,) * 3})
    assert preprocessing_of(net) == Preprocessing((96, 96), 106, "bicubic", (0.5,) * 3, (0.25,) * 3)
    odd = preprocessing_of(
        foreign(pretrained_cfg={**told, "interpolation": "random", "crop_pct": 1.0})
    )
    assert (odd.interpolation, odd.resize) == ("bicubic", 96)
    assert "timm's 'random'" in odd.notes[0]


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ({"config": SimpleNamespace(image_size=64)}, (64, 64)),
        ({"config": SimpleNamespace(image_size=[32, 64])}, (32, 64)),
        ({"config": SimpleNamespace(image_size={"height": 16, "width": 24})}, (16, 24)),
        ({"config": SimpleNamespace(vision_config=SimpleNamespace(image_size=56))}, (56, 56)),
        ({"image_size": 48}, (48, 48)),
    ],
)
def test_foreign_models_without_a_configuration_are_guessed_and_noted(attributes, size):
    net = foreign(**attributes)
    assert preprocessing_of(net).size == size
    assert "ImageNet's mean and std assumed" in preprocessing_of(net).notes[0]
    assert preprocess(net, photo(90, 80)).shape == (1, 3, *size)
