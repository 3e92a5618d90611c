"""Relevance against zennit, captum, lxt and the code of the salient-relevance paper."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from foreign import import_foreign, import_torchvision
from methods_golden import Case, Compute, case, fill, inputs, model
from relevance_peers import (
    CAPTUM,
    ZENNIT,
    ZENNIT_COMPOSITES,
    relevance,
    zennit_regime,
    zennit_spec,
)
from torch import Tensor, nn

import limelight as ll
from limelight.methods.attention.token_rows import read_row
from limelight.methods.attention.transformer_attribution import (
    PORTS,
    explained,
    relevance_of_maps,
)
from limelight.probe.relevance.linear_rules import Epsilon, Gamma, ZBox, ZPlus
from limelight.probe.relevance.presets import Preset

pytestmark = pytest.mark.golden
VIT = {
    "convNone.linNone": (None, None),
    "conv0.25.lin0.05": (Gamma(0.25), Gamma(0.05)),
    "conv100.0.lin0.1": (Gamma(100.0), Gamma(0.1)),
}


@pytest.mark.parametrize("composite", ZENNIT_COMPOSITES)
@pytest.mark.parametrize("name", ZENNIT)
def test_composites_equal_zennit(name: str, composite: str) -> None:
    golden, x = case(f"method_lrp_zennit_{name}"), inputs(f"method_lrp_zennit_{name}")
    target = ll.label(golden.about["target"])
    low, high = golden.about["zbox_low"], golden.about["zbox_high"]
    regime = zennit_regime(composite, low, high)

    def compute(net: nn.Module, x: Any) -> dict[str, Tensor]:
        pixels = relevance(net, x, target, regime, "input")["input"]
        return {composite: pixels, f"{composite}.heat": pixels.sum(1)}

    golden.check(compute, model(f"method_lrp_zennit_{name}"), x, relative=1e-3)


@pytest.mark.parametrize("name", ZENNIT)
def test_every_output_of_zennit_is_compared(name: str) -> None:
    golden, x = case(f"method_lrp_zennit_{name}"), inputs(f"method_lrp_zennit_{name}")
    net = model(f"method_lrp_zennit_{name}")
    compared = golden.check(lambda net, x: {"logits": net(x)}, net, x, relative=1e-3)
    maps = {f"{key}{form}" for key in ZENNIT_COMPOSITES for form in ("", ".heat")}
    assert compared | maps == set(golden.telling)


@pytest.mark.parametrize("name", ZENNIT)
def test_the_words_of_lrp_mean_zennits_composites(name: str) -> None:
    golden, x = case(f"method_lrp_zennit_{name}"), inputs(f"method_lrp_zennit_{name}")
    low, high = golden.about["zbox_low"], golden.about["zbox_high"]
    keys = [key for key in ZENNIT_COMPOSITES if key not in ("guided_backprop", "deconvnet")]
    specs = [zennit_spec(key, low, high) for key in keys]

    def compute(net: nn.Module, x: Any) -> dict[str, Tensor]:
        maps = ll.maps(net, x, specs, target=golden.about["target"])
        return {f"{key}.heat": m.values for key, m in zip(keys, maps, strict=True)}

    golden.check(compute, model(f"method_lrp_zennit_{name}"), x, relative=1e-3)


@pytest.mark.parametrize("key", CAPTUM)
@pytest.mark.parametrize("name", ["alexnet", "vgg16"])
def test_rules_equal_captum(name: str, key: str) -> None:
    golden, x = case(f"method_lrp_captum_{name}"), inputs(f"method_lrp_captum_{name}")
    target = ll.label(golden.about["target"])

    def compute(net: nn.Module, x: Any) -> dict[str, Tensor]:
        pixels = relevance(net, x, target, CAPTUM[key], "input")["input"]
        return {key: pixels, f"{key}.heat": pixels.sum(1)}

    golden.check(compute, model(f"method_lrp_captum_{name}"), x, relative=1e-3)
    assert set(golden.telling) == {f"{key}{form}" for key in CAPTUM for form in ("", ".heat")}


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


def llama_outputs(regime: str | Preset, golden: Case, times_input: bool = False) -> Compute:
    """The last logits, and relevance by token and by number of the embedding."""
    target = ll.token(golden.about["target"])

    def compute(net: nn.Module, x: Any) -> dict[str, Tensor]:
        with torch.no_grad():
            logits = net(**x).logits[0, -1]
        arrived = relevance(net, x, target, regime, "input")["input"][0]
        if times_input:
            arrived = arrived * net.get_input_embeddings()(x["input_ids"])[0].detach()
        tokens = arrived.sum(-1)
        return {
            "logits.last": logits,
            "relevance.embedding": arrived,
            "relevance.tokens": tokens,
        }

    return compute


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("preset", ["attnlrp", "cplrp"])
def test_transformer_rules_equal_lxt(
    preset: str, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    golden = case(f"method_{preset}_llama")
    net, words = llama(f"method_{preset}_llama", attention)
    compute = llama_outputs(ll.use(f"lrp:{preset}").regime, golden)
    compared = golden.check(compute, net, {"input_ids": words}, relative=1e-4)
    assert compared == set(golden.telling)
    spec = ll.use(f"lrp:{preset}", sites="input")
    golden.check(llama_map(spec, golden), net, {"input_ids": words}, relative=1e-4)


def llama_map(spec: Any, golden: Case) -> Compute:
    """The map of a spec, a number for each token."""
    target = ll.token(golden.about["target"])
    return lambda net, x: {"relevance.tokens": ll.maps(net, x, spec, target=target)[0].values}


@pytest.mark.filterwarnings("ignore")
def test_gradient_times_input_equals_lxt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    golden = case("method_gradinput_llama")
    net, words = llama("method_gradinput_llama", "sdpa")
    compute = llama_outputs("plain", golden, times_input=True)
    compared = golden.check(compute, net, {"input_ids": words}, relative=1e-4)
    assert compared == set(golden.telling)
    spec = ll.use("input_x_gradient", sites="input")
    golden.check(llama_map(spec, golden), net, {"input_ids": words}, relative=1e-4)


@pytest.mark.parametrize("key", VIT)
def test_vit_equals_lxt(key: str) -> None:
    golden = case("method_attnlrp_vit")
    about = golden.about
    vision = import_torchvision().models.vision_transformer
    net = vision.VisionTransformer(**about["constructor"]["kwargs"])
    fill.fill(net, about["salt"])
    conv, linear = VIT[key]
    preset = Preset("a", conv, linear, sites=(("*self_attention*", None),))
    target = ll.label(about["target"])

    def compute(net: nn.Module, x: Any) -> dict[str, Tensor]:
        return {f"relevance.{key}": relevance(net, x, target, preset, "input")["input"].sum(1)}

    golden.check(compute, net.eval(), inputs("method_attnlrp_vit"), relative=1e-3)
    assert set(golden.telling) == {f"relevance.{key}" for key in VIT}


@pytest.mark.parametrize("name", ["alexnet", "vgg16"])
def test_salient_relevance_equals_upstream(name: str) -> None:
    golden, x = case(f"method_sr_lrp_{name}"), inputs(f"method_sr_lrp_{name}")
    net, about = model(f"method_sr_lrp_{name}"), golden.about
    rule = Epsilon(1e-9, signed=False)
    preset = Preset("sr", rule, ZPlus(1e-9, bias=False), pool="unpool-overwrite")
    places = {key: _place(net, key) for key in golden.outputs if key.startswith("R.layer")}
    target = ll.label(about["target"])

    def compute(net: nn.Module, x: Any) -> dict[str, Tensor]:
        sites = ("input", *dict.fromkeys(places.values()))
        arrived = relevance(net, x, target, preset, *sites)
        layers = {key: arrived[place] for key, place in places.items()}
        size = arrived["input"][0].abs().permute(1, 2, 0)
        bright = 255 * (size - size.min()) / (size.max() - size.min())
        # Bytes are rounded down: at most half a step away from the step's middle.
        picture = {"heat_uint8": bright - 0.5}
        return {"logits": net(x), "relevance": arrived["input"], **layers, **picture}

    compared = golden.check(compute, net, x, relative=1e-3, absolute={"heat_uint8": 0.5})
    assert compared == set(golden.telling)


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


def chefer_vit() -> nn.Module:
    """The golden case's ViT, from timm's parts."""
    import_torchvision()
    timm = import_foreign("timm")
    about = case("method_transformer_attribution_vit").about
    net = timm.models.vision_transformer.VisionTransformer(**about["constructor"]["kwargs"])
    net.norm.eps = 1e-5
    fill.fill(net, about["salt"])
    return net.eval()


SPECS = {
    "generic_attention": "generic_attention",
    "abnar_rollout": "rollout",
    "raw_attention.last": "raw_attention",
    "last_layer_attn": "raw_attention",
    "transformer_attribution": "transformer_attribution",
    "transformer_attribution.start1": "transformer_attribution:1",
}


def chefer_maps(golden: Case) -> Compute:
    """What the library calls by name."""

    def compute(net: nn.Module, x: Any) -> dict[str, Tensor]:
        maps = ll.maps(net, x, list(SPECS.values()), target=golden.about["target"])
        assert {m.axes for m in maps} == {"y x"}
        return {"logits": net(x)} | {key: m.values for key, m in zip(SPECS, maps, strict=True)}

    return compute


def chefer_blocks(golden: Case) -> Compute:
    """Attention, its gradient and its relevance in every block, and what is read off them."""
    target = ll.label(golden.about["target"])

    def compute(net: nn.Module, x: Any) -> dict[str, Tensor]:
        blocks = {}
        with ll.Probe(net, relevance=True) as p:
            paths = p.adapter.heads
            p.watch(*(f"{path}:{port}" for path in paths for port in PORTS))
            p(x)
            p.backward(target)
            shares = relevance_of_maps(p, paths, target)
            for i, (path, share) in enumerate(zip(paths, shares, strict=True)):
                value = p.trace[f"{path}:map"]
                blocks |= {f"attn.{i}": value.act, f"attn_grad.{i}": value.grad}
                blocks[f"attn_cam.{i}"] = share
            means = [share.clamp(min=0).mean(1) for share in shares]
            rows = {"rollout": explained(p, means), "last_layer": read_row(p, means[-1])}
        return blocks | rows

    return compute


def chefer_full(golden: Case) -> Compute:
    """Relevance down to the pixels, between the lowest and the highest one in the first layer."""
    target = ll.label(golden.about["target"])

    def compute(net: nn.Module, x: Any) -> dict[str, Tensor]:
        box = ZBox(float(x.min()), float(x.max()), 1e-9, bias=False)
        preset = replace(ll.use("lrp:chefer").regime, first=box)
        return {"full": relevance(net, x, target, preset, "input")["input"].sum(1)}

    return compute


def test_transformer_attribution_equals_upstream() -> None:
    name = "method_transformer_attribution_vit"
    golden, compared = case(name), set()
    for compute in (chefer_maps(golden), chefer_blocks(golden), chefer_full(golden)):
        compared |= golden.check(compute, chefer_vit(), inputs(name), relative=1e-3)
    assert compared == set(golden.telling)
