"""Beside recall: sigmoid scores on digits, and gates distilled on a small story model."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from vision_mixers import ATTENTION, DIGITS, Digits

import limelight as ll
from limelight.models.layers import Cache
from limelight.models.zoo.seerattention import compare_gates, distil
from limelight.probe.sites import Site

SCORES: dict[str, dict[str, Any]] = {
    "softmax": {},
    "sigmoid, bias -ln n": {"score": "sigmoid"},
    "sigmoid, no bias": {"score": "sigmoid", "attn_bias": 0.0},
}
BLOCK = 16
DENSITIES = (0.1, 0.25, 0.5, 0.75)


def sigmoid(model: str, seed: int, epochs: int) -> dict[str, Any]:
    """A ViT of two layers on digits: accuracy, and sums of its map's rows before and after."""
    torch.manual_seed(seed)
    digits, start = Digits.read(), time.process_time()
    net = ll.load("deit_tiny", weights=None, **DIGITS, **ATTENTION, **SCORES[model])
    before = row_sums(net.eval(), digits.test_x)
    optimiser = torch.optim.AdamW(net.train().parameters(), lr=1e-3)
    for chosen in digits.batches(epochs):
        optimiser.zero_grad()
        F.cross_entropy(net(digits.x[chosen]), digits.labels[chosen]).backward()
        optimiser.step()
    spent = time.process_time() - start
    found = {"accuracy": digits.accuracy(net.eval()), "cpu_seconds": round(spent, 1)}
    return {**found, "before": before, "after": row_sums(net, digits.test_x)}


def row_sums(net: nn.Module, x: Tensor) -> list[float]:
    """What a query's row of the map sums to, the mean of each layer."""
    maps = ll.trace(net, x, "blocks.*.attn:map")
    return [float(value.act.sum(-1).mean()) for value in maps.values()]


def stories() -> Path | None:
    """The folder of the story model, in LIMELIGHT_SHARED or a folder `shared` beside the clone."""
    beside = Path(ll.__file__).resolve().parent.parent / "shared"
    folder = Path(os.environ.get("LIMELIGHT_SHARED", beside)) / "data" / "stories260k"
    return folder if (folder / "model.safetensors").is_file() else None


@torch.no_grad()
def written(net: nn.Module, count: int, length: int, seed: int) -> Tensor:
    """Sequences that a language model draws at temperature 1, each from its first token."""
    draw, tokens = torch.Generator().manual_seed(seed), Cache()
    ids = torch.full((count, 1), net.tokenizer.bos)
    while ids.shape[1] < length:
        chances = net(ids[:, -1:], cache=tokens)[:, -1].softmax(-1)
        ids = torch.cat([ids, torch.multinomial(chances, 1, generator=draw)], 1)
    return ids


def gates(
    folder: Path, seed: int, steps: int, length: int = 256, count: int = 64
) -> dict[str, Any]:
    """Gates distilled on what the model itself writes; mass kept and perplexity on other pages."""
    torch.manual_seed(seed)
    start = time.process_time()
    llama = ll.load("stories260k", folder / "model.safetensors")
    learn, test = written(llama, count, length, seed), written(llama, 16, length, 1000 + seed)
    net = _gated(folder)
    untrained = _state(net)
    losses = _distilled(net, learn, steps)
    trained = _state(net)
    truths = [layer.truth for layer in compare_gates(net, test)]
    kept, curve = {}, {"dense": perplexity(net.train(), test)}
    for density in DENSITIES:
        for name, state in (("untrained gate", untrained), ("gate", trained)):
            sparse = _gated(folder, state, density)
            curve[f"{name} {density}"] = perplexity(sparse, test)
            kept[f"{name} {density}"] = _kept(sparse, test, seed)
        rules = {"local": _nearest, "random": _drawn(seed), "oracle": None}
        for name, rule in rules.items():
            edits = _edits(truths) if rule is None else {"model.layers.*.self_attn:blocks": rule}
            curve[f"{name} {density}"] = perplexity(sparse, test, edits)
    spent = round(time.process_time() - start, 1)
    return {"losses": losses, "kept": kept, "perplexity": curve, "cpu_seconds": spent}


def _gated(folder: Path, state: Mapping[str, Tensor] | None = None, density: float = 1) -> Any:
    """The story model with gates, new ones unless a state is given; k blocks of each row on."""
    net = ll.load(
        "seerattention",
        folder / "model.safetensors",
        hidden_size=64,
        intermediate_size=172,
        num_hidden_layers=5,
        num_attention_heads=8,
        num_key_value_heads=4,
        rms_norm_eps=1e-5,
        vocab_size=512,
        tie_word_embeddings=True,
        seerattn_gate_block_size=BLOCK,
        seerattn_gate_hidden_size=8,
        seerattn_sparsity_method="nz_ratio",
        seerattn_nz_ratio=density,
        seerattn_last_block_dense=False,
    )
    if state is not None:
        with tempfile.TemporaryDirectory() as place:
            save_file(dict(state), file := Path(place) / "gates.safetensors")
            net.load_gates(file)
    return net.eval()


def _state(net: nn.Module) -> dict[str, Tensor]:
    return {n: p.clone() for n, p in net.state_dict().items() if ".attn_gate." in n}


def _distilled(net: Any, learn: Tensor, steps: int) -> list[float]:
    """The loss at the first and over the last ten steps."""
    optimiser, losses = torch.optim.Adam(net.gate_parameters(), lr=5e-3), []
    for own in _batches(len(learn), steps):
        optimiser.zero_grad()
        loss = distil(net, learn[own]).loss
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return [losses[0], sum(losses[-10:]) / len(losses[-10:])]


def _batches(count: int, steps: int) -> Iterator[Tensor]:
    for _ in range(steps):
        yield torch.randperm(count)[:4]


def _kept(net: Any, test: Tensor, seed: int) -> dict[str, float]:
    """Means over sequences, heads and layers."""
    layers = compare_gates(net, test, seed)
    names = ("density", "kept", "oracle", "local", "random")
    return {n: float(torch.stack([getattr(x, n) for x in layers]).mean()) for n in names}


@torch.no_grad()
def perplexity(net: nn.Module, ids: Tensor, edits: Mapping[str, Any] | None = None) -> float:
    """exp of the mean loss of the next token, with some values edited."""
    logits = ll.patch(net, ids, edits) if edits else net(ids)
    return math.exp(F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))


def _first(order: Tensor, blocks: Tensor) -> Tensor:
    """As many blocks in each row as were chosen, those that come first in an order."""
    later = torch.ones_like(blocks).triu(1)
    rank = order.masked_fill(later, -math.inf).argsort(-1, descending=True).argsort(-1)
    return (rank < blocks.sum(-1, keepdim=True)) & ~later


def _nearest(blocks: Tensor, _: Site) -> Tensor:
    return _first(torch.arange(blocks.shape[-1]).float().expand(blocks.shape), blocks)


def _drawn(seed: int) -> Any:
    draw = torch.Generator().manual_seed(seed)
    return lambda blocks, _: _first(torch.rand(blocks.shape, generator=draw), blocks)


def _edits(truths: list[Tensor]) -> dict[str, Any]:
    """Each layer's blocks by the pooled attention of the dense pass."""
    return {
        f"model.layers.{n}.self_attn:blocks": lambda blocks, _, truth=truth: _first(truth, blocks)
        for n, truth in enumerate(truths)
    }
