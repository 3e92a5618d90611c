"""TransformerLens' bridges under the probe: its hooks and ours see and change the same things."""

from __future__ import annotations

import os
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from fill import fill, tokens, value
from foreign import import_foreign
from shared import golden
from torch import Tensor, nn

import limelight as ll
from limelight.methods.circuits.interventions import each_head, replacement
from limelight.probe.sites.adapter import adapt

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # without it each refusal takes most of a minute
VOCABULARY, CONTEXT = 97, 32
WAYS = ("native", "gpt2", "gpt2_folder", "llama_folder")
pytestmark = pytest.mark.filterwarnings("ignore")  # what the foreign package warns of


@cache
def lens() -> Any:
    """The bridge's class; skips where TransformerLens is absent or older than its bridges."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_foreign("transformers")
        pytest.importorskip("transformer_lens", exc_type=ImportError)
        return pytest.importorskip(
            "transformer_lens.model_bridge", exc_type=ImportError
        ).TransformerBridge


def native(**config: Any) -> nn.Module:
    """A bridge to TransformerLens' own small model."""
    bridge = lens()
    from transformer_lens.config import TransformerBridgeConfig

    return bridge.boot_native(TransformerBridgeConfig(**config)).eval()


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=64, n_layer=2, n_head=4)
    return GPT2LMHeadModel(config).eval()


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
    )
    return LlamaForCausalLM(config).eval()


def wrapped(model: nn.Module) -> nn.Module:
    """A bridge around a model of transformers, in place."""
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    kind = type(model).__name__
    return build_bridge_from_module(model, kind, hf_config=model.config, tokenizer=None).eval()


