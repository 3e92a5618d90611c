"""Scores without gradients: how much a head's output tells of the label, and how large it is."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from ....probe.attribution import Count, Range, Spread
from ..codes import Kind, coder, compact, residual_coordinates
from ..evidence import Evidence
from ..score import Score, circuit_method, permuted


@circuit_method("norm")
def norm(evidence: Evidence) -> Tensor:
    """Control: the mean norm of what a head writes, labels ignored: mean_e |z W_O|."""
    factor = residual_coordinates(evidence.outputs.weight)
    return torch.einsum("ehd,hdc->ehc", evidence.examples(), factor).norm(dim=-1).mean(0)


@circuit_method("mean_difference")
def mean_difference(
    evidence: Evidence, *, at: str = "mean", seed: int = 0, nulls: Count = 100
) -> Score:
    """The norm of mean(clean) - mean(corrupt) of what a head writes.

    Null: the two sides of each pair exchanged at random. Says that a head's output depends on the
    label, not that anything reads it.
    """
    z = evidence.examples(at=at)
    clean, corrupt = z.chunk(2)
    factor = residual_coordinates(evidence.outputs.weight)
    change = torch.einsum("phd,hdc->hpc", clean - corrupt, factor)
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(0, 2, (nulls, len(clean)), generator=generator) * 2 - 1
    signs = torch.cat([torch.ones(1, len(clean)), draws.float()])
    norms = (signs / len(clean) @ change).norm(dim=-1).T
    return Score(norms[0], norms[1:], "sides of pairs exchanged")


@circuit_method("mutual_information")
def mutual_information(
    evidence: Evidence,
    *,
    codes: Count = 20,
    kind: Kind = "kmeans",
    at: str = "mean",
    seed: int = 0,
    nulls: Count = 20,
) -> Score:
    """Mutual information of code and label in nats, minus its mean under permuted labels.

    I = sum_{c, y} p(c, y) log(p(c, y) / p(c) p(y)), codes of each head by k-means (or product
    quantisation: kind="product", codes=8). The correction takes off what chance gives to heads of
    many codes. High for every head that carries the label, used or not.
    """
    factor = residual_coordinates(evidence.outputs.weight)
    y = torch.einsum("ehd,hdc->hec", evidence.examples(at=at), factor)
    encoded = compact(coder(y, codes, kind, seed=seed)(y))
    table = torch.nn.functional.one_hot(encoded).float()  # h e k

    def measure(labels: Tensor) -> Tensor:
        return _information(table, labels)

    score = permuted(measure, evidence.labels, seed=seed, nulls=nulls)
    null = torch.zeros(1, len(score.values)) if score.null is None else score.null
    level = null.mean(0)
    return Score(score.values - level, null - level, score.chance, facts={"codes": encoded})


def _information(table: Tensor, labels: Tensor) -> Tensor:
    """I(code; label) for codes as `h e k` of zeros and ones and labels `r e`, `r h`."""
    share = labels.float()
    positive = torch.einsum("re,hek->rhk", share, table) / table.shape[1]
    total = table.mean(1)
    prior = share.mean(1)[:, None, None]
    information = torch.zeros(len(labels), table.shape[0])
    for joint, chance in ((positive, prior), (total - positive, 1 - prior)):
        information += torch.special.xlogy(joint, joint / (total * chance).clamp(min=1e-30)).sum(-1)
    return information


@circuit_method("linear_probe")
def linear_probe(
    evidence: Evidence,
    *,
    at: str = "mean",
    ridge: Spread = 1.0,
    folds: Annotated[int, Range(2)] = 5,
    seed: int = 0,
    nulls: Count = 20,
) -> Score:
    """R^2 of a ridge regression of the label (+1, -1) on a head's output, on pairs left out.

    Both sides of a pair stay in one fold. Null: labels permuted. Says what can be read from the
    head's output, not that it is used. `ridge` counts in mean squared norms of the outputs.
    """
    factor = residual_coordinates(evidence.outputs.weight)
    x = torch.einsum("ehd,hdc->hec", evidence.examples(at=at), factor)
    pairs = x.shape[1] // 2
    generator = torch.Generator().manual_seed(seed)
    fold = (torch.randperm(pairs, generator=generator) % min(folds, pairs)).repeat(2)

    def measure(labels: Tensor) -> Tensor:
        return _left_out(x, labels.float() * 2 - 1, fold, ridge)

    return permuted(measure, evidence.labels, seed=seed, nulls=nulls)


def _left_out(x: Tensor, y: Tensor, fold: Tensor, ridge: float) -> Tensor:
    """R^2 on the folds left out of `h e d` and labels `r e`, `r h`."""
    wrong = torch.zeros(len(y), x.shape[0])
    for held_out in fold.unique():
        fit, use = fold != held_out, fold == held_out
        centre, level = x[:, fit].mean(1, keepdim=True), y[:, fit].mean(1, keepdim=True)
        a = x[:, fit] - centre
        gram = a.mT @ a
        size = gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        gram = gram + ridge * size.clamp(min=1e-12) * torch.eye(x.shape[2])
        weights = torch.linalg.solve(gram, a.mT @ (y[:, fit] - level).T)
        guess = (x[:, use] - centre) @ weights + level[:, 0]
        wrong += (guess - y[:, use].T).square().sum(1).T
    return 1 - wrong / (y - y.mean(1, keepdim=True)).square().sum(1)[:, None]
