"""SeerAttention: golden cases, both block rules, decoding, padding, distillation, gate files."""

from __future__ import annotations

import pytest
import torch
from fill import fill, image, tokens
from safetensors.torch import save_file
from shared import golden
from torch import Tensor, nn

import limelight as ll
from limelight.kernels.attention import attention
from limelight.kernels.errors import KernelError
from limelight.kernels.routed import routed_attention
from limelight.models import load
from limelight.models.layers.sequence import Cache
from limelight.models.weights.load import no_init
from limelight.models.zoo.seerattention import compare_gates, distil
from limelight.models.zoo.seerattention.gates import pooled, pools_of
from limelight.models.zoo.seerattention.sparsity import Sparsity, ground_truth
from limelight.probe.errors import OptionError, WeightsError

CASES = ("lm_threshold", "lm_nz")
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 40,
    "seerattn_gate_block_size": 4,
    "seerattn_gate_hidden_size": 8,
}


def filled(salt: int = 0, **hyper: object) -> nn.Module:
    with no_init():
        model = load("seerattention", weights=None, **{**SMALL, **hyper})
    fill(model, salt)
    return model


def ids(b: int, n: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(tokens((b, n), 40, seed))


@pytest.mark.golden
@pytest.mark.parametrize("name", CASES)
def test_golden_case(name):
    case = golden(f"seerattention.{name}")
    with no_init():
        model = load("seerattention", weights=None, **case.case["config"])
    want = {n: tuple(s) for n, s in case.case["parameters"]}
    assert {n: tuple(p.shape) for n, p in model.named_parameters()} == want
    fill(model, case.case["salt"])
    given = case.case["input"]
    x = torch.from_numpy(tokens(tuple(given["shape"]), given["vocab"], given["seed"]))
    sites = {f"l{n}.block_mask": f"model.layers.{n}.self_attn:blocks" for n in range(2)}
    sites |= {"l0.gate": "model.layers.0.self_attn:gate", "l0.attn": "model.layers.0.self_attn"}
    sites |= {f"l{n}.out": f"model.layers.{n}" for n in range(2)}
    with ll.Probe(model) as probe, torch.no_grad():
        probe.watch(*sites.values())
        found = {"logits": probe(x)}
        found |= {key: probe.trace[site].act for key, site in sites.items()}
    lower = torch.ones(found["l0.gate"].shape[-2:], dtype=torch.bool).tril()
    for key, value in found.items():
        if key == "l0.gate":
            stored = torch.from_numpy(case.arrays[key])
            assert float((value - stored)[..., lower].abs().max()) <= 1e-4
        else:
            assert case.difference(key, value) <= (0 if "mask" in key else 1e-4), key


@pytest.mark.golden
@pytest.mark.parametrize("name", CASES)
def test_golden_case_while_training(name):
    case = golden(f"seerattention.{name}")
    with no_init():
        model = load("seerattention", weights=None, **case.case["config"])
    fill(model, case.case["salt"])
    given = case.case["input"]
    x = torch.from_numpy(tokens(tuple(given["shape"]), given["vocab"], given["seed"]))
    found = distil(model, x)
    assert case.difference("train.l0.ground_truth", found.truths[0]) <= 1e-4
    assert case.difference("train.mask_loss", found.loss[None]) <= 1e-4
    assert case.difference("train.logits", found.logits) <= 1e-4
    stored = torch.from_numpy(case.arrays["train.l0.gate_logits"])
    finite = stored > -1e30
    assert float((found.gates[0] - stored)[finite].detach().abs().max()) <= 1e-4
    with torch.no_grad():
        torch.testing.assert_close(model.train()(x), found.logits)


@pytest.mark.golden
def test_golden_ops():
    case = golden("seerattention.ops")
    shape, seed = tuple(case.case["input"]["shape"]), case.case["input"]["seed"]
    q, k, v = (torch.from_numpy(image(shape, seed + n)) for n in range(3))
    truth = ground_truth(q, k, v, 16)
    assert case.difference("pooled", truth) <= 1e-5
    assert case.difference("dense_out", attention(q, k, v, causal=True)) <= 1e-5
    rules = {
        "threshold": Sparsity("threshold", 0.1, 1.0, 1, True),
        "nz": Sparsity("nz_ratio", 0.0, 0.5, 1, False),
    }
    for name, rule in rules.items():
        mask = rule.blocks(truth)
        assert case.difference(f"mask_{name}", mask) == 0, name
        out = routed_attention(q, k, v, mask=mask, block=16, causal=True)
        assert case.difference(f"sparse_out_{name}", out) <= 1e-5


# blocks


def test_pools_are_those_of_the_name():
    names = [
        f"Q{q}_K{k}"
        for q in ("max", "min", "avg", "maxmin", "maxavg", "minavg", "maxminavg")
        for k in ("max", "min", "avg", "maxmin", "maxavg", "minavg", "maxminavg")
    ]
    assert len({pools_of(name) for name in names}) == 49
    assert pools_of("Qavgproj_Kmin").decodes
    for wrong in ("Qavg", "Qminmax_Kavg", "Q_Kavg", "Qproj_Kproj", "Kavg_Qavg"):
        with pytest.raises(OptionError, match="names no gate"):
            pools_of(wrong)


def test_a_short_last_run_is_averaged_over_what_it_has():
    x = torch.arange(6.0)[None, None, :, None]
    found = pooled(x, ("max", "min", "avg"), 4, None)
    assert found[0, 0].tolist() == [[3.0, 0.0, 1.5], [5.0, 4.0, 4.5]]
    cut = pooled(x, ("max", "avg"), 4, torch.tensor([3]))
    assert cut[0, 0].tolist() == [[2.0, 1.0], [0.0, 0.0]]


def test_rules_of_blocks_in_closed_form():
    scores = torch.tensor([[[[1.0, 0, 0, 0], [0.6, 0.4, 0, 0], [0.1, 0.2, 0.7, 0], [0.25] * 4]]])
    above = Sparsity("threshold", 0.3, 1.0, 1, False).blocks(scores)[0, 0].int().tolist()
    assert above == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    last = Sparsity("threshold", 0.3, 1.0, 1, True).blocks(scores)[0, 0].int().tolist()
    assert last == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    best = Sparsity("nz_ratio", 0.0, 0.5, 1, False).blocks(scores)[0, 0]  # 1.17 blocks of 4
    assert best.sum(-1).tolist() == [1, 1, 1, 1]
    assert best[2].int().tolist() == [0, 0, 1, 0]
    full = Sparsity("nz_ratio", 0.0, 1.0, 1, False).blocks(scores)[0, 0]
    assert torch.equal(full, torch.ones(4, 4, dtype=torch.bool).tril())


@pytest.mark.parametrize("gate", ["Qavg_Kmaxminavg", "Qmaxmin_Kavg", "Qproj_Kavg"])
def test_all_blocks_chosen_equals_the_dense_model(gate):
    every = {"seerattn_sparsity_method": "threshold", "seerattn_gate_type": gate}
    sparse, x = filled(**every), ids(2, 19)
    dense = filled(**{**every, "seerattn_sparsity_method": "dense"})
    with torch.no_grad():
        torch.testing.assert_close(sparse(x), dense(x), atol=1e-5, rtol=1e-5)


def test_dense_equals_a_llama_with_the_same_weights(tmp_path):
    base = {n: x for n, x in SMALL.items() if not n.startswith("seerattn")}
    llama, x = load("llama", weights=None, rms_norm_eps=1e-5, **base), ids(2, 11)
    fill(llama, 3)
    save_file(dict(llama.state_dict()), tmp_path / "base.safetensors")
    model = load("seerattention", tmp_path / "base.safetensors", **SMALL)
    with pytest.raises(OptionError, match="load_gates"):
        model(x)
    drawn = [p.detach() for p in model.gate_parameters() if p.ndim > 1]
    for p in drawn:  # not what lay in memory
        assert 0.7 < float(p.std()) * p.shape[-2] ** 0.5 < 1.3
    gates = {n: p for n, p in filled(5).state_dict().items() if "attn_gate" in n}
    save_file(gates, tmp_path / "gates.safetensors")
    model.load_gates(tmp_path / "gates.safetensors")
    for name, want in gates.items():
        assert torch.equal(model.state_dict()[name], want)
    with torch.no_grad():
        torch.testing.assert_close(model.train()(x), llama(x), atol=1e-5, rtol=1e-5)
    save_file(dict(list(gates.items())[1:]), tmp_path / "less.safetensors")
    with pytest.raises(WeightsError, match="1 entries are missing"):
        model.load_gates(tmp_path / "less.safetensors")


NZ = {"seerattn_sparsity_method": "nz_ratio", "seerattn_nz_ratio": 0.6}
RULES = {"threshold": {"seerattn_threshold": 0.2}, "nz": NZ}


@pytest.mark.parametrize("rule", RULES)
def test_a_token_sees_nothing_of_what_follows_but_through_its_own_block(rule):
    """Pools of a block of queries read the whole block: the choice, not the values, may differ."""
    model, x = filled(**RULES[rule], seerattn_last_block_dense=False), ids(1, 24)
    other = x.clone()
    other[0, 16:] = (x[0, 16:] + 1) % 40
    with torch.no_grad():
        if rule == "threshold":  # the k of nz_ratio counts blocks to come
            torch.testing.assert_close(model(x)[:, :16], model(other)[:, :16])
        assert (model(x)[:, 16:] - model(other)[:, 16:]).abs().max() > 0.01


@pytest.mark.parametrize("rule", RULES)
def test_padded_sequences_give_what_they_give_alone(rule):
    model, x = filled(**RULES[rule]), ids(3, 22)
    mask = torch.ones(3, 22, dtype=torch.long)
    mask[1, :7] = 0
    mask[2, [1, 4, 5, 21]] = 0
    with torch.no_grad():
        found = model(x, mask)
        for row in range(3):
            keep = mask[row].bool()
            want = model(x[row : row + 1, keep])[0]
            torch.testing.assert_close(found[row, keep], want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["threshold", "dense"])
def test_decoding_goes_on_after_a_prompt(method):
    model, x, cache = filled(seerattn_sparsity_method=method), ids(2, 20), Cache()
    mask = torch.ones(2, 20, dtype=torch.long)
    mask[1, :4] = 0
    with torch.no_grad():
        found = [model(x[:, :13], mask[:, :13], cache=cache)]
        found += [model(x[:, n : n + 1], mask[:, : n + 1], cache=cache) for n in range(13, 20)]
        for row in range(2):
            keep = mask[row].bool()
            want = model(x[row : row + 1, keep])[0]
            torch.testing.assert_close(torch.cat(found, 1)[row, keep], want, atol=2e-5, rtol=2e-5)


def test_several_tokens_after_the_prompt_are_told():
    model, cache = filled(), Cache()
    with torch.no_grad():
        model(ids(1, 8), cache=cache)
        with pytest.raises(OptionError, match="token by token"):
            model(ids(1, 2), cache=cache)


# decode gates

DECODE = {"seerattn_gate_type": "Qproj_Kmaxminavg", "seerattn_use_qk_norm": True}


@pytest.mark.parametrize("kind", ["Qproj_Kmaxminavg", "Qavgproj_Kavg"])
def test_a_decode_gate_with_every_block_equals_one_dense_pass(kind):
    model, x, cache = filled(**{**DECODE, "seerattn_gate_type": kind}), ids(2, 21), Cache()
    shape = model.model.layers[0].self_attn.attn_gate.attngate_linear_q.weight.shape
    assert shape == ((2, 2, 8, 8) if kind == "Qproj_Kmaxminavg" else (2, 8, 8))
    with torch.no_grad():
        found = [model(x[:, :6], cache=cache)]
        found += [model(x[:, n : n + 1], cache=cache) for n in range(6, 21)]
        torch.testing.assert_close(torch.cat(found, 1), model(x), atol=2e-5, rtol=2e-5)
    memory = cache.memory(0)
    assert memory["blocks"].shape[2] == 5
    assert memory["open"].shape[2] == 1


@pytest.mark.parametrize("budget", [1, 8, 12])
def test_a_token_budget_leaves_so_many_blocks(budget):
    hyper = {**DECODE, "seerattn_sparsity_method": "token_budget", "num_hidden_layers": 1}
    model, x, cache = filled(**hyper, seerattn_token_budget=budget), ids(1, 23), Cache()
    layer = "model.layers.0.self_attn"
    with ll.Probe(model) as probe, torch.no_grad():
        probe.watch(f"{layer}:map", f"{layer}:gate")
        model(x[:, :22], cache=cache)
        probe(x[:, 22:], cache=cache)
        seen = probe.trace[f"{layer}:map"].act[0, :, 0] > 0
        gate = probe.trace[f"{layer}:gate"].act
    assert gate.shape == (1, 2, 1, 5)
    assert seen[:, 20:].all()  # the block of the query itself
    blocks = seen[:, :20].unflatten(-1, (5, 4))
    assert torch.equal(blocks.any(-1), blocks.all(-1))
    assert blocks.any(-1).sum(-1).tolist() == [max(0, budget // 4 - 1)] * 4
    if budget == 12:
        best = gate[0, :, 0].topk(2).indices.sort().values.repeat_interleave(2, 0)
        assert [row.nonzero().flatten().tolist() for row in blocks.any(-1)] == best.tolist()


def test_decode_gates_tell_what_they_cannot_do():
    with pytest.raises(OptionError, match="not one of this gate"):
        filled(**DECODE, seerattn_sparsity_method="nz_ratio")
    with pytest.raises(OptionError, match="distil a prefill gate"):
        distil(filled(**DECODE), ids(1, 8))
    mask = torch.ones(2, 8, dtype=torch.long)
    with pytest.raises(OptionError, match="sequences of one length"):
        filled(**DECODE)(ids(2, 8), mask, cache=Cache())


# distillation


def test_distillation_moves_gates_towards_the_truth_and_nothing_else():
    model, x = filled(**NZ), ids(4, 32)
    before = {n: p.clone() for n, p in model.state_dict().items()}
    optimiser = torch.optim.Adam(model.gate_parameters(), 1e-2)
    losses = []
    for _ in range(30):
        found = distil(model, x)
        optimiser.zero_grad()
        found.loss.backward()
        optimiser.step()
        losses.append(float(found.loss.detach()))
    assert losses[-1] < 0.6 * losses[0]
    assert not model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == ("attn_gate" not in name), name
        assert "attn_gate" in name or model.get_parameter(name).grad is None


def test_gates_beside_the_truth():
    model, x = filled(**NZ, seerattn_last_block_dense=False), ids(2, 30)
    for layer in compare_gates(model, x):
        n = layer.blocks.shape[-1]
        assert n == 8
        torch.testing.assert_close(layer.truth.sum(-1), torch.ones(2, 4, n))
        density = layer.blocks.sum((-1, -2)) / (n * (n + 1) / 2)
        torch.testing.assert_close(layer.density, density)
        for part in (layer.kept, layer.local, layer.random):
            assert (part <= layer.oracle + 1e-6).all()
        assert (layer.oracle > 0).all()
    everything = compare_gates(filled(), x)[0]
    torch.testing.assert_close(everything.kept, torch.ones(2, 4))
    torch.testing.assert_close(everything.random, torch.ones(2, 4))


# what is told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seerattn_gate_type": "Qmean_Kavg"}, "names no gate"),
        ({"seerattn_gate_hidden_size": 16}, "does not turn with heads of 8"),
        ({"num_attention_heads": 5}, "do not divide"),
        ({"num_key_value_heads": 3}, "do not divide"),
        ({"seerattn_sparsity_method": "top"}, "threshold, nz_ratio, dense"),
        ({"seerattn_nz_ratio": 1.5}, "in 0..1"),
        ({"seerattn_threshold": -0.1}, "in 0..1"),
        ({"seerattn_gate_block_size": 0}, "at least 1 token"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "is not known"),
    ],
)
def test_options_that_do_not_fit_are_told(change, told):
    with pytest.raises(OptionError, match=told):
        load("seerattention", weights=None, **{**SMALL, **change})


def test_blocks_larger_than_the_sequence_are_told_by_the_op_and_cut_by_the_model():
    q = torch.randn(1, 1, 6, 4)
    with pytest.raises(KernelError, match="larger than the sequence of 6"):
        routed_attention(q, q, q, mask=torch.ones(1, 1, 1, dtype=torch.bool), block=8)
    x = ids(1, 3)
    with torch.no_grad():
        want = filled(seerattn_sparsity_method="dense")(x)
        torch.testing.assert_close(filled()(x), want)


def test_published_shapes():
    with torch.device("meta"):
        model = load("seerattention_llama_3.1_8b", weights=None, num_hidden_layers=1)
    gate = dict(model.model.layers[0].self_attn.attn_gate.named_parameters())
    assert {n: tuple(p.shape) for n, p in gate.items()} == {"mask_linear_k.weight": (32, 384, 128)}
    assert sum(p.numel() for p in gate.values()) * 32 * 2 == 100_663_296  # the hub's 101 MB
