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
from limelight.probe.errors import ImageError, LimelightError, OptionError
from limelight.reports.dataset_page.page import render_run

SIZES = [(40, 48), (90, 30), (64, 64)]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return ll.load("resnet18", weights=None, num_classes=6, img_size=32)


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


def own(channels: int = 3, side: int | None = None) -> nn.Module:
    """A network that nobody knows, of any size or of one."""
    torch.manual_seed(0)
    pool = nn.AdaptiveAvgPool2d(1) if side is None else nn.Identity()
    width = 8 if side is None else 8 * (side - 2) ** 2
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3), nn.ReLU(), pool, nn.Flatten(), nn.Linear(width, 4)
    ).eval()


@pytest.mark.parametrize(("channels", "side"), [(1, None), (3, 32), (1, 28)])
def test_a_network_of_ones_own(photos, channels, side):
    model = own(channels, side)
    explained = ll.explain(model, photos, "gradcam", target=2)
    assert len(explained.maps) == 3
    x = ll.preprocess(model, photos)
    want = ll.maps(model, x, "gradcam", target=2)
    for a, b in zip(explained.maps, want, strict=True):
        torch.testing.assert_close(a.values, b.values)
    notes = " | ".join(explained.about.notes)
    assert "ImageNet's mean and std assumed" in notes
    assert ("found by trial" in notes) == (side is not None)
    assert explained.photos[0].image.size == (x.shape[3], x.shape[2])


def test_said_preprocessing_is_the_one_that_is_used(photos):
    model = own(side=32)
    options = {"size": 32, "resize": 40, "mean": 0.5, "std": (0.5, 0.25, 0.5)}
    explained = ll.explain(model, photos, "gradient", target=1, **options)
    want = ll.maps(model, ll.preprocess(model, photos, **options), "gradient", target=1)
    assert torch.equal(explained.maps[1].values, want[1].values)
    assert explained.about.notes == ()
    assert explained.about.preprocessing == (
        "resize 40 bilinear, crop 32 x 32; mean 0.500 0.500 0.500, std 0.500 0.250 0.500"
    )


def test_what_the_network_wants_is_one_sentence(photos):
    with pytest.raises(ImageError, match=r"refuses a photo of 3 x 224 x 224 .* or hand over tens"):
        ll.explain(own(side=45), photos, "gradcam")
    with pytest.raises(ImageError, match="refuses a photo of 3 x 30 x 30"):
        ll.explain(own(side=32), photos, "gradcam", size=30)


def quarter(image: Image.Image) -> torch.Tensor:
    """A crop of a size that differs from photo to photo."""
    side = image.height // 2
    values = np.array(image.crop((0, 0, side, side)), np.float32) / 255
    return (torch.from_numpy(values).permute(2, 0, 1) - 0.5) / 0.5


def test_a_transform_makes_the_input(photos):
    model = own()
    explained = ll.explain(model, photos, "gradient", target=1, transform=quarter)
    assert [m.values.shape for m in explained.maps] == [(24, 24), (15, 15), (32, 32)]
    for photo, path, m in zip(explained.photos, photos, explained.maps, strict=True):
        x = quarter(Image.open(path))[None]
        assert torch.equal(m.values, ll.maps(model, x, "gradient", target=1)[0].values)
        assert photo.image.size == (x.shape[3], x.shape[2])
        assert photo.crop is None
    assert "transform quarter" in explained.about.preprocessing
    assert "drawn from the model's input, from its least value" in explained.about.notes[-1]
    undone = ll.explain(model, photos[:1], "gradient", transform=quarter, mean=0.5, std=0.5)
    pixels = np.asarray(Image.open(photos[0]).crop((0, 0, 24, 24)))
    assert np.array_equal(np.asarray(undone.photos[0].image), pixels)
    assert undone.about.notes == ("the picture is drawn from the model's input",)


