"""FFNet: published sizes and costs, its deployed form, kernels and coefficients, its options."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fill import fill
from torch.utils.flop_counter import FlopCounterMode

import limelight as ll
from limelight.models import load
from limelight.models.weights.load import no_init
from limelight.models.zoo.ffnet.blocks import TokenMixer, TwoKernels
from limelight.models.zoo.ffnet.deploy import deployed, token_kernels
from limelight.probe.errors import OptionError, WeightsError

SMALL = {
    "depth": (1, 2),
    "embed_dim": (8, 16),
    "in_dim": 8,
    "kernel_sizes1": (3, 7),
    "kernel_sizes2": (7, 3),
    "kernel_sizes": (3, 7),
    "expansion_ratios": 2,
    "num_classes": 5,
}


def small(**hyper):
    model = load("ffnet_1", weights=None, **{**SMALL, **hyper})
    fill(model, 1)
    return model, torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "millions", "giga"),
    [
        ("ffnet_1", 13.66, 2.98),
        ("ffnet_2", 26.9, 6.0),
        ("ffnet_3", 48.3, 10.1),
        ("ffnet_3_384", 48.3, 22.8),
        ("ffnet_4_384", 79.2, 43.1),
    ],
)
def test_the_published_table_is_that_of_the_deployed_form(name, millions, giga):
    with torch.device("meta"), no_init():
        model = load(name, weights=None)
        merged = deployed(model)
        x = torch.empty(1, 3, model.card.size, model.card.size)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        merged(x)
    assert sum(p.numel() for p in merged.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    assert counted.get_total_flops() / 2e9 == pytest.approx(giga, abs=0.05)
    scales = [p for n, p in model.named_parameters() if n.endswith("layer_scale")]
    assert len(scales) == (2 * sum(map(len, model.stages)) - 6 if name[6] in "34" else 0)


def test_layer_scales_start_as_published():
    with no_init():
        scaled = load(
            "ffnet_3", weights=None, depth=(1,), embed_dim=8, kernel_sizes1=3, kernel_sizes2=3
        )
    assert (
        scaled.stages[0][0].channel_mixer.layer_scale.flatten().tolist()
        == [pytest.approx(1e-6)] * 8
    )


@pytest.mark.parametrize("more", [{}, {"use_ses": True, "use_layer_scale": True}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_deployed_form_computes_the_same(more, dtype):
    model, x = small(**more)
    model, x = model.to(dtype).train(), x.to(dtype)
    merged = deployed(model)
    assert model.training
    assert not merged.training
    kinds = {type(part).__name__ for path, part in merged.named_modules() if path != "norm"}
    assert not kinds & {"BatchNorm2d", "TwoKernels", "NormedSkip"}
    assert sum(isinstance(part, TwoKernels) for part in model.modules()) == 6
    with torch.no_grad():
        want = model.eval()(x)
    tight = 1e-4 if dtype == torch.float32 else 1e-12
    with torch.no_grad():
        torch.testing.assert_close(merged(x), want, rtol=tight, atol=tight * float(want.std()))
    want, found = (ll.maps(net, x, "gradcam", target=1, sites="last") for net in (model, merged))
    torch.testing.assert_close(found.stack(), want.stack(), rtol=1e-3, atol=1e-4)


def test_keys_and_values_are_the_kernels_that_mix_the_tokens():
    model, x = small()
    path = "stages.1.1.token_mixer.0.main"
    mixer = model.get_submodule(path)
    assert isinstance(mixer, TokenMixer)
    found = token_kernels(mixer)
    assert found.key.shape == (16, 7, 7)
    assert found.value.shape == (16, 3, 3)
    t = ll.trace(model, x, [f"{path}:query", f"{path}:coefficient", path])
    query, coefficient = t[f"{path}:query"].act, t[f"{path}:coefficient"].act
    bias = sum(
        b.bn.bias - b.bn.running_mean * b.bn.weight / (b.bn.running_var + b.bn.eps).sqrt()
        for b in (mixer.conv1.conv, mixer.conv1.conv1)
    )
    with torch.no_grad():
        scores = F.conv2d(query, found.key[:, None], bias, padding=3, groups=16)
        torch.testing.assert_close(F.gelu(scores), coefficient, rtol=1e-4, atol=1e-5)
        added = F.conv2d(coefficient, found.value[:, None], mixer.conv2.bias, padding=1, groups=16)
    torch.testing.assert_close(added, t[path].act, rtol=1e-4, atol=1e-5)
    same = token_kernels(deployed(model).get_submodule(path))
    torch.testing.assert_close(same.key, found.key)


def test_coefficients_are_maps_of_the_picture():
    model, x = small()
    found = ll.maps(model, x, "activation", sites="stages.*.*.token_mixer.0.main:coefficient")
    assert [(m.axes, tuple(m.values.shape)) for m in found[:2]] == [
        ("y x", (12, 16)),
        ("y x", (6, 8)),
    ]


def test_squeezing_stands_behind_every_other_token_mixer():
    model, x = small(depth=(1, 3), use_ses=(False, True))
    gates = [path for path, part in model.named_modules() if type(part).__name__ == "SqueezeExcite"]
    assert gates == ["stages.1.1.token_mixer.1", "stages.1.3.token_mixer.1"]
    assert model.stages[1][1].token_mixer[1].fc1.out_channels == 8
    assert model(x).shape == (2, 5)


def test_options_by_stage():
    model, x = small(use_gelus=(True, False), layer_norm_last=True, in_channels=1)
    acts = [type(model.stages[s][-1].channel_mixer.main.act).__name__ for s in (0, 1)]
    assert acts == ["GELU", "ReLU"]
    assert not list(model.norm.buffers())
    assert model(x[:, :1]).shape == (2, 5)
    model, x = small(drop_path=0.5)
    drops = [block.channel_mixer.drop for block in (*model.stages[0], *model.stages[1][1:])]
    assert drops == pytest.approx([0, 0.25, 0.5])
    assert torch.equal(model(x), model(x))
    torch.manual_seed(0)
    x = x.repeat(8, 1, 1, 1)
    model.train()
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    ("hyper", "words"),
    [
        ({"kernel_sizes": (3, 3, 3)}, "3 kernel_sizes for 2 stages: give one a stage"),
        ({"kernel_sizes1": 4}, "a kernel of side 4 has no middle: give an odd side"),
        ({"embed_dim": (8, 12)}, "goes from 8 to 12 channels"),
        ({"drop_path": 1.2}, "drop_path=1.2 is no share"),
    ],
)
def test_bad_options_are_one_sentence(hyper, words):
    with pytest.raises(OptionError, match=words):
        load("ffnet_1", weights=None, **{**SMALL, **hyper})


def test_files_with_an_encoder_load_and_others_are_refused(tmp_path):
    model, x = small()
    state = {f"module.encoder.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "w.pth.tar")
    again = load("ffnet_1", tmp_path / "w.pth.tar", **SMALL)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
    with pytest.raises(WeightsError, match="patch_embed"):
        load("ffnet_1", tmp_path / "w.pth.tar", **{**SMALL, "in_dim": 12})


def test_checkpointing_changes_no_gradient():
    model, x = small()
    found = []
    for enable in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(enable)
        model(x).sum().backward()
        found.append(model.stages[0][0].token_mixer[0].main.conv1.weight.grad.clone())
    assert found[0].any()
    torch.testing.assert_close(*found)
