"""AlexNet, VGG, ResNet and ViT: names and outputs of torchvision and timm."""

from __future__ import annotations

import pytest
import torch
from fill import fill, image
from foreign import import_foreign, import_torchvision
from torch import nn

from limelight.models import load
from limelight.models.weights.load import no_init


def filled(name: str, **hyper: object) -> nn.Module:
    with no_init():
        model = load(name, weights=None, **hyper)
    fill(model)
    return model


TORCHVISION = (
    *("alexnet", "vgg11", "vgg13_bn", "vgg19", "resnet18", "resnet34", "resnet101", "vit_b_32"),
)


@pytest.mark.parametrize("name", TORCHVISION)
def test_names_and_shapes_are_those_of_torchvision(name):
    torchvision = import_torchvision()
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(weights=None).state_dict()
        ours = load(name, weights=None).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_resnet34_computes_what_torchvision_computes():
    torchvision = import_torchvision()
    theirs = torchvision.models.resnet34(weights=None).eval()
    fill(theirs)
    x = torch.from_numpy(image((1, 3, 64, 96), 7))
    with torch.no_grad():
        torch.testing.assert_close(filled("resnet34")(x), theirs(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_small_deit_computes_what_timm_computes(pool):
    timm = import_foreign("timm")
    hyper = {"img_size": 96, "depth": 3, "num_classes": 13, "global_pool": pool}
    theirs = timm.create_model("deit_tiny_patch16_224", **hyper).eval()
    fill(theirs)
    ours = filled("deit_tiny_patch16_224", **hyper)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = torch.from_numpy(image((2, 3, 96, 96), 7))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
