"""What circuit methods read: every head's output and gradient, on any kind of attention model."""

from __future__ import annotations

import pytest
import torch
from circuit_models import induction_evidence, llama_evidence, ragged_pairs, small_llama
from foreign import import_foreign
from torch import nn

import limelight as ll
from limelight.methods.circuits.evidence import Evidence
from limelight.methods.circuits.head_outputs import head_outputs
from limelight.probe.errors import MethodError, OptionError, SiteError


def of_transformers(name: str):
    hub = import_foreign("transformers")
    torch.manual_seed(0)
    if name == "llama":
        config = hub.LlamaConfig(
            vocab_size=50, hidden_size=24, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=6, num_key_value_heads=2,
        )  # fmt: skip
        return hub.LlamaForCausalLM(config).eval()
    config = hub.GPT2Config(
        vocab_size=50, n_embd=24, n_layer=2, n_head=6, n_positions=16, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    return hub.GPT2LMHeadModel(config).eval()


def zoo(name: str, **hyper):
    torch.manual_seed(0)
    return ll.load(name, weights=None, **hyper)


TOKENS = torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(0))
PICTURES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2}
MODELS = {
    "llama of transformers": (lambda: of_transformers("llama"), TOKENS, 6),
    "gpt2 of transformers": (lambda: of_transformers("gpt2"), TOKENS, 6),
    "llama": (small_llama, TOKENS, 6),
    "induction_2l": (lambda: ll.load("induction_2l"), TOKENS, 4),
    "deit_tiny": (lambda: zoo("deit_tiny", num_heads=3, **SMALL), PICTURES, 3),
    "convit_digits": (lambda: ll.load("convit_digits", "digits"), PICTURES, 4),
    "encoder": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(24, 4, 32, batch_first=True), 2, enable_nested_tensor=False
        ).eval(),
        torch.randn(2, 5, 24),
        4,
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_heads_results_add_up_to_what_attention_writes(name):
    build, x, heads = MODELS[name]
    net = build()
    outputs = head_outputs(net, x)
    assert all(o.heads == heads for o in outputs.layers)
    for o in outputs.layers:
        path = o.site.path if o.flat else o.module + ".out_proj"
        trace = ll.trace(net, x, sites=[o.site, o.module])
        projection = net.get_submodule(path)
        written = o.result(o.split(trace[o.site].act)).sum(2)
        if projection.bias is not None:
            written = written + projection.bias
        found = trace[o.module].act
        torch.testing.assert_close(written.reshape(found.shape), found, rtol=1e-4, atol=1e-5)


def test_gla_is_read_behind_its_gate_and_norm():
    net = zoo("gla", vocab_size=40, dim=16, depth=2, num_heads=2)
    outputs = head_outputs(net, TOKENS % 40)
    assert [str(o.site) for o in outputs.layers] == [
        f"model.layers.{i}.attn.o_proj:in" for i in range(2)
    ]
    assert outputs.layers[0].heads == 2


def test_a_projection_is_the_one_that_heads_enter():
    """Not the last linear layer of the right width, which may be something else."""

    class TwiceAttention(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_heads = 2
            self.qkv, self.out, self.after = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
            z = nn.functional.scaled_dot_product_attention(q, k, v)
            return self.after(self.out(z.transpose(1, 2).flatten(2)).relu())

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = TwiceAttention()

        def forward(self, x):
            return x + self.attention(x)

    torch.manual_seed(0)
    net = nn.Sequential(Block(), Block())
    outputs = head_outputs(net, torch.randn(1, 5, 8))
    assert [str(o.site) for o in outputs.layers] == [f"{i}.attention.out:in" for i in range(2)]


def test_models_without_one_residual_stream_are_refused():
    with pytest.raises(MethodError, match="from 49 to 3136"):
        head_outputs(zoo("nat_tiny"), torch.randn(1, 3, 224, 224))
    with pytest.raises(MethodError, match="no attention with an output projection"):
        head_outputs(zoo("resnet18"), torch.randn(1, 3, 64, 64))


def test_heads_are_named_by_layer_and_number():
    outputs = llama_evidence().outputs
    assert len(outputs) == 18
    assert outputs.names[7] == (1, 1)
    assert outputs.place(2, 5) == 17
    assert outputs.span(1) == slice(6, 12)
    with pytest.raises(SiteError, match=r"head 3\.0 was asked"):
        outputs.place(3, 0)


def test_tokens_of_ragged_prompts_stand_one_after_the_other():
    evidence, pairs = llama_evidence(), ragged_pairs()
    assert evidence.clean.lengths.tolist() == [7, 8, 7, 8, 7, 8]
    assert evidence.clean.z.shape == (45, 18, 4)
    assert evidence.pair.bincount().tolist() == [7, 8, 7, 8, 7, 8]
    assert evidence.last.nonzero()[:, 0].tolist() == [6, 14, 21, 29, 36, 44]
    alone = Evidence(small_llama(), pairs[3:5], batch=1)
    torch.testing.assert_close(alone.clean.z[:8], evidence.clean.z[evidence.rows([3])])
    for pair in (2, 3):  # of 7 and of 8 tokens
        mean = evidence.clean.z[evidence.rows([pair])].mean(0)
        torch.testing.assert_close(evidence.examples()[pair], mean)
    last = evidence.corrupt.z[evidence.rows([4])][-1]
    torch.testing.assert_close(evidence.examples(at="last")[6 + 4], last)


def test_the_metric_is_mean_good_minus_mean_bad():
    evidence, pair = llama_evidence(), ragged_pairs()[1]
    with torch.no_grad():
        logits = small_llama()(pair.clean[None])[0, -1]
    expected = logits[list(pair.good)].mean() - logits[list(pair.bad)].mean()
    torch.testing.assert_close(evidence.clean.metric[1], expected)


def test_the_gradient_is_the_metrics_slope():
    evidence = llama_evidence()
    site = evidence.outputs.layers[1].site
    z = evidence.clean.z[evidence.rows([2])][3, 6 + 4, 1]
    slope = evidence.gradient[evidence.rows([2])][3, 6 + 4, 1]

    def metric(step: float) -> float:
        def nudge(value, _):
            value = value.clone()
            value[0, 3, 4 * 4 + 1] += step
            return value

        pairs = ragged_pairs()[2:3]
        return ll.patch(
            small_llama(), pairs[0].clean[None], {site: nudge}, target=pairs.target()
        ).item()

    assert z.isfinite()
    numeric = (metric(1e-2) - metric(-1e-2)) / 2e-2
    assert slope.item() == pytest.approx(numeric, rel=2e-2, abs=1e-3)


def test_one_pair_or_unequal_sides_are_refused():
    with pytest.raises(OptionError, match="at least 2 pairs"):
        Evidence(small_llama(), ragged_pairs()[:1])
    with pytest.raises(OptionError, match="both sides must align"):
        ll.Pair(torch.zeros(3), torch.zeros(4), (0,), (1,))
    with pytest.raises(OptionError, match="at least one good"):
        ll.Pair(torch.zeros(3), torch.zeros(3), (), (1,))
    with pytest.raises(OptionError, match="'mean' or 'last'"):
        induction_evidence().examples(at="first")


def test_a_probe_can_be_told_to_run_to_the_end():
    net, x = small_llama(), TOKENS
    with ll.Probe(net, grad=False, whole=True) as probe:
        probe.watch("model.layers.0:out")
        assert probe(x) is not None
        assert probe(x) is not None
    with ll.Probe(net, grad=False) as probe:
        probe.watch("model.layers.0:out")
        probe(x)
        assert probe(x) is None
