"""Small models and pairs that tests of circuits run on."""

from __future__ import annotations

from functools import cache

import torch

import limelight as ll
from limelight.methods.circuits.evidence import Evidence


@cache
def induction_model():
    return ll.load("induction_2l")


@cache
def induction_pairs(count: int = 12):
    return ll.task("induction", 64, count=count, length=24)


@cache
def induction_evidence(count: int = 12) -> Evidence:
    return Evidence(induction_model(), induction_pairs(count))


@cache
def small_llama():
    """Three layers of six heads on two groups of keys, with MLPs; random weights."""
    torch.manual_seed(0)
    net = ll.load(
        "llama",
        weights=None,
        vocab_size=50,
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(3)
    return net


@cache
def ragged_pairs():
    """Random prompts of two lengths whose third token differs."""
    torch.manual_seed(1)
    made = []
    for i in range(6):
        clean = torch.randint(0, 50, (7 + i % 2,))
        corrupt = clean.clone()
        corrupt[2] = (clean[2] + 1 + i) % 50
        made.append(ll.Pair(clean, corrupt, (i,), (i + 10, i + 20)))
    return ll.Pairs("ragged", tuple(made))


@cache
def llama_evidence() -> Evidence:
    return Evidence(small_llama(), ragged_pairs())
