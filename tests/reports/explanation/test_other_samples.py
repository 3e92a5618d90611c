"""Explanations of series, tables and volumes, of dense outputs: closed forms, from call to page."""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import limelight as ll
from limelight.probe.errors import OptionError
from limelight.reports.explanation.page_data import page_data


def linear(*shape: int) -> nn.Module:
    """Two scores that are inner products with an input of some shape."""
    torch.manual_seed(0)
    flat = nn.Flatten() if len(shape) > 1 else nn.Identity()
    return nn.Sequential(flat, nn.Linear(int(np.prod(shape)), 2)).double().eval()


def weights(model: nn.Module, *shape: int) -> Tensor:
    return model[1].weight[1].detach().reshape(shape)


def values_of(entry: dict) -> np.ndarray:
    codes = np.frombuffer(b64decode(entry["bytes"]), np.uint8).astype(float)
    return (entry["base"] + codes * entry["step"]).reshape(entry["size"])


def test_a_table() -> None:
    model, x = linear(3), torch.tensor([[41.0, 0.5, -2.0], [1.0, 2.0, 3.0]]).double()
    names = ["age", "ratio", "change"]
    explained = ll.explain(
        model, inputs=x, methods="input_x_gradient", target=1, features=names, labels=["no", "yes"]
    )
    data = page_data(explained)
    for entry, sample, row in zip(data["maps"], data["samples"], x, strict=True):
        assert entry["kind"] == "bars"
        assert entry["numbers"] == pytest.approx((weights(model, 3) * row).tolist())
        assert sample["drawn"] == {"kind": "table", "names": names, "values": row.tolist()}
    assert [s["name"] for s in data["samples"]] == ["sample 1", "sample 2"]
    assert {t for t, _, _ in data["samples"][0]["top"]} == {"no", "yes"}
    assert repr(explained).endswith("0 photos, 2 other samples)")
    assert explained.about.preprocessing == "none: inputs as they are, b c"
    single = ll.explain(model, inputs=x[1], methods="input_x_gradient", target=1)
    assert torch.equal(single.maps[0].values, explained.maps[1].values)
    assert "one sample, for the model takes it as no batch" in single.about.notes[-1]


@pytest.mark.parametrize(("axes", "shape"), [("b c t", (2, 12)), ("b t c", (12, 2))])
def test_a_series(axes: str, shape: tuple[int, ...]) -> None:
    model, x = linear(*shape), torch.randn(2, *shape).double()
    explained = ll.explain(
        model, inputs=x, methods="input_x_gradient", target=1, axes={"input": axes}
    )
    channels = axes.split().index("c") - 1
    entry, sample = page_data(explained)["maps"][1], explained.samples[1]
    assert entry["kind"] == "series"
    assert entry["extent"] == [0.0, 12.0]
    want = (weights(model, *shape) * x[1]).sum(channels)
    assert values_of(entry)[0] == pytest.approx(want.numpy(), abs=entry["step"])
    assert torch.equal(sample.values, x[1].movedim(channels, 0))


def test_a_batch_that_is_not_first() -> None:
    class Inner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([x.sum((0, 2)), (x * x).sum((0, 2))], 1)

    x = torch.randn(5, 3, 2)
    explained = ll.explain(
        Inner(), inputs=x, methods="input_x_gradient", target=1, axes={"input": "t b c"}
    )
    assert len(explained.maps) == 3
    for m, sample in zip(explained.maps, x.unbind(1), strict=True):
        assert m.axes == "t"
        torch.testing.assert_close(m.values, 2 * (sample * sample).sum(1))


@pytest.mark.parametrize("first", ["z", "t"])
def test_a_volume(first: str) -> None:
    model, x = linear(1, 3, 4, 5), torch.randn(1, 1, 3, 4, 5).double()
    axes = f"b c {first} y x"
    explained = ll.explain(
        model, inputs=x, methods="input_x_gradient", target=1, axes={"input": axes}
    )
    data = page_data(explained)
    entry = data["maps"][0]
    assert (entry["kind"], entry["size"]) == ("volume", [3, 4, 5])
    assert entry["extent"] == [0, 0, 0, 3, 4, 5]
    want = weights(model, 3, 4, 5) * x[0, 0]
    assert values_of(entry) == pytest.approx(want.numpy(), abs=entry["step"])
    assert data["samples"][0]["drawn"]["axes"] == f"{first} y x"


