"""Guided attention: golden cases, both attentions by their formulas, losses, errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fill import fill, image
from shared import golden
from torch import Tensor

import limelight as ll
from limelight.models import load
from limelight.models.zoo.msguided import guided_losses
from limelight.models.zoo.msguided.attention import ChannelAttention, PositionAttention
from limelight.models.zoo.msguided.losses import reconstruction_losses, semantic_losses
from limelight.probe.errors import ModelError, OptionError

CASES = ("msguided.resnext50_64x96", "msguided.resnext101_64")
MODULES = {
    **{f"layer{n}": f"resnext.layer{n}" for n in (0, 1, 4)},
    "down4": "down4",
    "fuse1": "fuse1",
    "pam_1_4": "pam_attention_1_4",
    "cam_1_4": "cam_attention_1_4",
    "attention1_4": "conv8_1",
    "refine4": "conv8_11",
    "refine1": "conv8_14",
}
MAPS = {f"{word}_attention_1_4": f"{word}_attention_1_4.attn.3:map" for word in ("pam", "cam")}


def small(**hyper):
    torch.manual_seed(0)
    return load("msguided_narrow", weights=None, width=8, inter_channels=8, **hyper)


@pytest.mark.golden
@pytest.mark.parametrize("name", CASES)
def test_golden_cases_are_the_same(name):
    case = golden(name)
    model = load("msguided", weights=None, **case.case["config"], train_outputs=True)
    listed = {name: shape for name, shape, *_ in case.case["parameters"]}
    assert {n: list(p.shape) for n, p in model.named_parameters()} == listed
    assert sum(p.numel() for p in model.parameters()) == case.case["n_parameters"]
    fill(model, case.case["salt"])
    about = case.case["input"]
    with ll.Probe(model, grad=False) as probe:
        probe.watch(*MODULES.values(), *MAPS.values())
        out = probe(torch.from_numpy(image(tuple(about["shape"]), about["seed"])))
        found = {key: probe.trace[site].act for key, site in MODULES.items()}
        found |= {key: probe.trace[site].act[:, 0] for key, site in MAPS.items()}
    predictions, codes = out["predictions"], (out["codes_1"], out["codes_2"])
    found |= {
        "segmentation": out["logits"],
        **{f"predict{n}": predictions[n - 1] for n in (1, 4)},
        **{f"predict{n}_2": predictions[n + 3] for n in (1, 4)},
        **{
            f"semVector_{s}_{n}": codes[s - 1][n - 1].flatten() for s, n in ((1, 1), (2, 1), (1, 4))
        },
        "sem_first": out["decoded"][3],
        "out_enc3": out["decoded"][3],
        "out_enc7": out["decoded"][7],
        "loss_semantic": semantic_losses(out),
        "loss_reconstruction": reconstruction_losses(out),
    }
    assert found.keys() == {entry["key"] for entry in case.case["outputs"]}
    for key, value in found.items():
        case.close(key, value, 1e-4)


def test_positions_attend_by_the_formula():
    torch.manual_seed(0)
    layer, x = PositionAttention(16).double(), torch.randn(2, 16, 3, 4).double()
    torch.nn.init.constant_(layer.gamma, 0.7)
    q, k, v = (conv(x).flatten(2) for conv in (layer.query_conv, layer.key_conv, layer.value_conv))
    share = torch.einsum("bcn,bcm->bnm", q, k).softmax(-1)
    want = 0.7 * torch.einsum("bnm,bcm->bcn", share, v).view_as(x) + x
    torch.testing.assert_close(layer(x), want)


def test_channels_attend_to_those_that_are_unlike_them():
    layer, x = ChannelAttention().double(), torch.randn(2, 5, 3, 4).double()
    torch.nn.init.constant_(layer.gamma, 0.7)
    flat = x.flatten(2)
    energy = flat @ flat.mT
    share = (energy.amax(-1, keepdim=True) - energy).softmax(-1)
    torch.testing.assert_close(layer(x), 0.7 * (share @ flat).view_as(x) + x)


def test_training_gives_what_its_loss_is_made_of():
    model = small(num_classes=3)
    x, labels = torch.rand(2, 1, 32, 32), torch.randint(0, 3, (2, 32, 32))
    assert isinstance(model(x), Tensor)
    out = model.train()(x)
    losses = guided_losses(out, labels)
    entropies = sum(F.cross_entropy(logits, labels) for logits in out["predictions"])
    gaps = sum((a - b).square().mean() for a, b in zip(out["codes_1"], out["codes_2"], strict=True))
    back = sum((a - b).square().mean() for a, b in zip(out["encoded"], out["decoded"], strict=True))
    torch.testing.assert_close(losses["loss"], entropies + 0.25 * gaps + 0.1 * back)
    losses["loss"].backward()
    assert model.conv8_1.weight.grad.abs().sum() > 0
    assert model.conv6_1[1].weight.grad is None, "published files hold it, nothing calls it"


@pytest.mark.parametrize(
    ("shape", "words"),
    [((1, 3, 32, 32), "takes pictures b 1 y x"), ((1, 1, 32, 36), "multiples of 8")],
)
def test_pictures_that_do_not_fit_are_one_sentence(shape, words):
    with pytest.raises(ModelError, match=words):
        small()(torch.rand(shape))


def test_options_that_do_not_fit():
    with pytest.raises(OptionError, match="is unknown"):
        load("msguided", weights=None, backbone="vgg")
    with pytest.raises(OptionError, match="four stages"):
        small(layers=(1, 1))
    with pytest.raises(OptionError, match="at least 8"):
        load("msguided_narrow", weights=None, inter_channels=4)
