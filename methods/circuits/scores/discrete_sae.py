"""The published discrete-autoencoder scores as circuit methods, and the controls that they need."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ....probe.attribution import Count, Natural, Spread
from ..codes import (
    Dead,
    Options,
    SharedSae,
    coder,
    dead_share,
    diversity,
    edge_score,
    fit,
    node_score,
    residual_coordinates,
    unique_to_negative,
    upstream_edge_nodes,
)
from ..evidence import Evidence
from ..score import Score, circuit_method
from ..significance import label_permutations

By = Literal["sae", "kmeans", "product"]


@circuit_method("discrete_sae")
def discrete_sae(
    evidence: Evidence,
    *,
    by: By = "sae",
    codes: Count = 200,
    l1: Spread = 0.02,
    steps: Natural = 500,
    examples: Count = 10,
    seeds: Count = 5,
    at: Literal["mean", "last"] = "mean",
    dead: Dead = "zero",
    normalise: bool = False,
    nulls: Count = 20,
) -> Score:
    """The published score: codes that a head uses for positives and never for negatives.

    u_h = |codes(clean) minus codes(corrupt)|, codes by argmax of one sparse autoencoder shared by
    all heads, trained on `examples` examples (arXiv 2405.12522); mean over seeds. by="kmeans" or
    "product" takes codes of each head instead. Null: labels permuted. Read score minus null: u
    also counts how diverse a head's large outputs are, and on a real model it was little above its
    permutations. It says nothing of use.
    """
    encoded = _codes(evidence, by, codes, l1, steps, examples, seeds, at, dead)
    scores = node_score(encoded, evidence.labels, normalise=normalise).float()
    generator = torch.Generator().manual_seed(0)
    drawn = label_permutations(evidence.labels, nulls, generator)
    null = node_score(encoded, drawn, normalise=normalise).float().mean(1)
    facts = {"codes": encoded, "dead share": float(dead_share(encoded)) if dead == "own" else None}
    return Score(scores.mean(0), null, "labels permuted", spread=scores, facts=facts)


@circuit_method("untrained_sae")
def untrained_sae(evidence: Evidence, *, codes: Count = 200, seeds: Count = 5) -> Score:
    """Control: the published score with an autoencoder that was never trained."""
    return discrete_sae(evidence, codes=codes, seeds=seeds, steps=0)


@circuit_method("discrete_sae_edge")
def discrete_sae_edge(
    evidence: Evidence,
    *,
    codes: Count = 200,
    seeds: Count = 5,
    normalise: bool = False,
    nulls: Count = 5,
) -> Score:
    """The published edge score: code pairs of two heads met in positives and never in negatives.

    `edges` keeps those from lower to higher layers. A head's score is upstream's: how often it is
    among the first h^2 / 2 entries when all pairs, in both directions, are sorted and written one
    after the other; a score of heads, whatever its name. Null: labels permuted, first seed.
    """
    encoded = _codes(evidence, "sae", codes, 0.02, 500, 10, seeds, "mean", "zero")
    labels, layer = evidence.labels, evidence.outputs.layer
    every = edge_score(encoded, labels, layer, normalise=normalise, both=True)
    scores = upstream_edge_nodes(every)
    drawn = label_permutations(labels, nulls, torch.Generator().manual_seed(0))
    null = [
        upstream_edge_nodes(edge_score(encoded[0], row, layer, normalise=normalise, both=True))
        for row in drawn
    ]
    forward = every.mean(0) * (layer[:, None] < layer)
    return Score(scores.mean(0), torch.stack(null), "labels permuted", spread=scores, edges=forward)


@circuit_method("null_split")
def null_split(
    evidence: Evidence, *, codes: Count = 200, seeds: Count = 5, splits: Count = 20
) -> Score:
    """Control: the published score of one half of the positives against the other half.

    Mean over random splits; a score that finds a task cannot be larger on the task than here.
    """
    encoded = _codes(evidence, "sae", codes, 0.02, 500, 10, seeds, "mean", "zero")
    positive = encoded[:, evidence.labels]
    half = torch.arange(positive.shape[1]) < positive.shape[1] // 2
    drawn = label_permutations(half, splits, torch.Generator().manual_seed(0))
    scores = node_score(positive, drawn).float()
    return Score(scores.mean((0, 1)), spread=scores.mean(0))


@circuit_method("diversity")
def code_diversity(evidence: Evidence, *, codes: Count = 200, seeds: Count = 5) -> Score:
    """Control: how many distinct codes a head uses, labels ignored."""
    encoded = _codes(evidence, "sae", codes, 0.02, 500, 10, seeds, "mean", "zero")
    scores = diversity(encoded).float()
    return Score(scores.mean(0), spread=scores)


@circuit_method("negative_codes")
def negative_codes(evidence: Evidence, *, codes: Count = 200, seeds: Count = 5) -> Score:
    """Control: codes for negatives that are never used for positives."""
    encoded = _codes(evidence, "sae", codes, 0.02, 500, 10, seeds, "mean", "zero")
    scores = unique_to_negative(encoded, evidence.labels).float()
    return Score(scores.mean(0), spread=scores)


def _codes(
    evidence: Evidence,
    by: By,
    codes: int,
    l1: float,
    steps: int,
    examples: int,
    seeds: int,
    at: str,
    dead: Dead,
) -> Tensor:
    """Codes of every example and head, `s e h`; one training serves all that ask for the same."""
    z = evidence.examples(at=at)
    if by != "sae":
        y = torch.einsum("ehd,hdc->hec", z, residual_coordinates(evidence.outputs.weight))
        fitted = [coder(y, codes, by, seed=seed)(y).T for seed in range(seeds)]
        return torch.stack(fitted)
    settings = Options(codes=codes, l1=l1, steps=steps, examples=min(examples, len(z)))
    sae: SharedSae = evidence.keep(
        ("sae", settings, seeds, at),
        lambda: fit(z, evidence.outputs.weight, seeds=range(seeds), options=settings),
    )
    return evidence.keep(
        ("codes", settings, seeds, at, dead),
        lambda: sae.encode(z, evidence.outputs.weight, dead=dead),
    )
