"""Combination over layers: weights, scaling, guards and errors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from limelight.methods import combine
from limelight.methods.combine import layer_weights
from limelight.methods.layer_weights import MODELS, POINTING, TABLES
from limelight.probe.errors import OptionError
from limelight.probe.results.map_values import About
from limelight.probe.results.maps import Maps
from limelight.probe.results.saliency_map import SaliencyMap
from limelight.probe.sites.site import Site

EXTENT = (0.0, 0.0, 8.0, 8.0)


def saliency(
    values: Tensor, site: str, sample: str = "0", target: str = "t", method: str = "normgrad"
) -> SaliencyMap:
    about = About(model="m", options=(("phase", "conv1x1"),))
    return SaliencyMap(values, "y x", sample, target, method, Site(site), EXTENT, about)


def unit(values: Tensor) -> Tensor:
    return (values - values.min()) / (values.max() - values.min())


def test_sum_and_product() -> None:
    torch.manual_seed(0)
    a, b = torch.rand(4, 4), torch.rand(8, 8)
    maps = Maps([saliency(a, "a"), saliency(b, "b")])
    large = unit(maps[0].resize().values)
    for how, expected in (
        ("sum", 0.25 * large + 0.75 * unit(b)),
        ("product", large**0.25 * unit(b) ** 0.75),
    ):
        for weights in ([1, 3], {"b": 0.6, "a": 0.2}):
            (found,) = combine(maps, how, weights)  # type: ignore[arg-type]
            torch.testing.assert_close(found.values, expected)
    assert found.extent == EXTENT
    assert found.site == Site("a+b")
    assert dict(found.about.options) == {
        "phase": "conv1x1",
        "combine": "product",
        "combine.weights": "0.25,0.75",
        "combine.scale": "sample",
    }


def test_each_sample_target_and_method_on_its_own() -> None:
    torch.manual_seed(0)
    maps = Maps(
        saliency(torch.rand(8, 8), site, sample, target, method)
        for site in ("a", "b")
        for sample in ("0", "1")
        for target in ("cat", "dog")
        for method in ("normgrad", "gradcam")
    )
    found = combine(maps)
    assert len(found) == 8
    for m in found:
        alone = combine(maps.where(sample=m.sample, target=m.target, method=m.method))[0]
        assert torch.equal(m.values, alone.values)


def test_the_batch_may_share_its_range() -> None:
    torch.manual_seed(0)
    values = torch.rand(2, 8, 8)
    maps = Maps(saliency(values[i], "a", str(i), f"class {i}") for i in range(2))
    together = unit(values)
    found = combine(maps, "sum", scale="batch")
    torch.testing.assert_close(torch.stack([m.values for m in found]), together)
    found = combine(maps, "sum")
    torch.testing.assert_close(found[1].values, unit(values[1]))


def test_several_targets_of_a_sample_are_several_batches() -> None:
    torch.manual_seed(0)
    values = torch.rand(2, 2, 8, 8)
    maps = Maps(
        saliency(values[i, k], "a", str(i), f"class {i} {k}") for i in range(2) for k in range(2)
    )
    found = combine(maps, "sum", scale="batch")
    torch.testing.assert_close(found[3].values, unit(values[:, 1])[1])


@pytest.mark.parametrize("scale", ["sample", "batch"])
def test_a_constant_map_becomes_zeros(scale: str) -> None:
    maps = Maps([saliency(torch.full((8, 8), 3.0), "a"), saliency(torch.rand(8, 8), "b")])
    assert not combine(maps, scale=scale)[0].values.any()  # type: ignore[arg-type]
    summed = combine(maps, "sum", scale=scale)[0].values  # type: ignore[arg-type]
    torch.testing.assert_close(summed, unit(maps[1].values) / 2)


def test_a_layer_of_weight_zero_does_not_count() -> None:
    maps = Maps([saliency(torch.zeros(8, 8), "a"), saliency(torch.rand(8, 8), "b")])
    torch.testing.assert_close(combine(maps, "product", [0, 2])[0].values, unit(maps[1].values))


def test_named_weights() -> None:
    assert layer_weights(["x", "y", "z", "w"], "any", "linear") == [0.25, 0.5, 0.75, 1.0]
    assert layer_weights(["x", "y"], "any", "uniform") == [1, 1]
    assert layer_weights(["features.29", "features.3"], "any", "accuracy") == [0.32599, 0.03269]
    assert layer_weights(["layer4"], "any", "activation_in") == [0.79181]
    assert layer_weights(["layer1", "layer4"], "gradcam", "pointing_accuracy") == [0.545, 0.904]


def test_tables_fit_their_models() -> None:
    for table in (*TABLES.values(), *POINTING.values()):
        assert {m: len(row) for m, row in table.items()} == {m: len(MODELS[m]) for m in MODELS}
    for table in TABLES.values():
        for row in table.values():
            assert sum(row) == pytest.approx(1, abs=2e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"how": "mean"}, "how is one of product, sum"),
        ({"scale": "all"}, "scale is one of sample, batch"),
        ({"weights": "acuracy"}, "did you mean 'accuracy'"),
        ({"weights": "accuracy"}, "no weight for site 'a' in accuracy of"),
        ({"weights": [1.0, 2.0]}, r"2 weights for the 1 sites a; give one each"),
        ({"weights": {"b": 1.0}}, "no weight for site 'a' in the weights given"),
        ({"weights": [0.0]}, "finite weights of 0 or more"),
        ({"weights": [-1.0]}, "finite weights of 0 or more"),
        ({"weights": [float("nan")]}, "finite weights of 0 or more"),
    ],
)
def test_errors(options: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        combine(Maps([saliency(torch.rand(4, 4), "a")]), **options)


def test_maps_that_do_not_fit_together() -> None:
    one = saliency(torch.rand(4, 4), "a")
    with pytest.raises(OptionError, match="two maps of 'normgrad' at a for sample '0'"):
        combine(Maps([one, one]))
    unknown = SaliencyMap(torch.rand(4, 4), "y x", "0", "t", "normgrad", Site("b"))
    with pytest.raises(OptionError, match="give size=, a number for each of y, x"):
        combine(Maps([one, unknown]))
    assert combine(Maps([one, unknown]), size=(5, 6))[0].values.shape == (5, 6)
    with pytest.raises(OptionError, match="no pointing_accuracy for method 'rise'"):
        combine(
            Maps([saliency(torch.rand(4, 4), "layer1", method="rise")]), weights="pointing_accuracy"
        )


@pytest.mark.parametrize(
    ("axes", "shapes", "extent"),
    [
        ("t", ((4,), (8,)), (0, 8)),
        ("z y x", ((2, 3, 3), (4, 6, 6)), (0, 0, 0, 4, 6, 6)),
        ("n", ((5,), (5,)), (0, 5)),
        ("c t", ((2, 4), (2, 8)), (0, 8)),
    ],
)
def test_layers_over_places_of_any_kind(axes: str, shapes: tuple, extent: tuple) -> None:
    torch.manual_seed(0)
    maps = Maps(
        SaliencyMap(torch.rand(shape), axes, "0", "t", "normgrad", Site(site), extent)
        for site, shape in zip("ab", shapes, strict=True)
    )
    (found,) = combine(maps, "sum", [1, 3])
    want = 0.25 * unit(maps[0].resize().values) + 0.75 * unit(maps[1].values)
    torch.testing.assert_close(found.values, want)
    assert (found.axes, found.extent) == (axes, extent)


def test_numbers_without_places_do_not_combine() -> None:
    numbers = [SaliencyMap(torch.tensor(1.0), "", "0", "t", "m", Site(s)) for s in "ab"]
    with pytest.raises(OptionError, match="gave one number a sample at a; choose sites"):
        combine(numbers)


def test_layers_over_different_axes_do_not_fit() -> None:
    picture, tokens = (
        SaliencyMap(torch.rand(shape), axes, "0", "t", "normgrad", Site(axes[0]))
        for shape, axes in (((4, 4), "y x"), ((5,), "n"))
    )
    with pytest.raises(OptionError, match=r"over the same axes, but .* are over 'n' and 'y x'"):
        combine(Maps([picture, tokens]))
    wide = SaliencyMap(torch.rand(6), "n", "0", "t", "normgrad", Site("b"), (0, 5))
    narrow = SaliencyMap(torch.rand(5), "n", "0", "t", "normgrad", Site("a"), (0, 5))
    with pytest.raises(OptionError, match=r"of shapes \[\(5,\), \(6,\)\]"):
        combine(Maps([narrow, wide]))