def test_what_is_not_drawn_is_explained_and_said() -> None:
    model = linear(4, 6)
    explained = ll.explain(
        model,
        inputs=torch.randn(2, 4, 6).double(),
        methods="gradient",
        target=1,
        axes={"input": "b n c"},
    )
    assert [m.axes for m in explained.maps] == ["n", "n"]
    assert explained.samples == ()
    assert explained.about.notes[-1] == "inputs over 'b n c' are not drawn; their maps are"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :5, 0], pixels[:3, 5:, 1], pixels[3:, 5:, 2] = 255, 255, 255
    Image.fromarray(pixels).save(tmp_path / "flag.png")
    return tmp_path / "flag.png"


def test_photos_have_known_axes_though_a_network_flattens_them(photo: Path) -> None:
    model = linear(3, 8, 8).float()
    explained = ll.explain(model, photo, "gradient_sum", target=1, size=8, mean=0.0, std=1.0)
    assert (explained.maps[0].axes, explained.maps[0].extent) == ("y x", (0, 0, 8, 8))
    torch.testing.assert_close(explained.maps[0].values, weights(model, 3, 8, 8).sum(0))
    with pytest.raises(OptionError, match="photos are prepared as 'b c y x'"):
        ll.explain(model, photo, "gradient", size=8, axes={"input": "b y x c"})


def test_areas_are_the_largest_of_the_scores(photo: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False))
    nn.init.eye_(model[0].weight.data[:, :, 0, 0])
    explained = ll.explain(
        model,
        photo,
        "gradient",
        target=0,
        size=8,
        mean=0.0,
        std=1.0,
        output="classes",
        labels=["red", "green", "blue"],
    )
    areas = explained.areas["flag"].classes
    assert areas[0].tolist() == [0] * 5 + [1] * 3
    assert areas[7].tolist() == [0] * 5 + [2] * 3
    assert explained.top == {}
    form = page_data(explained)["samples"][0]["areas"]
    assert [name for name, _ in form["classes"]] == ["red", "blue", "green"]
    assert form["shares"] == pytest.approx([40 / 64, 15 / 64, 9 / 64])


def test_a_restored_picture_is_the_output(photo: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False))
    nn.init.eye_(model[0].weight.data[:, :, 0, 0])
    explained = ll.explain(
        model, photo, "gradient", target=0, size=8, mean=0.5, std=0.25, output="picture"
    )
    assert np.array_equal(np.asarray(explained.restored["flag"]), np.asarray(Image.open(photo)))
    assert "on the scale of the input" in explained.about.notes[-1]


def test_what_does_not_fit_is_refused(photo: Path) -> None:
    model, x = linear(3), torch.randn(2, 3).double()
    for options, words in (
        ({"output": "classes"}, "lies over pictures, and these inputs are none"),
        ({"output": "words"}, "write 'classes', 'picture', 'boxes', or a function"),
        ({"features": ["a"]}, "gives 1 names, but 'sample 1' has 3 features"),
        ({"images": photo}, r"inputs= over 'b c y x' cannot have shape \(2, 3\)"),
        ({"images": photo, "axes": {"input": "b c"}}, "inputs over 'b c', over which they cannot"),
    ):
        with pytest.raises(OptionError, match=words):
            ll.explain(model, inputs=x, methods="gradient", **options)
    picture = linear(3, 8, 8).float()
    for options, words in (
        ({"output": "classes"}, r"output has shape \(1, 2\) and not a score for each class"),
        ({"output": "picture"}, r"output has shape \(1, 2\) and not 1 or 3 channels"),
        ({"features": ["a"]}, "names what is no picture: give it with inputs="),
    ):
        with pytest.raises(OptionError, match=words):
            ll.explain(picture, photo, "gradient", size=8, **options)
    with pytest.raises(OptionError, match="names what is no picture, but inputs= are pictures"):
        ll.explain(picture, inputs=torch.rand(3, 8, 8), axes={"input": "b c y x"}, features=["a"])
