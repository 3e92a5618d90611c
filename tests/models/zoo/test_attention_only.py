"""Attention-only models: golden cases, files of TransformerLens, the shipped induction heads."""

from __future__ import annotations

import pytest
import torch
from fill import tokens, value
from safetensors.torch import save_file
from shared import Golden, golden
from torch import Tensor, nn

import limelight as ll
from limelight.models import load
from limelight.probe.errors import OptionError, WeightsError

CASES = ("bridge_attn_only", "bridge_mlp", "ht_attn_only")
SMALL = {"vocab_size": 11, "d_model": 12, "n_heads": 3, "n_ctx": 9}


def state_of(case: Golden) -> dict[str, Tensor]:
    """The weights of a golden case under TransformerLens' names."""
    state = {
        name: torch.from_numpy(value(name, tuple(shape), case.case["salt"]))
        for name, shape in case.case["parameters"]
    }
    for name, x in state.items():
        if name.endswith(("ln1.w", "ln2.w", "ln_final.w")):
            x += 1  # the case adds 1 to every scale
    for name, _, kind in case.case["buffers"]:
        state[name] = torch.zeros(2, 2) if kind == "index" else torch.tensor(-1e5)
    return state


def saved(case: Golden, folder) -> nn.Module:
    path = folder / "case.safetensors"
    save_file({name: x.contiguous() for name, x in state_of(case).items()}, path)
    return load("attention_only", path, **case.case["config"])


def blocks(period: int, count: int = 256, length: int = 64) -> Tensor:
    """Blocks of random tokens, each repeated to the length."""
    block = torch.randint(0, 64, (count, period), generator=torch.Generator().manual_seed(0))
    return block.repeat(1, -(-length // period))[:, :length]


def right(logits: Tensor, ids: Tensor, period: int) -> tuple[float, float]:
    """How many next tokens are right, in percent: unforeseeable ones, and repeated ones."""
    hit = (logits.argmax(-1)[:, :-1] == ids[:, 1:]).float() * 100
    return float(hit[:, :period].mean()), float(hit[:, period:].mean())


@pytest.mark.golden
@pytest.mark.parametrize("name", CASES)
def test_file_of_transformer_lens_loads_and_equals_its_golden_case(name, tmp_path):
    case = golden(f"transformerlens.{name}")
    model = saved(case, tmp_path)
    assert sum(p.numel() for p in model.parameters()) == case.case["n_params"]
    given = case.case["input"]
    x = torch.from_numpy(tokens(tuple(given["shape"]), given["vocab"], given["seed"]))
    trace = ll.trace(
        model, x, ["hidden", *(f"layers.*.attn:{port}" for port in ("q", "map", "heads"))]
    )
    found = {"logits": model(x)}
    for n in range(2):
        attn = f"layers.{n}.attn"
        z = trace[f"{attn}:heads"].act
        found[f"L{n}_hook_z"] = z.transpose(1, 2)
        found[f"L{n}_hook_q"] = trace[f"{attn}:q"].act.transpose(1, 2)
        found[f"L{n}_hook_pattern"] = trace[f"{attn}:map"].act
        weight = model.get_submodule(f"{attn}.out").weight.unflatten(1, (4, 16))
        found[f"L{n}_hook_result"] = torch.einsum("bhnd,mhd->bnhm", z, weight)
        found[f"L{n}_resid_post"] = trace[f"layers.{n}"].act
    told = {o["key"] for o in case.case["outputs"] if "scores" not in o["key"]}
    assert told <= set(found)
    for key in told:
        assert case.worst(key, found[key]) <= 1e-5, key


def test_head_outputs_are_what_the_projection_reads():
    model, x = load("attention_only", **SMALL), torch.randint(0, 11, (2, 7))
    trace = ll.trace(model, x, ["layers.*.attn:heads", "layers.*.attn.out:in"])
    for n in range(2):
        heads = trace[f"layers.{n}.attn:heads"].act.transpose(1, 2).flatten(2)
        torch.testing.assert_close(heads, trace[f"layers.{n}.attn.out:in"].act)


def test_the_output_bias_of_a_file_is_kept_where_it_says_something(tmp_path):
    model = load("attention_only", **SMALL)
    zero, some = torch.zeros(11), torch.arange(11.0)
    for bias in (zero, some):
        path = tmp_path / "biased.safetensors"
        save_file({**model.state_dict(), "unembed.bias": bias}, path)
        again = load("attention_only", path, **SMALL)
        assert (again.unembed.bias is None) == (bias is zero)
    x = torch.randint(0, 11, (1, 5))
    torch.testing.assert_close(again(x), model(x) + some)
    save_file(model.state_dict(), path)
    load("attention_only", path, **SMALL)


def test_names_survive_a_round_trip(tmp_path):
    made = load("attention_only", **SMALL, d_mlp=5, d_head=6, norm="LNPre")
    save_file(made.state_dict(), tmp_path / "own.safetensors")
    path = tmp_path / "own.safetensors"
    again = load("attention_only", path, **SMALL, d_mlp=5, d_head=6, norm="LNPre")
    x = torch.randint(0, 11, (2, 9))
    assert torch.equal(made(x), again(x))
    with pytest.raises(WeightsError, match="missing"):
        load("attention_only", path, **SMALL, d_mlp=5, d_head=6)


@pytest.mark.parametrize("norm", ["LN", "LNPre", None])
@pytest.mark.parametrize("act", ["gelu", "gelu_new", "relu", "silu"])
def test_forward_equals_the_formula(norm, act):
    hyper = {**SMALL, "norm": norm, "attn_only": False, "act_fn": act, "n_layers": 1}
    model, x = load("attention_only", **hyper).double(), torch.randint(0, 11, (2, 7))
    p = model.state_dict()

    def normal(name: str, u: Tensor) -> Tensor:
        if norm is None:
            return u
        u = (u - u.mean(-1, keepdim=True)) / (u.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        return u * p[f"{name}.weight"] + p[f"{name}.bias"] if norm == "LN" else u

    def linear(name: str, u: Tensor) -> Tensor:
        return u @ p[f"{name}.weight"].mT + p[f"{name}.bias"]

    y = p["embed.weight"][x] + p["pos_embed.weight"][:7]
    qkv = linear("layers.0.attn.qkv", normal("layers.0.norm", y)).unflatten(2, (3, 3, 4))
    scores = torch.einsum("bnhd,bmhd->bhnm", qkv[:, :, 0], qkv[:, :, 1]) / 2
    future = torch.ones(7, 7).triu(1).bool()
    z = torch.einsum("bhnm,bmhd->bnhd", scores.masked_fill(future, -1e9).softmax(-1), qkv[:, :, 2])
    y = y + linear("layers.0.attn.out", z.flatten(2))
    hidden = linear("layers.0.mlp.up", normal("layers.0.mlp_norm", y))
    assert hidden.shape[-1] == 48
    y = y + linear("layers.0.mlp.down", model.layers[0].mlp.act(hidden))
    torch.testing.assert_close(model(x), normal("norm", y) @ p["unembed.weight"].mT)


def test_the_spelling_of_transformer_lens_builds_the_same():
    told = {"d_vocab": 11, "normalization_type": "LNPre", "attn_only": True, "eps": 1e-4}
    model = load("attention_only", d_model=12, n_heads=3, n_ctx=9, **told)
    assert model.embed.num_embeddings == 11
    assert model.norm.eps == 1e-4
    assert model.norm.weight is None
    assert model.layers[0].mlp is None


def test_a_token_sees_nothing_after_it_and_samples_stand_alone():
    model, x = load("attention_only", **SMALL, d_mlp=8), torch.randint(0, 11, (3, 9))
    other = x.clone()
    other[:, 5:] = (other[:, 5:] + 1) % 11
    torch.testing.assert_close(model(x)[:, :5], model(other)[:, :5])
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]))
    torch.testing.assert_close(model(x)[:, :4], model(x[:, :4]))


