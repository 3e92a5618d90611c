"""Relevance against zennit, captum, lxt and the code of the salient-relevance paper."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from foreign import import_foreign, import_torchvision
from methods_golden import case, fill, inputs, model
from torch import Tensor, nn

import limelight as ll
from limelight.methods.attention.transformer_attribution import PORTS, relevance_of_maps
from limelight.probe.relevance.linear_rules import (
    Epsilon,
    Gamma,
    PositiveGamma,
    PositiveWeights,
    ZPlus,
)
from limelight.probe.relevance.presets import Preset

ZENNIT = ("alexnet", "resnet18", "vgg11_bn", "vgg16")
CAPTUM = {
    "default": Preset("a", Epsilon(1e-9), Epsilon(1e-9)),
    "eps0.1": Preset("a", Epsilon(0.1), Epsilon(0.1)),
    "composite": Preset("a", PositiveGamma(), Epsilon(1e-6)),
    "alpha1beta0": Preset("a", PositiveWeights(), Epsilon(1e-9)),
}
VIT = {
    "convNone.linNone": (None, None),
    "conv0.25.lin0.05": (Gamma(0.25), Gamma(0.05)),
    "conv100.0.lin0.1": (Gamma(100.0), Gamma(0.1)),
}


def relevance(net: nn.Module, x: Any, target: Any, preset: Preset, *sites: str) -> dict:
    """Relevance with all its dimensions at some sites, by address."""
    found = {}
    with ll.Probe(net, relevance=True) as p:
        p.watch(*sites)
        p(**x) if isinstance(x, dict) else p(x)
        p.differentiate(
            target, p.values(), lambda v, r: found.update({str(v.site): r}), regime=preset
        )
    return found


def zennit_spec(key: str, about: dict[str, Any]) -> str:
    """The words of `lrp` that mean a zennit composite of the golden case."""
    name, _, change = key.removesuffix(".heat").partition(".")
    words = f"lrp:{name},init=one"
    if "box" in name:
        words += f",low={about['zbox_low']},high={about['zbox_high']}"
    return words + {"": "", "eps0.25": ",epsilon=0.25", "zero_bias": ",bias=false"}[change]


@pytest.mark.parametrize("name", ZENNIT)
def test_presets_equal_zennit(name: str) -> None:
    golden, x = case(f"method_lrp_zennit_{name}"), inputs(f"method_lrp_zennit_{name}")
    keys = [k for k in golden.telling if k.endswith(".heat") and k[:6] not in ("guided", "deconv")]
    specs = [zennit_spec(key, golden.about) for key in keys]
    maps = ll.maps(model(f"method_lrp_zennit_{name}"), x, specs, target=golden.about["target"])
    for key, found in zip(keys, maps, strict=True):
        golden.check(key, found.values, relative=1e-3)
    assert len(keys) == 8


@pytest.mark.parametrize("name", ZENNIT)
def test_relevance_of_single_channels_equals_zennit(name: str) -> None:
    golden = case(f"method_lrp_zennit_{name}")
    regime = ll.use("lrp:epsilon_alpha2_beta1_flat,init=one").regime
    found = relevance(
        model(f"method_lrp_zennit_{name}"), inputs(f"method_lrp_zennit_{name}"),
        ll.label(golden.about["target"]), regime, "input",
    )  # fmt: skip
    golden.check("epsilon_alpha2_beta1_flat", found["input"], relative=1e-3)


@pytest.mark.parametrize("key", CAPTUM)
@pytest.mark.parametrize("name", ["alexnet", "vgg16"])
def test_rules_equal_captum(name: str, key: str) -> None:
    golden, x = case(f"method_lrp_captum_{name}"), inputs(f"method_lrp_captum_{name}")
    net, target = model(f"method_lrp_captum_{name}"), golden.about["target"]
    found = ll.maps(net, x, ll.use("lrp", preset=CAPTUM[key]), target=target)[0]
    golden.check(f"{key}.heat", found.values, relative=1e-3)


def llama(name: str, attention: str) -> tuple[nn.Module, Tensor]:
    """The golden case's tiny LLaMA and its sentence."""
    import_torchvision()
    transformers = import_foreign("transformers")
    about = case(name).about
    config = transformers.LlamaConfig(**about["constructor"]["kwargs"])
    net = transformers.LlamaForCausalLM._from_config(config, attn_implementation=attention)
    fill.fill(net, about["salt"])
    source = about["input"]
    state = np.random.RandomState(source["seed"])
    words = state.randint(0, source["vocab"], tuple(source["shape"]))
    return net.eval(), torch.from_numpy(words).long()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("preset", ["attnlrp", "cplrp"])
