"""Trunks of two layers on multi-query recall, and whether their maps point where the effect is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import limelight as ll
from limelight.methods.metrics import spearman
from limelight.models.zoo.orchid.operator import OrchidOperator
from limelight.models.zoo.zoology.mixers import mixer
from limelight.probe.sites import Site
from limelight.reports.datasets.mqar import IGNORED, Recall

VOCABULARY, BATCH, RATE = 128, 128, 3e-3
POOL = 300 * BATCH  # sequences to learn from; they come in a new order each time
LOOK, SOLVED = 50, 3  # accuracy is asked each LOOK steps; after SOLVED times 1.0 training ends
Results = dict[str, Any]


@mixer("orchid", "orchid_standalone.OrchidOperator")
class Orchid(OrchidOperator):
    """Orchid's operator in the trunk of Zoology; its convolution goes round."""

    def __init__(self, d_model: int, *, layer_idx: int = 0, l_max: int) -> None:
        super().__init__(d_model, l_max=l_max, causal=False)

    def state_size(self, length: int) -> None:
        """What goes round has no state."""


@dataclass(frozen=True)
class Trunk:
    """Mixers of the layers in turn as the length makes them, and whether there are positions."""

    mixers: Callable[[int], Sequence[Any]]
    positions: bool = False

    def build(self, width: int, length: int) -> nn.Module:
        """As published for this task: no MLP; no dropout, for no sequence is seen often."""
        return ll.load(
            "zoology",
            weights=None,
            d_model=width,
            vocab_size=VOCABULARY,
            sequence_mixer=self.mixers(length),
            max_position_embeddings=length if self.positions else 0,
            embed_dropout=0.0,
        )


def _spec(name: str, **kwargs: object) -> Mapping[str, Any]:
    return {"name": name, "kwargs": kwargs}


SHORT = _spec("baseconv", kernel_size=3)
TRUNKS = {
    "short conv + attention": Trunk(lambda n: [SHORT, "attention"]),
    "attention": Trunk(lambda n: ["attention"], positions=True),
    "selective": Trunk(lambda n: ["selective"], positions=True),
    "short conv + Based": Trunk(lambda n: [SHORT, _spec("based", feature_dim=8)]),
    "short conv + window of 8": Trunk(lambda n: [SHORT, _spec("sliding", block_size=8)]),
    "BaseConv": Trunk(lambda n: [SHORT, _spec("baseconv", kernel_size=-1, l_max=n)]),
    "Hyena": Trunk(lambda n: [_spec("hyena", l_max=n)]),
    "H3": Trunk(lambda n: [_spec("h3", l_max=n)]),
    "RWKV": Trunk(lambda n: [_spec("rwkv", n_layers=2)]),
    "Orchid": Trunk(lambda n: [_spec("orchid", l_max=n)]),
}


@cache
def data(length: int, pairs: int, count: int, seed: int) -> Recall:
    """Sequences as in the paper's figure: zeros between the queries."""
    return ll.mqar(
        vocab_size=VOCABULARY,
        num_examples=count,
        input_seq_len=length,
        num_kv_pairs=pairs,
        seed=seed,
        random_non_queries=False,
    )


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def train(net: nn.Module, learn: Recall, test: Recall, steps: int) -> Results:
    """AdamW at a constant rate; the accuracy on `test` at the end, and how many steps it took."""
    start, order, perfect = time.process_time(), [], 0
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=0.1)
    found, done = accuracy(net, test), 0
    while done < steps and perfect < SOLVED:
        order = order or list(torch.randperm(len(learn)).split(BATCH))
        own = order.pop()
        batch = Recall(learn.inputs[own], learn.labels[own], learn.queries[own])
        optimiser.zero_grad()
        batch.loss(net.train()(batch.inputs)).backward()
        optimiser.step()
        done += 1
        if done % LOOK == 0 or done == steps:
            found = accuracy(net, test)
            perfect = perfect + 1 if found == 1 else 0
    spent = time.process_time() - start
    return {"accuracy": found, "took": done, "cpu_seconds": round(spent, 1)}


@torch.no_grad()
def accuracy(net: nn.Module, test: Recall) -> float:
    return test.accuracy(net.eval()(test.inputs))


def recall(
    model: str, width: int, length: int, pairs: int, seed: int, steps: int, pool: int = POOL
) -> Results:
    """One trunk trained and asked: accuracy, by gap, bytes of state, and its map beside effects."""
    torch.manual_seed(seed)
    net = TRUNKS[model].build(width, length)
    test = data(length, pairs, 1000, 2)
    told = train(net, data(length, pairs, pool, 1), test, steps)
    with torch.no_grad():
        logits = net(test.inputs)
    edges = list(range(0, length + 8, 8))
    gaps = test.accuracy_by_gap(logits, edges)
    return {
        **told,
        "gaps": {f"{low} to {high - 1}": value for (low, high), value in gaps.items()},
        "state": net.state_size(length),
        "parameters": parameters(net),
        **pointing(net, data(length, pairs, 128, 3), seed),
    }


def last_query(recall: Recall) -> Recall:
    """The same sequences, of which only the query that comes last is asked."""
    place = recall.queries.amax(1, keepdim=True)
    labels = torch.full_like(recall.labels, IGNORED)
    labels.scatter_(1, place, recall.labels.gather(1, place))
    return replace(recall, labels=labels, queries=place)


def last_recall(
    model: str, width: int, length: int, pairs: int, seed: int, steps: int, pool: int = POOL
) -> Results:
    """A trunk trained on all queries and judged on the last: all models have read the same there.

    BaseConv is as wide as makes it as large as an Orchid of this width.
    """
    torch.manual_seed(seed)
    if model == "BaseConv":
        width = width_like(model, parameters(TRUNKS["Orchid"].build(width, length)), length)
    net = TRUNKS[model].build(width, length)
    learn, test = data(length, pairs, pool, 1), data(length, pairs, 1000, 2)
    told = train(net, learn, test, steps)
    last = accuracy(net, last_query(test))
    return {**told, "last": last, "width": width, "parameters": parameters(net)}


