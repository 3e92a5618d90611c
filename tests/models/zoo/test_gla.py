"""Gated linear attention models: decoding, padding, hybrid layers, hub files."""

from __future__ import annotations

import json

import pytest
import torch
from fill import fill, tokens
from safetensors.torch import save_file
from shared import golden
from torch import Tensor, nn

import limelight as ll
from limelight.models import load
from limelight.models.layers.sequence import Cache
from limelight.models.weights.load import no_init
from limelight.models.zoo.gla import checkpoints as gla_files
from limelight.models.zoo.gla import model as gla
from limelight.probe.errors import ModelError, OptionError, WeightsError

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_heads": 2, "vocab_size": 50}
GROUPED = {
    **SMALL,
    "num_heads": 4,
    "num_kv_heads": 2,
    "use_short_conv": True,
    "feature_map": "sigmoid",
    "clamp_min": -0.05,
    "use_output_gate": False,
    "expand_k": 1.0,
}
HYBRID = {**SMALL, "attn": {"layers": [1], "num_heads": 4, "num_kv_heads": 2, "qkv_bias": True}}
WINDOW = {**HYBRID, "attn": {**HYBRID["attn"], "window_size": 4, "rope_theta": 500.0}}
KINDS = {"plain": SMALL, "grouped": GROUPED, "hybrid": HYBRID, "window": WINDOW}


def filled(salt: int = 0, **hyper: object) -> nn.Module:
    with no_init():
        model = load("gla_1.3b", weights=None, **hyper)
    fill(model, salt)
    return model


def ids(b: int, n: int, vocabulary: int = 50, seed: int = 0) -> Tensor:
    return torch.from_numpy(tokens((b, n), vocabulary, seed))


@pytest.mark.golden
def test_left_padding_equals_its_golden_case():
    case = golden("gla.lm-leftpad")
    model = filled(case.case["salt"], **case.case["config"])
    given = case.case["input"]
    x = torch.from_numpy(tokens(tuple(given["shape"]), given["vocab"], given["seed"]))
    mask = torch.tensor(given["extra"]["attention_mask"])
    with torch.no_grad():
        found, alone = model(x, mask), model(x[1:, 7:])
    want = torch.from_numpy(case.arrays["logits"])
    assert float((found - want).abs()[mask.bool()].max()) <= 2e-5
    want = torch.from_numpy(case.arrays["logits_row1_unpadded"])
    assert float((alone - want).abs().max()) <= 2e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("holes", [False, True])
def test_padded_sequences_give_what_they_give_alone(kind, holes):
    model, x = filled(**KINDS[kind]), ids(3, 12)
    mask = torch.ones(3, 12, dtype=torch.long)
    mask[1, :5] = 0
    if holes:
        mask[2, [1, 4, 5, 11]] = 0
    with torch.no_grad():
        found = model(x, mask)
        for row in range(3):
            keep = mask[row].bool()
            want = model(x[row : row + 1, keep])[0]
            torch.testing.assert_close(found[row, keep], want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [[20], [7, 1, 1, 3, 8], [1] * 20])
def test_decoding_with_a_cache_equals_one_pass(kind, steps):
    model, x, cache = filled(**KINDS[kind]), ids(2, 20), Cache()
    with torch.no_grad():
        found = torch.cat([model(part, cache=cache) for part in x.split(steps, 1)], 1)
        torch.testing.assert_close(found, model(x), atol=2e-5, rtol=2e-5)
    assert cache.length == 20


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_goes_on_after_padding(kind):
    model, x, cache = filled(**KINDS[kind]), ids(2, 14), Cache()
    mask = torch.ones(2, 14, dtype=torch.long)
    mask[1, :4] = 0
    mask[0, 8] = 0  # in a later call
    with torch.no_grad():
        found = [model(x[:, :7], mask[:, :7], cache=cache)]
        found += [model(x[:, 7:11], mask[:, :11], cache=cache)]
        found += [model(x[:, n : n + 1], mask[:, : n + 1], cache=cache) for n in range(11, 14)]
        for row in range(2):
            keep = mask[row].bool()
            want = model(x[row : row + 1, keep])[0]
            got = torch.cat(found, 1)[row, keep]
            torch.testing.assert_close(got, want, atol=2e-5, rtol=2e-5)


def test_a_window_hides_what_lies_before_it():
    model, x = (
        filled(**{**WINDOW, "num_hidden_layers": 1, "attn": {**WINDOW["attn"], "layers": [0]}}),
        ids(1, 9),
    )
    other = x.clone()
    other[0, 2] = (x[0, 2] + 1) % 50
    with torch.no_grad():
        changed = (model(x) - model(other)).abs().amax(-1)[0] > 0
    assert changed.tolist() == [False] * 2 + [True] * 4 + [False] * 3