def test_transformer_rules_equal_lxt(
    preset: str, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    golden = case(f"method_{preset}_llama")
    net, words = llama(f"method_{preset}_llama", attention)
    spec = ll.use(f"lrp:{preset}", sites="input")
    target = ll.token(golden.about["target"])
    found = ll.maps(net, {"input_ids": words}, spec, target=target)[0].values
    golden.check("relevance.tokens", found, relative=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_gradient_times_input_equals_lxt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    golden = case("method_gradinput_llama")
    net, words = llama("method_gradinput_llama", "sdpa")
    spec = ll.use("input_x_gradient", sites="input")
    target = ll.token(golden.about["target"])
    found = ll.maps(net, {"input_ids": words}, spec, target=target)[0].values
    golden.check("relevance.tokens", found, relative=1e-4)


@pytest.mark.parametrize("key", VIT)
def test_vit_equals_lxt(key: str) -> None:
    golden = case("method_attnlrp_vit")
    about = golden.about
    vision = import_torchvision().models.vision_transformer
    net = vision.VisionTransformer(**about["constructor"]["kwargs"])
    fill.fill(net, about["salt"])
    conv, linear = VIT[key]
    preset = Preset("a", conv, linear, sites=(("*self_attention*", None),))
    x = inputs("method_attnlrp_vit")
    found = ll.maps(net.eval(), x, ll.use("lrp", preset=preset), target=about["target"])[0]
    golden.check(f"relevance.{key}", found.values, relative=1e-3)


@pytest.mark.parametrize("name", ["alexnet", "vgg16"])
def test_salient_relevance_equals_upstream(name: str) -> None:
    golden, x = case(f"method_sr_lrp_{name}"), inputs(f"method_sr_lrp_{name}")
    net, about = model(f"method_sr_lrp_{name}"), golden.about
    rule = Epsilon(1e-9, signed=False)
    preset = Preset("sr", rule, ZPlus(1e-9, bias=False), pool="unpool-overwrite")
    places = {key: _place(net, key) for key in golden.outputs if key.startswith("R.layer")}
    target = ll.label(about["target"])
    found = relevance(net, x, target, preset, "input", *dict.fromkeys(places.values()))
    golden.check("relevance", found["input"], relative=1e-3)
    for key, place in places.items():
        want = torch.from_numpy(golden.arrays[key]).flatten()
        got, told = found[place].flatten(), golden.outputs[key]
        assert math.prod(told["shape"]) == len(got)
        largest = max(abs(told["min"]), abs(told["max"]))
        assert (got[: len(want)] - want).abs().max() <= 1e-3 * largest, key


def _place(net: nn.Module, key: str) -> str:
    """The site of a relevance that upstream names by its list of layers without dropout."""
    number, kind = int(key.split(".")[1].removeprefix("layer")), key.split(".")[2]
    features = len(net.features)
    if kind.startswith("Reshape"):
        return f"features.{features - 1}"
    if number < features:
        return f"features.{number}:in"
    rest = [n for n, m in net.classifier.named_children() if not isinstance(m, nn.Dropout)]
    return f"classifier.{rest[number - features - 1]}:in"


@pytest.mark.parametrize("name", ["alexnet", "resnet18", "vgg16"])
def test_excitation_equals_torchray(name: str) -> None:
    golden = case(f"method_torchray_{name}")
    keys = [key for key in golden.telling if "excitation" in key]
    assert keys
    for key in keys:
        told = golden.outputs[key]
        site = told["what"].split(" at ")[1].split(",")[0]
        spec = ll.use(key.split(".")[0], sites=site)
        x, target = inputs(f"method_torchray_{name}"), golden.about["target"]
        found = ll.maps(model(f"method_torchray_{name}"), x, spec, target=target)[0]
        golden.check(key, found.values, relative=1e-3)


def chefer_vit() -> nn.Module:
    """The golden case's ViT, from timm's parts."""
    import_torchvision()
    timm = import_foreign("timm")
    about = case("method_transformer_attribution_vit").about
    net = timm.models.vision_transformer.VisionTransformer(**about["constructor"]["kwargs"])
    net.norm.eps = 1e-5
    fill.fill(net, about["salt"])
    return net.eval()


@pytest.mark.parametrize(
    ("spec", "key"),
    [
        ("generic_attention", "generic_attention"),
        ("rollout", "abnar_rollout"),
        ("raw_attention", "raw_attention.last"),
        ("transformer_attribution", "transformer_attribution"),
        ("transformer_attribution:1", "transformer_attribution.start1"),
    ],
)
def test_transformer_attribution_equals_upstream(spec: str, key: str) -> None:
    golden = case("method_transformer_attribution_vit")
    x = inputs("method_transformer_attribution_vit")
    found = ll.maps(chefer_vit(), x, spec, target=golden.about["target"])[0]
    assert found.axes == "y x"
    golden.check(key, found.values, relative=1e-3)


def test_relevance_of_attention_maps_equals_upstream() -> None:
    golden = case("method_transformer_attribution_vit")
    x, target = inputs("method_transformer_attribution_vit"), ll.label(golden.about["target"])
    with ll.Probe(chefer_vit(), relevance=True) as p:
        paths = p.adapter.heads
        p.watch(*(f"{path}:{port}" for path in paths for port in PORTS))
        p(x)
        p.backward(target)
        owns = relevance_of_maps(p, paths, target)
        for i, (path, own) in enumerate(zip(paths, owns, strict=True)):
            golden.check(f"attn.{i}", p.trace[f"{path}:map"].act, relative=1e-3)
            golden.check(f"attn_grad.{i}", p.trace[f"{path}:map"].grad, relative=1e-3)
            golden.check(f"attn_cam.{i}", own, relative=1e-3)
