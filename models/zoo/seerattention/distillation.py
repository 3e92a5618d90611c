"""Training gates by what they should see, and gates beside it: truth, density, mass kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ....kernels.attention import attention_map
from ...layers import LanguageModel
from .attention import SeerAttention


@dataclass(frozen=True)
class Distilled:
    """A training pass: the loss, dense logits, and by layer log gate scores and pooled truth.

    Of `gates` and `truths`, `b h R n`, the first quarter of the rows of blocks is left out.
    """

    loss: Tensor
    logits: Tensor
    gates: tuple[Tensor, ...]
    truths: tuple[Tensor, ...]


@dataclass(frozen=True)
class LayerGate:
    """One layer's gate beside pooled attention. Numbers are `b h`, means over queries or blocks.

    scores   probabilities of the gate, `b h n n`; truth: the largest entries, rows normalised
    blocks   those that are chosen, `b h n n`
    density  share of the causal blocks that are chosen
    kept     dense attention's mass in chosen blocks; as many blocks in each row would keep
             `oracle` where they hold the most mass, `local` nearest to the query, `random` drawn
    """

    scores: Tensor
    truth: Tensor
    blocks: Tensor
    density: Tensor
    kept: Tensor
    oracle: Tensor
    local: Tensor
    random: Tensor


def distil(model: LanguageModel, input_ids: Tensor) -> Distilled:
    """The loss of the gates on sequences without padding; attention is dense.

    loss = sum over layers of the mean over all entries of truth (log truth - log gate), with
    0 log 0 = 0. Only the gates' weights get gradients of it. Raises OptionError for decode gates.
    """
    gates, truths = [], []
    loss = torch.zeros((), device=input_ids.device)
    logits, read = _dense_pass(model, input_ids)
    for layer, x in read:
        gate, truth = layer.gate_and_truth(x)
        first = gate.shape[-1] // 4
        gate, truth = gate.log_softmax(-1)[:, :, first:], truth[:, :, first:]
        loss = loss + F.kl_div(gate, truth, reduction="none").mean()
        gates.append(gate)
        truths.append(truth)
    return Distilled(loss, logits, tuple(gates), tuple(truths))


@torch.no_grad()
def compare_gates(model: LanguageModel, input_ids: Tensor, seed: int = 0) -> tuple[LayerGate, ...]:
    """Each layer's gate beside the pooled attention of a dense pass. Raises OptionError."""
    draw = torch.Generator().manual_seed(seed)
    return tuple(_compared(layer, x, draw) for layer, x in _dense_pass(model, input_ids)[1])


def _compared(layer: SeerAttention, x: Tensor, draw: torch.Generator) -> LayerGate:
    logits, truth = layer.gate_and_truth(x)
    blocks = layer.sparsity.blocks(layer.sparsity.scores(logits))
    mass, t = _block_mass(layer, x), x.shape[1]
    n = mass.shape[-1]
    causal = torch.ones(n, n, dtype=torch.bool, device=x.device).tril()
    counts = blocks.sum(-1, keepdim=True)
    places = torch.arange(n, device=x.device).to(mass).expand_as(mass)
    drawn = torch.rand(mass.shape, generator=draw).to(mass)

    def kept_by(order: Tensor) -> Tensor:
        """The mean mass of a query in the blocks of each row that come first in the order."""
        order = order.masked_fill(~causal, -torch.inf)
        rank = order.argsort(dim=-1, descending=True, stable=True).argsort(-1)
        return _kept(mass, (rank < counts) & causal, t)

    return LayerGate(
        logits.softmax(-1),
        truth,
        blocks,
        blocks.sum((-1, -2)) / causal.sum(),
        _kept(mass, blocks, t),
        kept_by(mass),
        kept_by(places),
        kept_by(drawn),
    )


def _kept(mass: Tensor, blocks: Tensor, queries: int) -> Tensor:
    return (mass * blocks).sum((-1, -2)) / queries


def _block_mass(layer: SeerAttention, x: Tensor) -> Tensor:
    """Dense attention summed over the pairs of tokens of each pair of blocks, `b h n n`."""
    q, k, v = layer.projected(x)
    t, block = x.shape[1], layer.block
    places = torch.arange(t, device=x.device)[None]
    q, k = layer.turn(q, places), layer.turn(k, places)
    rows = []
    for start in range(0, t, block):
        part = attention_map(slice(start, min(start + block, t)), q, k, v, causal=True).sum(2)
        rows.append(torch.unflatten(F.pad(part, (0, -t % block)), -1, (-1, block)).sum(-1))
    return torch.stack(rows, 2)


@torch.no_grad()
def _dense_pass(
    model: LanguageModel, input_ids: Tensor
) -> tuple[Tensor, list[tuple[SeerAttention, Tensor]]]:
    """Dense logits, and what each attention layer read."""
    layers = [m for m in model.modules() if isinstance(m, SeerAttention)]
    modes = [layer.training for layer in layers]
    read: list[tuple[SeerAttention, Tensor]] = []
    hooks = [
        layer.register_forward_pre_hook(lambda module, args: read.append((module, args[0])))
        for layer in layers
    ]
    try:
        for layer in layers:
            layer.training = True
        logits = model(input_ids)
    finally:
        for layer, mode, hook in zip(layers, modes, hooks, strict=True):
            layer.training = mode
            hook.remove()
    return logits, read
