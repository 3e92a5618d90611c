"""What a user says of preprocessing, beside what a model tells, takes, or leaves to be assumed."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import limelight as ll
from limelight.models.card import IMAGENET_MEAN, IMAGENET_STD
from limelight.models.inputs import Preprocessing, PreprocessingOptions, fitted, preprocess
from limelight.models.inputs.trial import accepted, first_channels
from limelight.probe.errors import ImageError, OptionError

GREY_MEAN, GREY_STD = (sum(v) / 3 for v in (IMAGENET_MEAN, IMAGENET_STD))


def photo(width: int = 60, height: int = 40) -> Image.Image:
    values = np.random.RandomState(0).randint(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def convolutional(channels: int = 3, side: int | None = None, **attributes: object) -> nn.Module:
    """A network that takes any size, or one side only."""
    pool = nn.AdaptiveAvgPool2d(1) if side is None else nn.Identity()
    width = 4 if side is None else 4 * (side - 2) ** 2
    net = nn.Sequential(nn.Conv2d(channels, 4, 3), pool, nn.Flatten(), nn.Linear(width, 5)).eval()
    for name, value in attributes.items():
        setattr(net, name, value)
    return net


def dense(inputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 10)).eval()


@pytest.mark.parametrize("side", [28, 32, 96, 299])
def test_a_fixed_size_is_found_and_noted(side: int) -> None:
    used = fitted(convolutional(side=side))
    assert (used.size, used.resize) == ((side, side), side)
    assert used.notes[0].startswith(f"input size {side} x {side} found by trial; say size=")
    assert "ImageNet's mean and std assumed" in used.notes[1]
    assert preprocess(convolutional(side=side), photo()).shape == (1, 3, side, side)


def test_a_network_of_any_size_gets_the_custom() -> None:
    used = fitted(convolutional())
    assert used == Preprocessing(
        (224, 224), 256, "bilinear", IMAGENET_MEAN, IMAGENET_STD, used.notes, frozenset({"scale"})
    )
    assert used.notes == ("no preprocessing known: size 224, ImageNet's mean and std assumed",)


def test_one_channel_means_grey() -> None:
    used = fitted(convolutional(1, 28))
    assert (used.size, used.mean, used.std) == ((28, 28), (GREY_MEAN,), (GREY_STD,))
    assert any(note.startswith("grey, for the model takes 1 channel") for note in used.notes)
    x = preprocess(convolutional(1, 28), photo(28, 28))
    grey = np.asarray(photo(28, 28).convert("L"), np.float32) / 255
    np.testing.assert_allclose(x[0, 0].numpy(), (grey - GREY_MEAN) / GREY_STD, atol=1e-5)


@pytest.mark.parametrize(("inputs", "channels", "side"), [(784, 1, 28), (3072, 3, 32)])
def test_networks_without_convolutions_are_tried(inputs: int, channels: int, side: int) -> None:
    assert preprocess(dense(inputs), photo()).shape == (1, channels, side, side)


def test_the_first_convolution_in_the_list_need_not_be_the_first_that_runs() -> None:
    class Late(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.stem = nn.Conv2d(8, 4, 1), nn.Conv2d(1, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.stem(x)).mean((2, 3))

    assert first_channels(Late()) == 8
    assert preprocess(Late(), photo()).shape == (1, 1, 224, 224)


def test_the_formula_with_all_said() -> None:
    net = convolutional()
    x = preprocess(net, photo(48, 32), size=32, mean=0.5, std=(0.5, 0.25, 0.125))
    crop = np.asarray(photo(48, 32).crop((8, 0, 40, 32)), np.float32) / 255
    want = (crop - 0.5) / np.array([0.5, 0.25, 0.125], np.float32)
    np.testing.assert_allclose(x[0].permute(1, 2, 0).numpy(), want, atol=1e-5)
    assert fitted(net, PreprocessingOptions(size=32, mean=0.5, std=0.5)).notes == ()


def test_a_photo_may_be_stretched() -> None:
    net = convolutional()
    x = preprocess(net, photo(), size=(16, 24), resize=(16, 24), interpolation="nearest",
                   mean=0, std=1)  # fmt: skip
    want = photo().resize((24, 16), Image.Resampling.NEAREST)
    np.testing.assert_allclose(x[0].permute(1, 2, 0).numpy() * 255, np.asarray(want), atol=1e-4)


def test_options_change_only_what_they_name() -> None:
    net = ll.load("resnet18", weights=None, num_classes=3, layers=(1,), width=8)
    card = fitted(net)
    assert fitted(net, PreprocessingOptions(mean=0.5)).mean == (0.5,) * 3
    assert fitted(net, PreprocessingOptions(mean=0.5)).std == card.std
    smaller = fitted(net, PreprocessingOptions(size=112))
    assert (smaller.size, smaller.resize, smaller.mean) == ((112, 112), 128, card.mean)
    assert card.notes == smaller.notes == ()


def test_what_a_model_tells_is_not_tried() -> None:
    class Counted(nn.Conv2d):
        runs = 0

        def forward(self, x: Tensor) -> Tensor:
            Counted.runs += 1
            return super().forward(x)

    net = Counted(3, 4, 3)
    net.pretrained_cfg = {"input_size": (3, 96, 96)}  # type: ignore[assignment]
    assert fitted(net).size == (96, 96)
    net = Counted(3, 4, 3)
    net.config = SimpleNamespace(image_size=48)  # type: ignore[assignment]
    assert fitted(net).size == (48, 48)
    assert Counted.runs == 0
    del net.config
    fitted(net)
    assert Counted.runs == 1


def test_timm_models_built_for_another_size_or_in_grey() -> None:
    config = {"input_size": (3, 96, 96), "mean": (0.5,) * 3, "std": (0.25,) * 3}
    net = convolutional(1, 32, pretrained_cfg=config)
    with pytest.raises(ImageError, match="refuses a photo of 1 x 96 x 96"):
        fitted(net)
    net.patch_embed = SimpleNamespace(img_size=(32, 32))  # type: ignore[assignment]
    used = fitted(net)
    assert (used.size, used.mean, used.std) == ((32, 32), (0.5,), (0.25,))


def test_the_trial_leaves_the_model_as_it_was() -> None:
    net = convolutional(side=32)
    net.insert(1, nn.BatchNorm2d(4))
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    fitted(net)
    assert net.training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_what_no_model_takes_is_one_sentence() -> None:
    with pytest.raises(ImageError, match=r"refuses a photo of 3 x 224 x 224 .* say size=, and"):
        fitted(dense(7))
    with pytest.raises(ImageError, match="whose first convolution takes 4 channels, refuses"):
        fitted(convolutional(4))
    with pytest.raises(ImageError, match=r"refuses a photo of 3 x 20 x 20 \(mat1 and mat2"):
        fitted(convolutional(side=32), PreprocessingOptions(size=20))
    with pytest.raises(ImageError, match="a photo has 3 channels or, in grey, 1"):
        fitted(convolutional(4), PreprocessingOptions(mean=(0.5,) * 4, std=0.5))


def test_a_mistake_in_the_network_is_not_taken_for_a_size() -> None:
    class Wrong(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.nothing()  # type: ignore[operator]

    with pytest.raises(AttributeError, match="nothing"):
        accepted(Wrong(), (3,), ((32, 32),))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"size": 0}, "size=0 is no size"),
        ({"size": (1, 2, 3)}, r"give one side, or \(height, width\)"),
        ({"size": "32"}, "size='32' is no size"),
        ({"size": True}, "size=True is no size"),
        ({"resize": 3.5}, "resize=3.5 is no size"),
        ({"mean": "x"}, "mean='x': give numbers on the 0..1 scale"),
        ({"std": 0}, "std=0: give positive numbers"),
        ({"std": (0.5, -1, 1)}, "give positive numbers"),
        ({"mean": float("nan")}, "mean=nan"),
        ({"interpolation": "bicubi"}, "did you mean 'bicubic'"),
        ({"transform": 3}, "transform=3 is no function"),
        ({"transform": len, "size": 3}, "size= and transform= both shape the photo"),
    ],
)
def test_impossible_options(options: dict[str, object], told: str) -> None:
    with pytest.raises(OptionError, match=told):
        PreprocessingOptions(**options)  # type: ignore[arg-type]


def test_options_that_do_not_fit_together() -> None:
    net = convolutional()
    with pytest.raises(OptionError, match="speak of different channels"):
        fitted(net, PreprocessingOptions(mean=(0, 0), std=(1, 1, 1)))
    with pytest.raises(OptionError, match="resize=8 is less than the input of 32 x 32"):
        fitted(net, PreprocessingOptions(size=32, resize=8))
    with pytest.raises(OptionError, match="less than the input"):
        fitted(net, PreprocessingOptions(size=32, resize=(40, 31)))
    grey = ll.load("resnet18", weights=None, num_classes=3, layers=(1,), width=8, in_channels=1)
    with pytest.raises(ImageError, match="refuses a photo of 3 x 224"):
        fitted(grey, PreprocessingOptions(mean=(0.1, 0.2, 0.3)))


def half(image: Image.Image) -> Tensor:
    """The upper left quarter, from -1 to 1."""
    values = torch.from_numpy(np.array(image.crop((0, 0, 20, 20)), np.float32)).permute(2, 0, 1)
    return values / 127.5 - 1


def test_a_transform_makes_the_input() -> None:
    x = preprocess(convolutional(), [photo(), photo(90, 80)], transform=half)
    assert torch.equal(x, torch.stack([half(photo()), half(photo(90, 80))]))


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda x: x[None],
        lambda x: x.numpy(),
        lambda x: {"pixel_values": [x.numpy()]},
        lambda x: {"pixel_values": x[None]},
    ],
)
def test_what_transforms_and_processors_return(wrapped: Callable[[Tensor], object]) -> None:
    x = preprocess(convolutional(), photo(), transform=lambda image: wrapped(half(image)))
    assert torch.equal(x[0], half(photo()))


def test_transforms_that_make_no_input() -> None:
    net = convolutional()
    with pytest.raises(ImageError, match="the transform makes a int of a photo"):
        preprocess(net, photo(), transform=lambda image: 3)
    with pytest.raises(ImageError, match="the transform makes 20 x 20 of a photo"):
        preprocess(net, photo(), transform=lambda image: half(image)[0])
    with pytest.raises(ImageError, match=r"fails on a picture of 60 x 40 \(ZeroDivisionError"):
        preprocess(net, photo(), transform=lambda image: 1 / 0)
    with pytest.raises(ImageError, match="makes inputs of 3 x 40 x 60 and 3 x 80 x 90"):
        preprocess(net, [photo(), photo(90, 80)], transform=lambda image: torch.from_numpy(
            np.array(image)).permute(2, 0, 1) / 255)  # fmt: skip