def from_folder(model: nn.Module, folder: Path) -> nn.Module:
    """A bridge to a model and its tokenizer that were saved in a folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<end>", *(f"w{i}" for i in range(2, VOCABULARY))]
    own = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=own,
        unk_token="<unk>",
        bos_token="<end>",
        eos_token="<end>",
        pad_token="<end>",
    ).save_pretrained(folder)
    model.save_pretrained(folder)
    return lens().boot_transformers(str(folder), device="cpu").eval()


def bridge(way: str, folder: Path) -> nn.Module:
    lens()
    torch.manual_seed(0)
    if way == "native":
        config = {"n_layers": 2, "d_model": 64, "n_ctx": CONTEXT, "d_head": 16, "n_heads": 4}
        return native(**config, d_vocab=VOCABULARY, attn_only=True, normalization_type="LN")
    if way == "gpt2":
        return wrapped(gpt2())
    return from_folder(gpt2() if way == "gpt2_folder" else llama(), folder)


def ids(seed: int = 0) -> Tensor:
    return torch.from_numpy(tokens((2, 12), VOCABULARY, seed))


@pytest.mark.parametrize("way", WAYS)
def test_the_probe_sees_what_hooks_see(way, tmp_path):
    model, x = bridge(way, tmp_path), ids()
    with torch.no_grad():
        _, hooks = model.run_with_cache(x)
    found = adapt(model)
    assert (found.family, found.prefix, found.notes) == ("transformerlens", 0, ())
    assert found.hidden == ("blocks.0", "blocks.1")
    heads = ll.trace(model, x, "heads")
    assert [site.path for site in heads] == list(found.heads)
    maps = ll.trace(model, x, [f"{path}:map" for path in found.heads])
    hidden = ll.trace(model, x, "hidden")
    for n, path in enumerate(found.heads):
        z = heads[f"{path}:heads"].act.transpose(1, 2)
        torch.testing.assert_close(z, hooks[f"blocks.{n}.attn.hook_z"].reshape(z.shape))
        pattern = hooks[f"blocks.{n}.attn.hook_pattern"]
        torch.testing.assert_close(maps[f"{path}:map"].act, pattern)
        after = hooks[f"blocks.{n}.hook_resid_post"]
        torch.testing.assert_close(hidden[f"blocks.{n}"].act, after)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("layer", "head"), [(0, 1), (1, 3)])
def test_a_head_set_to_zero_by_hooks_and_by_an_edit(way, layer, head, tmp_path):
    model, x = bridge(way, tmp_path), ids()

    def silence(z: Tensor, hook: Any) -> Tensor:
        shape = z.shape
        z = z.reshape(*shape[:2], 4, 16).clone()
        z[:, :, head] = 0
        return z.reshape(shape)

    path = adapt(model).heads[layer]
    with torch.no_grad():
        plain = model(x)
        want = model.run_with_hooks(x, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", silence)])
    found = ll.patch(model, x, {f"{path}:heads.{head}": ll.zero})
    assert float((want - plain).abs().max()) > 1e-2
    torch.testing.assert_close(found, want)
    with torch.no_grad():
        assert torch.equal(model(x), plain)


@pytest.mark.parametrize("way", WAYS)
def test_gradients_of_heads(way, tmp_path):
    model, x = bridge(way, tmp_path), ids()
    kept: dict[str, Tensor] = {}

    def keep(z: Tensor, hook: Any) -> Tensor:
        z.retain_grad()
        kept[hook.name] = z
        return z

    names = [f"blocks.{n}.attn.hook_z" for n in range(2)]
    logits = model.run_with_hooks(x, fwd_hooks=[(name, keep) for name in names])
    logits[:, -1, 5].sum().backward()
    trace = ll.trace(model, x, "heads", target=ll.token(5))
    for z, path in zip(kept.values(), adapt(model).heads, strict=True):
        grad = trace[f"{path}:heads"].grad.transpose(1, 2)
        torch.testing.assert_close(grad, z.grad.reshape(grad.shape))


@pytest.mark.golden
@pytest.mark.parametrize("name", ["bridge_attn_only", "bridge_mlp"])
def test_native_bridges_equal_their_golden_cases(name):
    case = golden(f"transformerlens.{name}")
    model = native(**case.case["config"])
    state = {
        key: torch.from_numpy(value(key, tuple(shape), case.case["salt"]))
        for key, shape in case.case["parameters"]
    }
    model.load_state_dict(state, strict=False)
    compare(case, model)


@pytest.mark.golden
def test_gpt2_equals_its_golden_case_with_and_without_a_bridge():
    lens()
    case = golden("transformerlens.gpt2_tiny")
    model = gpt2()
    fill(model, case.case["salt"])
    compare(case, model)
    compare(case, wrapped(model))


def compare(case: Any, model: nn.Module) -> None:
    """What the probe sees against the hooks of the golden case."""
    x, adapter = ids(case.case["input"]["seed"]), adapt(model)
    maps = [f"{path}:map" for path in adapter.heads]
    trace = ll.trace(model, x, ["heads", "hidden", *maps])
    with torch.no_grad():
        output = model(x)
    case.close("logits", getattr(output, "logits", output), 1e-5)
    for n, (block, path) in enumerate(zip(adapter.hidden, adapter.heads, strict=True)):
        case.close(f"L{n}_hook_z", trace[f"{path}:heads"].act.transpose(1, 2), 1e-5)
        case.close(f"L{n}_hook_pattern", trace[f"{path}:map"].act, 1e-5)
        case.close(f"L{n}_resid_post", trace[block].act, 1e-5)


def test_a_bridge_and_our_model_read_the_same_file(tmp_path):
    from safetensors.torch import save_file

    model = bridge("native", tmp_path)
    path = tmp_path / "bridge.safetensors"
    save_file({name: x.contiguous() for name, x in model.state_dict().items()}, path)
    own = ll.load("attention_only", path, d_vocab=VOCABULARY, n_ctx=CONTEXT)
    x = ids()
    torch.testing.assert_close(own(x), model(x))


@pytest.mark.parametrize("way", WAYS)
def test_circuits_of_a_bridge(way, tmp_path):
    """z of every head is TransformerLens', and exchanging it does what its hooks do."""
    model = bridge(way, tmp_path)
    pairs = ll.task("induction", VOCABULARY, count=4, length=20)
    methods = ["attribution", "edge_attribution", "ablation:zero"]
    found = ll.circuit(model, pairs, methods, truth=None)
    evidence, x = found.evidence, pairs[1].clean[None]
    assert found.names == tuple((layer, head) for layer in range(2) for head in range(4))
    layer, head = found.top(1, "ablation:zero")[0]

    def cut(z: Tensor, hook: Any) -> Tensor:
        rows = z.reshape(*z.shape[:2], 4, 16).clone()
        rows[:, :, head] = 0
        return rows.reshape(z.shape)

    with torch.no_grad():
        _, cache = model.run_with_cache(x)
        logits = model.run_with_hooks(x, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", cut)])
    z = [cache[f"blocks.{n}.attn.hook_z"].reshape(-1, 4, 16) for n in range(2)]
    torch.testing.assert_close(evidence.clean.z[evidence.rows([1])], torch.cat(z, 1))
    alone = each_head(evidence, "clean", replacement(evidence, "zero"), 2)
    place = evidence.outputs.place(layer, head)
    torch.testing.assert_close(alone[1, place], pairs[1:2].target()(logits)[0])
