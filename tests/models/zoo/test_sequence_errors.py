"""What sequence mixers cannot do is told in one sentence: lengths, vocabularies, heads, gates."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import limelight as ll
from limelight.kernels.errors import KernelError
from limelight.kernels.routed import routed_attention
from limelight.probe.errors import LimelightError, OptionError

LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 32,
}
SEER = {**LLAMA, "seerattn_gate_hidden_size": 8}
SMALL = {"d_model": 16, "vocab_size": 16}
IDS = torch.arange(40)[None] % 16


def mixing(name: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "kwargs": kwargs}


def told(error: LimelightError) -> str:
    """The sentence, which is one and ends without a stop."""
    text = str(error)
    assert "\n" not in text
    assert not text.endswith(".")
    assert ". " not in text
    assert ":" in text  # what was found: what to do
    return text


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("hyena", {"l_max": 8}),
        ("h3", {"l_max": 8}),
        ("based", {"l_max": 8}),
        ("rwkv", {"l_max": 8}),
        ("baseconv", {"l_max": 8, "kernel_size": -1}),
        ("baseconv", {"l_max": 8, "kernel_size": -1, "implicit_long_conv": False}),
    ],
)
def test_sequences_beyond_l_max(name, kwargs):
    with pytest.raises(OptionError) as raised:
        ll.load("zoology", weights=None, **SMALL, sequence_mixer=mixing(name, kwargs))(IDS)
    assert told(raised.value).startswith("40 tokens were given to a mixer of l_max=8")


def test_sequences_beyond_the_positions_and_beyond_orchids_filters():
    positions = ll.load(
        "zoology", weights=None, d_model=16, vocab_size=16, max_position_embeddings=8
    )
    orchid = ll.load("orchid_bert_base", weights=None, d_model=16, depth=1, vocab_size=16, l_max=8)
    for model, found in ((positions, "has 8 positions"), (orchid, "has l_max=8")):
        with pytest.raises(OptionError) as raised:
            model(IDS)
        assert found in told(raised.value)
    with pytest.raises(OptionError) as raised:
        ll.load("orchid", weights=None, d_model=8, l_max=8)(torch.randn(1, 9, 8))
    assert "give 1 to 8 tokens" in told(raised.value)


@pytest.mark.parametrize(
    ("vocabulary", "length", "pairs", "found"),
    [
        (8, 24, 6, "input_seq_len=24 with vocab_size=8"),
        (24, 24, 6, "input_seq_len=24 with vocab_size=24"),
        (64, 16, 6, "num_kv_pairs=6 do not fit input_seq_len=16"),
        (64, 15, 3, "give an even length"),
        (64, 16, 0, "at least one pair"),
    ],
)
def test_vocabularies_and_lengths_too_small_for_the_pairs(vocabulary, length, pairs, found):
    with pytest.raises(OptionError) as raised:
        ll.mqar(vocab_size=vocabulary, num_examples=2, input_seq_len=length, num_kv_pairs=pairs)
    assert found in told(raised.value)


@pytest.mark.parametrize(
    ("vocabulary", "length", "pairs"), [(5, 4, 1), (10, 8, 2), (26, 24, 6), (25, 24, 6)]
)
def test_the_smallest_vocabularies_that_are_taken_hold_all_pairs(vocabulary, length, pairs):
    made = ll.mqar(
        vocab_size=vocabulary,
        num_examples=5,
        input_seq_len=length,
        num_kv_pairs=pairs,
        torch_seed=0,
    )
    keys, values = made.inputs[:, : 2 * pairs : 2], made.inputs[:, 1 : 2 * pairs : 2]
    for drawn in (keys, values):
        assert all(len(set(row)) == pairs for row in drawn.tolist())
    assert int(keys.max()) < vocabulary // 2 <= int(values.min())


@pytest.mark.parametrize(
    ("name", "hyper"),
    [
        ("sigmoid_attention", {"d_model": 16, "num_heads": 3}),
        ("sigma", {"hidden_size": 32, "num_attention_heads": 4, "num_key_heads": 3}),
        ("sigma", {"hidden_size": 32, "num_attention_heads": 4, "num_value_heads": 3}),
        ("seerattention", {**SEER, "num_key_value_heads": 3}),
        ("seerattention", {**SEER, "hidden_size": 30}),
        ("zoology", {"d_model": 16, "sequence_mixer": mixing("attention", {"num_heads": 3})}),
        ("zoology", {"d_model": 16, "sequence_mixer": mixing("based", {"num_heads": 3})}),
        ("zoology", {"d_model": 16, "sequence_mixer": mixing("h3", {"l_max": 8, "head_dim": 3})}),
    ],
)  # fmt: skip
def test_heads_that_do_not_divide(name, hyper):
    with pytest.raises(OptionError) as raised:
        ll.load(name, weights=None, **hyper)
    assert "divi" in told(raised.value)


@pytest.mark.parametrize("gate", ["Qavg_Kmaxminmean", "qproj", "Qavg", "Qminmax_Kavg", ""])
def test_unknown_gates(gate):
    with pytest.raises(OptionError) as raised:
        ll.load("seerattention", weights=None, seerattn_gate_type=gate, **SEER)
    assert f"seerattn_gate_type {gate!r} names no gate" in told(raised.value)


def test_blocks_larger_than_the_sequence():
    """The op refuses them; a model whose prompt is shorter than a block has one block."""
    q = torch.randn(1, 2, 10, 4)
    with pytest.raises(KernelError) as raised:
        routed_attention(
            q, q, q, mask=torch.ones(1, 2, 1, 1, dtype=torch.bool), block=16, causal=True
        )
    assert told(raised.value).startswith("blocks of 16 tokens are larger than the sequence of 10")
    sizes = {**SEER, "seerattn_gate_block_size": 64, "seerattn_sparsity_method": "nz_ratio"}
    model = ll.load("seerattention", weights=None, seerattn_nz_ratio=0.5, **sizes)
    dense = ll.load("seerattention", weights=None, **{**sizes, "seerattn_sparsity_method": "dense"})
    dense.load_state_dict(model.state_dict())
    torch.testing.assert_close(model(IDS), dense(IDS))
    with pytest.raises(OptionError) as raised:
        ll.load("seerattention", weights=None, **{**sizes, "seerattn_gate_block_size": 0})
    assert "blocks have at least 1 token" in told(raised.value)
