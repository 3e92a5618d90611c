"""Site methods, combination, the meta step and smoothing against official code."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from methods_golden import (
    SITE_METHODS,
    Reading,
    case,
    check_cams,
    inputs,
    model,
    read,
    rectified,
)
from torch import Tensor

from limelight.methods import combine
from limelight.methods.meta import inner_step
from limelight.methods.metrics import smooth
from limelight.probe.attribution.registry import use
from limelight.probe.results.maps import Maps
from limelight.probe.results.saliency_map import SaliencyMap
from limelight.probe.sites.site import Site
from limelight.probe.targets.target import label

TORCHRAY = ("method_torchray_alexnet", "method_torchray_resnet18", "method_torchray_vgg16")
GRID = ("method_extract_aggregate_resnet18", "method_extract_aggregate_vgg11_bn")


def _readings(name: str) -> dict[str, Reading]:
    about = case(name).about
    sites = {o["layer"] for o in about["outputs"] if "layer" in o}
    sites |= {site for o in about["outputs"] for site in o.get("layers", ())}
    sites |= {site for o in about["outputs"] for site in o.get("layer_weights", ())}
    return read(model(name), inputs(name), label(about["target"]), sites)


def _as_map(reading: Reading, bound: object, site: str, size: tuple[int, int]) -> SaliencyMap:
    name = bound.name  # type: ignore[attr-defined]
    extent = (0.0, 0.0, float(size[0]), float(size[1]))
    return SaliencyMap(reading(bound)[0], "y x", "0", "t", name, Site(site), extent)


def _combined(
    readings: dict[str, Reading],
    spec: str,
    sites: list[str],
    size: tuple[int, int],
    **options: object,
) -> Tensor:
    maps = Maps(_as_map(readings[site], use(spec), site, size) for site in sites)
    return combine(maps, **options)[0].values  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TORCHRAY)
def test_logits(name: str) -> None:
    case(name).check("logits", model(name)(inputs(name)), relative=1e-4)


@pytest.mark.parametrize("name", TORCHRAY)
def test_site_methods_equal_torchray(name: str) -> None:
    golden, readings = case(name), _readings(name)
    checked = 0
    for key in golden.telling:
        method, _, site = key.partition(".")
        if method in SITE_METHODS and site in readings:
            golden.check(key, readings[site](use(SITE_METHODS[method])), relative=1e-4)
            checked += 1
    assert checked >= 25


@pytest.mark.parametrize("name", TORCHRAY)
def test_guided_deconv_and_smoothing_equal_torchray(name: str) -> None:
    golden, x, target = case(name), inputs(name), label(case(name).about["target"])
    guided = read(rectified(model(name), "guided"), x, target, [])["input"]
    golden.check("guided_backprop.input", guided(use("guided_backprop")), relative=1e-4)
    golden.check("guided_backprop_sum.input", guided(use("guided_backprop:sum")), relative=1e-4)
    deconv = read(rectified(model(name), "deconv"), x, target, [])["input"]
    golden.check("deconvnet.input", deconv(use("deconvnet")), relative=1e-4)
    plain = read(model(name), x, target, [])["input"]
    golden.check("gradient.input.smooth0.02", smooth(plain(use("gradient")), 0.02), relative=1e-4)


@pytest.mark.parametrize("name", TORCHRAY)
def test_resized_and_combined_maps_equal_torchray(name: str) -> None:
    golden, readings, size = case(name), _readings(name), (64, 64)
    weights = golden.outputs["combined.sum"]["layer_weights"]
    sites = list(weights)
    for method in ("gradcam", "normgrad"):
        found = _as_map(readings[sites[-1]], use(method), sites[-1], size).resize().values
        golden.check(
            f"{'grad_cam' if method == 'gradcam' else 'norm_grad'}.resized", found, relative=1e-4
        )
    for how in ("sum", "product"):
        found = _combined(readings, "normgrad", sites, size, how=how, weights=weights)
        golden.check(f"combined.{how}", found, relative=1e-4)
    found = _combined(readings, "normgrad_selective", sites, size, weights="linear")
    golden.check("combined_selective.product.linear", found, relative=1e-4)


@pytest.mark.parametrize("name", TORCHRAY)
def test_meta_step_equals_torchray(name: str) -> None:
    golden, x = case(name), inputs(name)
    about, net = golden.about, model(name)
    classes, twin = torch.tensor([about["target"]]), copy.deepcopy(net)
    checked = 0
    for key in [k for k in golden.telling if k.startswith("meta.")]:
        output = golden.outputs[key]
        new = inner_step(net, x, classes, output["lr"], output.get("negate_loss", False))
        twin.load_state_dict(new, strict=False)
        site = golden.outputs["grad_cam.resized"]["what"].split(" at ")[1].partition(",")[0]
        reading = read(twin, x, label(about["target"]), [site])[site]
        method = SITE_METHODS[key.split(".")[1]]
        golden.check(key, reading(use(method)), relative=1e-3)
        checked += 1
    assert checked == 4


def _scaled(values: Tensor) -> Tensor:
    """As the grid script stores a map: 224 x 224, lowest value to 0, highest to 1."""
    large = F.interpolate(values[:, None], (224, 224), mode="bilinear", align_corners=False)[0, 0]
    large = large - large.min()
    return large / large.max()


def _phase(upstream: str) -> str:
    return "depthwise3x3" if upstream == "conv3x3_depthwise" else upstream


@pytest.mark.parametrize("name", GRID)
def test_the_grid_equals_the_papers_script(name: str) -> None:
    golden, readings = case(name), _readings(name)
    checked = 0
    for key in golden.telling:
        output = golden.outputs[key]
        if "phase1" in output:
            bound = use("normgrad", phase=_phase(output["phase1"]), aggregate=output["phase2"])
            golden.check(key, _scaled(readings[output["layer"]](bound)), absolute=2e-4)
            checked += 1
    assert checked >= 40


@pytest.mark.parametrize("name", GRID)
def test_the_plain_product_equals_the_papers_script(name: str) -> None:
    golden, readings = case(name), _readings(name)
    keys = [key for key in golden.telling if key.startswith("combi")]
    for key in keys:
        output = golden.outputs[key]
        _, phase, aggregate = key.split(".")
        bound = use("normgrad", phase=_phase(phase), aggregate=aggregate)
        # before global pooling the gradient is constant: the script leaves that layer's bias out
        sites = [s for s in output["layers"] if (phase, s) != ("bias", "layer4")]
        product = torch.stack([_scaled(readings[s](bound)) for s in sites]).prod(0)
        golden.check(key, product, absolute=2e-4)
        maps = Maps(_as_map(readings[s], bound, s, (224, 224)) for s in sites)
        ours = combine(maps, "product")[0].values ** len(maps)
        golden.check(key, ours, absolute=2e-4)
    assert len(keys) == 9


def test_cam_family_equals_pytorch_grad_cam() -> None:
    name = "method_cam_resnet18"
    golden = case(name)
    golden.check("logits", model(name)(inputs(name)), relative=1e-4)
    assert check_cams(golden, _readings(name), 96) == 16


def test_cam_is_gradcam_up_to_the_number_of_positions() -> None:
    name = "method_cam_resnet18"
    reading = _readings(name)["layer4"]
    positions = reading.act[0, 0].numel()
    expected = reading(use("gradcam", relu=False)) * positions
    torch.testing.assert_close(reading(use("cam")), expected, rtol=1e-3, atol=1e-4)
    weights = model(name).fc.weight[case(name).about["target"]]
    by_hand = torch.einsum("c,bcyx->byx", weights, reading.act)
    torch.testing.assert_close(reading(use("cam")), by_hand, rtol=1e-3, atol=1e-4)


def test_a_combined_map_carries_its_options() -> None:
    readings, sites = _readings(TORCHRAY[1]), ["layer1", "layer2", "layer3", "layer4"]
    maps = Maps(_as_map(readings[s], use("normgrad"), s, (64, 64)) for s in sites)
    found = combine(maps, "sum", "activation")[0]
    case(TORCHRAY[1]).check("combined.sum", found.values, relative=1e-4)
    assert str(found.site) == "layer1+layer2+layer3+layer4"
    assert dict(found.about.options)["combine.weights"] == "activation"
    assert combine(Maps(replace(m, sample="1") for m in maps))[0].sample == "1"