def test_checkpointing_gives_equal_gradients():
    model, x = load("attention_only", **SMALL), torch.randint(0, 11, (2, 9))
    found = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).square().sum().backward()
        found.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(*found)


def test_half_precision_is_finite():
    model = load("attention_only", **SMALL).to(torch.bfloat16)
    assert model(torch.randint(0, 11, (2, 9))).isfinite().all()


@pytest.mark.parametrize(
    ("hyper", "told"),
    [
        ({"norm": "RMS"}, "norm 'RMS' is not known: give 'LN', 'LNPre' or None"),
        ({"act_fn": "gelu_nev"}, "gelu_new"),
        ({"act_fn": "tan"}, "tan"),
        ({"d_model": 10}, "does not divide"),
    ],
)
def test_bad_hyper_parameters_are_told(hyper, told):
    with pytest.raises(OptionError, match=told):
        load("attention_only", **{**SMALL, **hyper})


def test_too_many_tokens_are_told():
    with pytest.raises(OptionError, match="10 tokens were given, but this model has 9 positions"):
        load("attention_only", **SMALL)(torch.zeros(1, 10, dtype=torch.long))


@pytest.mark.parametrize("weights", [{}, {"weights": "induction"}])
def test_the_induction_model_repeats_blocks(weights):
    model, ids = load("induction_2l", **weights), blocks(20)
    with torch.no_grad():
        first, later = right(model(ids), ids, 20)
    assert first == pytest.approx(1.7, abs=0.8)
    assert later == pytest.approx(99.7, abs=0.3)


@pytest.mark.parametrize(("head", "told"), [("0.2", 6.3), ("0.1", 90.3), ("1.1", 99.7)])
def test_the_induction_model_needs_its_previous_token_head(head, told):
    layer, number = head.split(".")
    ids = blocks(20)
    out = ll.patch(
        load("induction_2l", "induction"), ids, {f"layers.{layer}.attn:heads.{number}": ll.zero}
    )
    assert right(out, ids, 20)[1] == pytest.approx(told, abs=1.5)


def test_the_previous_token_head_attends_to_the_previous_token():
    model, ids = load("induction_2l", "induction"), blocks(20)
    maps = ll.trace(model, ids, "layers.*.attn:map")
    before = maps["layers.0.attn:map"].act.diagonal(-1, 2, 3).mean((0, 2))
    assert [round(float(x), 1) for x in before] == [0.1, 0.0, 0.9, 0.1]
    copies = maps["layers.1.attn:map"].act.diagonal(-19, 2, 3).mean((0, 2))
    assert copies.min() > 0.5