def test_rotary_attention_is_relative_and_written_out():
    model, x = filled(**HYBRID), torch.randn(1, 6, 32)
    attn = model.model.layers[1].attn
    q, k, v = (part(x).unflatten(-1, (-1, 8)) for part in (attn.q_proj, attn.k_proj, attn.v_proj))
    angle = torch.arange(6)[:, None] * 10000.0 ** (-torch.arange(4) / 4)
    turn = torch.polar(torch.ones(6, 4), angle)[:, None]

    def rotated(y: Tensor) -> Tensor:
        z = torch.complex(y[..., :4], y[..., 4:]) * turn
        return torch.cat([z.real, z.imag], -1)

    k, v = (y.repeat_interleave(2, 2) for y in (rotated(k), v))
    scores = torch.einsum("bqhd,bkhd->bhqk", rotated(q), k) / 8**0.5
    scores = scores.masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf)
    want = attn.o_proj(torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).flatten(2))
    torch.testing.assert_close(attn(x), want, atol=1e-5, rtol=1e-5)


def test_published_counts_and_shapes():
    counts = {"gla_340m": 374_475_776 - 32_768_000, "gla_1.3b": 1_365_514_240}
    listed = golden("gla.lm-small").case["published_parameters"]
    with torch.device("meta"):
        for (name, count), told in zip(counts.items(), listed.values(), strict=True):
            model = load(name, weights=None)
            assert sum(p.numel() for p in model.parameters()) == count
            own = {n: list(p.shape) for n, p in model.state_dict().items()}
            assert all(own[n] == shape for n, shape in told)
        untied = load("gla_340m", weights=None, tie_word_embeddings=False)
        assert sum(p.numel() for p in untied.parameters()) == 374_475_776
        assert 2.6e9 < sum(p.numel() for p in load("gla_2.7b", weights=None).parameters()) < 2.8e9
        large = load("gla_7b")
        assert 6.5e9 < sum(p.numel() for p in large.parameters()) < 7.6e9
        assert tuple(large.model.layers[0].attn.gk_proj[1].weight.shape) == (1024, 16)


def test_names_of_the_norm_follow_the_switches():
    for hyper, name in (
        ({}, "g_norm_swish_gate"),
        ({"fuse_norm": False}, "g_norm"),
        ({"use_output_gate": False}, "g_norm"),
        ({"hidden_act": "gelu"}, "g_norm"),
    ):
        model = load("gla_1.3b", weights=None, **SMALL, **hyper)
        assert f"model.layers.0.attn.{name}.weight" in model.state_dict()
    bare = load("gla_1.3b", weights=None, elementwise_affine=False, **SMALL)
    assert not [n for n in bare.state_dict() if "g_norm" in n]


def folder(path, model: nn.Module, *, shards: int = 1, config: dict | None = None, **renamed: str):
    """A hub folder with the model's weights; `old=new` renames parts of names."""
    state = {n: x.clone() for n, x in model.state_dict().items()}
    if model.tied:
        del state["lm_head.weight"]
    for new, old in renamed.items():
        state = {n.replace(f".{new}.", f".{old}."): x for n, x in state.items()}
    path.mkdir(exist_ok=True)
    told = {"model_type": "gla", "attn_mode": "chunk", "use_gk": True, **(config or SMALL)}
    (path / "config.json").write_text(json.dumps(told))
    names = sorted(state)
    if shards == 1:
        save_file(state, path / "model.safetensors")
        return path
    table = {}
    for n in range(shards):
        shard = f"model-{n + 1:05}-of-{shards:05}.safetensors"
        own = names[n::shards]
        save_file({name: state[name] for name in own}, path / shard)
        table |= dict.fromkeys(own, shard)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    return path


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("tied", [False, True])
def test_folders_of_the_hub_load(tmp_path, shards, tied):
    config = {**SMALL, "tie_word_embeddings": tied, "rms_norm_eps": 1e-4}
    model = filled(**{**config})
    path = folder(tmp_path / "gla", model, shards=shards, config=config)
    again = gla_files.from_checkpoint(path)
    assert again.model.norm.eps == 1e-4
    assert again.card.classifier == "lm_head"
    with torch.no_grad():
        assert torch.equal(again(ids(1, 9)), model(ids(1, 9)))
    if shards == 1:
        hyper = gla_files.read_config(path)
        loaded = load("gla_1.3b", path / "model.safetensors", **hyper)
        assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