def test_a_transform_that_ends_in_normalize_is_undone(photos):
    class Normalize:
        mean, std = [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]

    class Compose:
        def __init__(self) -> None:
            self.transforms = [object(), Normalize()]

        def __call__(self, image: Image.Image) -> torch.Tensor:
            return quarter(image)

    explained = ll.explain(own(), photos[0], "gradient", transform=Compose())
    pixels = np.asarray(Image.open(photos[0]).crop((0, 0, 24, 24)))
    assert np.array_equal(np.asarray(explained.photos[0].image), pixels)


def test_inputs_are_taken_as_they_are(photos):
    model = own(channels=5)
    x = torch.randn(10, 5, 12, 9)
    explained = ll.explain(model, methods="gradient", target=1, inputs=x)
    want = ll.maps(model, x, "gradient", target=1)
    assert len(explained.maps) == 10
    for a, b in zip(explained.maps, want, strict=True):
        torch.testing.assert_close(a.values, b.values)
    assert explained.photos[9].image.size == (9, 12)
    assert explained.about.preprocessing == "none: inputs as they are"
    assert "drawn from the model's input" in explained.about.notes[-1]
    single = ll.explain(model, methods="gradient", target=1, inputs=x[3])
    torch.testing.assert_close(single.maps[0].values, want[3].values)


def test_inputs_may_come_with_their_pictures(photos):
    x = torch.randn(3, 3, 12, 9)
    explained = ll.explain(own(), photos, "gradient", inputs=x)
    assert [p.sample for p in explained.photos] == ["p0", "p1", "p2"]
    shown = np.asarray(explained.photos[0].image)
    assert np.array_equal(shown, np.asarray(Image.open(photos[0]).resize((9, 12))))
    assert explained.about.notes[-1] == "the given pictures lie under the maps"
    with pytest.raises(ImageError, match="1 pictures were given for 3 inputs"):
        ll.explain(own(), photos[0], "gradient", inputs=x)
    with pytest.raises(OptionError, match="size= prepares photos, and inputs= need none"):
        ll.explain(own(), inputs=x, methods="gradient", size=12)
    with pytest.raises(OptionError, match=r"runs on inputs= of shape .* neither as a batch"):
        ll.explain(own(), inputs=torch.randn(3, 12), methods="gradient")


def test_arrays_and_tensors_are_pictures_still():
    grey = np.random.default_rng(0).random((40, 50)).astype(np.float32)
    assert len(ll.explain(own(), grey, "gradcam").maps) == 1
    assert len(ll.explain(own(), torch.rand(2, 3, 40, 50), "gradcam").maps) == 2
    with pytest.raises(ImageError, match=r"are no picture: give 0..1, and .* as inputs= of"):
        ll.explain(own(), torch.randn(2, 3, 40, 50), "gradcam")


NAMES = ["cat", "dog", "newt", "owl"]


def test_labels_name_targets_and_guesses(photos, tmp_path):
    model = own()
    (tmp_path / "names.txt").write_text("\n".join(NAMES))
    for labels in (NAMES, dict(enumerate(NAMES)), tmp_path / "names.txt"):
        explained = ll.explain(model, photos, "gradcam", target=ll.label("newt"), labels=labels)
        assert {m.target for m in explained.maps} == {"newt (2)"}
        assert {m.about.of_class for m in explained.maps} == {2}
        assert {guess.label for guess in explained.top["p0"]} == set(NAMES)
    lrp = ll.explain(model, photos, "lrp", target=ll.label("owl"), labels=NAMES, ledger=True)
    assert list(lrp.ledgers) == ["lrp of p0 for owl (3)"]
    with pytest.raises(OptionError, match="names 3 classes, but the model tells 4 apart"):
        ll.explain(model, photos, "gradcam", labels=NAMES[:3])