@cache
def width_like(model: str, count: int, length: int) -> int:
    """The width at which a trunk comes nearest to a number of parameters."""
    with torch.device("meta"):
        sizes = {w: parameters(TRUNKS[model].build(w, length)) for w in range(8, 257, 4)}
    return min(sizes, key=lambda w: abs(sizes[w] - count))


def pointing(net: nn.Module, test: Recall, seed: int) -> Results:
    """Does the last layer's map point at what moves the answer? Means and rank correlations.

    mass    |map| at the right value's place in the query's row, as a share of the row, heads summed
    effect  what is lost of the right value's log-probability when the last layer reads at that
            place what another value there would have left
    other   the same of a place drawn at random before the query; the control of `rank`, over
            queries, pairs the mass on the value with the effect of that other place
    places  per query the rank correlation of mass and size of effect over the places of all keys
            and values, and how often both are largest at one place; the control pairs the masses
            of a query with the effects on the next one of its sequence
    """
    draw = torch.Generator().manual_seed(seed)
    values = test.values.expand(len(test), -1)
    others = _drawn(test.queries, values, draw)
    rows = _rows(net, test)
    mass, other = (rows.gather(2, at[..., None])[..., 0] for at in (values, others))
    at_value, at_other = (effects(net, test, at, draw) for at in (values, others))
    pairs = 2 * test.num_kv_pairs
    masses, sizes = rows[..., :pairs], effects_everywhere(net, test, pairs, draw).abs()
    return {
        "mass": float(mass.mean()),
        "mass_other": float(other.mean()),
        "effect": float(at_value.mean()),
        "effect_other": float(at_other.mean()),
        "rank": _rank(mass, at_value),
        "rank_other": _rank(mass, at_other),
        **_agreement("places", masses, sizes),
        **_agreement("places_other", masses, sizes.roll(-1, 1)),
    }


def _agreement(name: str, masses: Tensor, sizes: Tensor) -> Results:
    """Means over queries, `b k n` both; ranks are compared where neither is constant."""
    ranks = spearman(masses.flatten(0, 1), sizes.flatten(0, 1))
    ranks = ranks[~ranks.isnan()]
    same = masses.argmax(-1) == sizes.argmax(-1)
    mean = float(ranks.mean()) if len(ranks) else None
    return {name: mean, f"{name}_same": float(same.float().mean())}


def _drawn(queries: Tensor, values: Tensor, draw: torch.Generator) -> Tensor:
    """Places before the query that are not the value's, `b k`."""
    chosen = (torch.rand(queries.shape, generator=draw) * (queries - 1)).long()
    return chosen + (chosen >= values).long()


def _rows(net: nn.Module, test: Recall) -> Tensor:
    """Shares of the last layer's map in the rows of the queries, `b k n`."""
    site = f"{net.heads[-1]}:map"
    whole = ll.trace(net, test.inputs, site)[site].act.abs().sum(1)
    places = test.queries[..., None].expand(-1, -1, whole.shape[-1])
    rows = whole.gather(1, places)
    return rows / rows.sum(-1, keepdim=True).clamp_min(1e-30)


def effects(net: nn.Module, test: Recall, places: Tensor, draw: torch.Generator) -> Tensor:
    """Log-probability lost by activation patching at one place a query, `b k`."""
    patched = [_lost(net, test, at, draw) for at in places[..., None].unbind(1)]
    return torch.stack(patched, 1).diagonal(dim1=1, dim2=2)


def effects_everywhere(net: nn.Module, test: Recall, count: int, draw: torch.Generator) -> Tensor:
    """Log-probability that each query loses by each of the first places, `b k n`."""
    places = torch.arange(count).expand(len(test), -1)[..., None].unbind(1)
    return torch.stack([_lost(net, test, at, draw) for at in places], -1)


def _lost(net: nn.Module, test: Recall, at: Tensor, draw: torch.Generator) -> Tensor:
    """What each query loses, `b k`, by one place a sequence, `b 1`, as another token leaves it."""
    site = "backbone.layers.0"
    corrupt = test.inputs.scatter(1, at, other_tokens(test.inputs.gather(1, at), draw))
    theirs = ll.trace(net, corrupt, site)[site].act
    here = torch.zeros_like(test.inputs, dtype=torch.bool).scatter(1, at, True)[..., None]

    def swap(value: Tensor, _: Site) -> Tensor:
        return torch.where(here, theirs, value)

    with torch.no_grad():
        clean = _log_probability(net(test.inputs), test)
    return clean - _log_probability(ll.patch(net, test.inputs, {site: swap}), test)


def other_tokens(ids: Tensor, draw: torch.Generator) -> Tensor:
    """Tokens of the same half of the vocabulary, keys or values, none of them the one given."""
    half = VOCABULARY // 2
    step = torch.randint(1, half, ids.shape, generator=draw)
    return ids // half * half + (ids + step) % half


def _log_probability(logits: Tensor, test: Recall) -> Tensor:
    """Of the right values at the queries, `b k`."""
    labels = test.labels.gather(1, test.queries)
    places = test.queries[..., None].expand(-1, -1, logits.shape[-1])
    return logits.gather(1, places).log_softmax(-1).gather(2, labels[..., None])[..., 0]


def _rank(one: Tensor, other: Tensor) -> float | None:
    """Rank correlation over all queries; None where one of both is constant."""
    found = float(spearman(one.reshape(1, -1), other.reshape(1, -1)))
    return found if found == found else None