def test_old_names_load(tmp_path):
    model = filled(**SMALL)
    renamed = {"embeddings": "embed_tokens", "g_norm_swish_gate": "g_norm"}
    again = gla_files.from_checkpoint(folder(tmp_path / "old", model, **renamed))
    with torch.no_grad():
        assert torch.equal(again(ids(1, 9)), model(ids(1, 9)))
    state = model.state_dict()
    for n in range(2):
        gate = f"model.layers.{n}.mlp.gate_proj.weight"
        up = state.pop(gate.replace("gate", "up"))
        state[gate] = torch.cat([state[gate], up])
    state["model.layers.1.attn.rotary.inv_freq"] = torch.ones(3)
    renewed = model.convert_state(state)
    assert set(renewed) == set(model.state_dict())


def test_configs_of_other_models_and_missing_files_are_told(tmp_path):
    with pytest.raises(ModelError, match="model type 'llama'"):
        gla_files.from_config({"model_type": "llama"})
    assert gla_files.from_config({**SMALL, "use_gv": False}).tied is False
    with pytest.raises(WeightsError, match=r"no config\.json"):
        gla_files.from_checkpoint(tmp_path)
    with pytest.raises(WeightsError, match="no hub repository"):
        gla_files.from_checkpoint(tmp_path / "absent")
    with pytest.raises(OptionError, match="do not divide"):
        load("gla_1.3b", weights=None, **{**SMALL, "num_heads": 3})
    with pytest.raises(OptionError, match="no activation 'rellu'; did you mean"):
        load("gla_1.3b", weights=None, feature_map="rellu", **SMALL)
    with pytest.raises(OptionError, match="num_heads: give both"):
        load("gla_1.3b", weights=None, attn={"layers": [0]}, **SMALL)
    with pytest.raises(OptionError, match="attention mask"):
        filled(**SMALL)(ids(1, 5), torch.ones(2, 5))


def test_the_tokenizer_needs_transformers(monkeypatch):
    monkeypatch.setattr(gla_files, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match="transformers, which is not installed"):
        gla_files.tokenizer("fla-hub/gla-1.3B-100B")


def test_only_the_last_logits_are_made():
    model, x = filled(**SMALL), ids(2, 9)
    with torch.no_grad():
        torch.testing.assert_close(model(x, logits_to_keep=2), model(x)[:, -2:])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_finite_and_equal_under_checkpointing(kind):
    model, x = filled(**KINDS[kind]), ids(2, 9)
    mask = torch.ones(2, 9)
    mask[1, :4] = 0
    grads = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x, mask)[mask.bool()].square().sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(grads[0], grads[1])
    assert all(g.isfinite().all() for g in grads[0])


def test_bfloat16_runs_and_start_weights_are_small():
    model = load("gla_1.3b", weights=None, **GROUPED)
    assert float(model.model.embeddings.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert float(model.model.layers[0].attn.gk_proj[1].bias.detach().abs().max()) == 0
    assert filled(**GROUPED).bfloat16()(ids(1, 30)).isfinite().all()


def test_a_probe_sees_decay_gate_and_map():
    model, x = filled(**SMALL), ids(2, 9)
    own = "model.layers.0.attn"
    with ll.Probe(model) as probe:
        probe.watch(
            f"{own}:log_decay", f"{own}:output_gate", f"{own}:map", f"{own}:v", f"{own}:heads"
        )
        probe(x)
        trace = probe.trace
        decay, gate = trace[f"{own}:log_decay"].act, trace[f"{own}:output_gate"].act
        whole, v = trace[f"{own}:map"].act, trace[f"{own}:v"].act
        torch.testing.assert_close(whole @ v, trace[f"{own}:heads"].act, atol=1e-5, rtol=1e-5)
    assert decay.shape == (2, 9, 16)
    assert (decay <= 0).all()
    assert gate.shape == (2, 9, 32)
    assert gla.gla is not None


def test_relevance_closes_op_by_op():
    model, x = filled(**SMALL), ids(1, 9)
    books = ll.ledger(model, x, "lrp:epsilon", target=ll.token(3, position=-1))
    assert books.leaks(1e-4) == ()


def test_it_compiles_whole():
    model, x = filled(**WINDOW), ids(2, 9)
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, :4] = 0
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, mask), model(x, mask))


@pytest.mark.parametrize("name", ["lm-small", "lm-mqa-conv", "lm-leftpad"])
def test_gla_builds_any_configuration(name):
    case = golden(f"gla.{name}").case
    model = load("gla", **case["constructor"]["kwargs"])
    count = case.get("n_parameters", case.get("parameter_count"))
    assert sum(p.numel() for p in model.parameters()) == count