def test_names_on_the_network_are_read(photos):
    model = own()
    model.classes = NAMES  # type: ignore[assignment]
    explained = ll.explain(model, photos, "gradcam", target="owl")
    assert {m.target for m in explained.maps} == {"owl (3)"}
    assert {guess.label for guess in explained.top["p0"]} == set(NAMES)
    assert {
        m.target for m in ll.maps(model, ll.preprocess(model, photos), "gradcam", target=1)
    } == {"dog (1)"}


def test_a_module_is_a_site(photos):
    model = own()
    explained = ll.explain(model, photos, "gradcam", sites=[model[1]])
    assert {str(m.site) for m in explained.maps} == {"1"}


@pytest.mark.filterwarnings("ignore")
def test_a_traced_network(photos):
    model = own(side=32)
    traced = torch.jit.trace(model, torch.zeros(1, 3, 32, 32))
    explained = ll.explain(traced, photos, "occlusion,window=8,stride=8", target=1, size=32)
    want = ll.explain(model, photos, "occlusion,window=8,stride=8", target=1, size=32)
    torch.testing.assert_close(explained.maps[2].values, want.maps[2].values)


class Broken(nn.Module):
    """Gives nan for bright pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 6)
        with torch.no_grad():
            self.head.weight.mul_(100)

    def forward(self, x):
        return self.head(self.conv((1 - x).log()).relu().mean((2, 3)))


def half_bright(folder: Path) -> list[Path]:
    paths = [folder / "dark.png", folder / "bright.png"]
    for path, value in zip(paths, (20, 255), strict=True):
        Image.new("RGB", (32, 32), (value,) * 3).save(path)
    return paths


PLAIN = {"size": 32, "resize": 32, "mean": 0.0, "std": 0.99}


def test_a_sample_whose_score_is_not_finite_is_left_out_with_the_reason(tmp_path):
    torch.manual_seed(0)
    net = Broken().eval()
    explained = ll.explain(net, half_bright(tmp_path), "gradcam", sites="conv", **PLAIN)
    assert {m.sample for m in explained.maps} == {p.sample for p in explained.photos} == {"dark"}
    ((name, reason),) = explained.skipped
    assert name == "bright"
    assert reason.startswith("the score is nan")
    assert "bright: the score is nan" in explained.save(tmp_path / "a.html").read_text()
    with pytest.raises(LimelightError, match="the score is nan"):
        ll.explain(net, tmp_path / "bright.png", "gradcam", sites="conv", **PLAIN)


def test_a_run_has_a_row_with_the_reason_where_the_score_is_not_finite(tmp_path):
    torch.manual_seed(0)
    net = Broken().train()
    folder = tmp_path / "photos"
    folder.mkdir()
    half_bright(folder)
    done = ll.run(tmp_path / "run", net, folder, "gradcam", sites="conv", workers=0, **PLAIN)
    table = done.table(["sample", "score", "error"]).set_index("sample")
    assert "the score is nan" in table["error"]["bright.png"]
    assert table["error"].isna()["dark.png"]
    assert net.training, "the caller's network is as it was"


def test_a_run_in_another_precision_leaves_the_network_alone(tmp_path, net, photos):
    ll.run(tmp_path / "run", net, photos, "gradcam", dtype="bfloat16", workers=0)
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def test_random_weights_stand_in_large_letters_on_the_page(tmp_path, net, photos):
    page = ll.explain(net, photos, "gradcam").save(tmp_path / "a.html").read_text()
    assert '<p class="caution">Random weights: this model was never trained' in page
    ll.run(tmp_path / "run", "resnet18", photos, "gradcam", weights=None, seed=3, size=32,
           workers=0, layers=(1, 1), width=8)  # fmt: skip
    again = ll.run(tmp_path / "run", "resnet18", photos, "gradcam", weights=None, seed=3, size=32,
                   workers=0, layers=(1, 1), width=8)  # fmt: skip
    assert again.missing == 0
    assert any("random weights" in note for note in again.plan.told["notes"])
    assert '<p class="caution">Random weights' in render_run(again)
