"""How well a ranking of heads finds a known circuit, and how much of that is chance."""

from __future__ import annotations

import random
from types import ModuleType

import numpy as np
from torch import Tensor

from ....probe.errors import OptionError
from ...metrics import spearman
from ..score import Score
from .truth import Truth

INTERVAL = (2.5, 97.5)


def _metrics() -> ModuleType:
    """scikit-learn's metrics; Python's random numbers, which their import draws, are put back."""
    state = random.getstate()
    try:
        from sklearn import metrics
    finally:
        random.setstate(state)
    return metrics


def evaluate(score: Score, truth: Truth) -> dict[str, float]:
    """Figures of a score against a truth.

    ap           average precision, the headline: chance is the share of heads in the circuit
    auc          area under the ROC curve; gradients with random signs already reach 0.9
    precision_k  share of the circuit among the k heads that rank first, k its size
    spearman     rank correlation with |effect|, where the truth has effects
    precision, recall, f1   at the threshold of the largest F1 = 2 p r / (p + r)
    bal_f1       max of 2 tpr (1 - fpr) / (tpr + 1 - fpr), which the SAE paper calls F1
    *_null       the mean of the same over the null's draws, and `*_low`, `*_high` an interval of
                 95 % of score minus null
    """
    inside = truth.inside.numpy()
    if inside.all() or not inside.any():
        raise OptionError(
            f"a ranking is judged by a circuit of some heads, but {int(inside.sum())} of "
            f"{len(inside)} are in {truth.name!r}"
        )
    figures = _ranking(score.values, inside) | _best(score.values, inside)
    if truth.effects is not None:
        figures["spearman"] = float(spearman(score.values[None], truth.effects.abs()[None]))
    if score.null is not None:
        rows = [_ranking(row, inside) for row in score.null]
        for key in ("ap", "auc"):
            draws = np.array([row[key] for row in rows])
            low, high = np.percentile(figures[key] - draws, INTERVAL)
            figures |= {f"{key}_null": float(draws.mean()), f"{key}_low": low, f"{key}_high": high}
    if score.spread is not None:
        for key in ("ap", "auc"):
            each = [_ranking(row, inside)[key] for row in score.spread]
            figures[f"{key}_sd"] = float(np.std(each))
    return {key: float(value) for key, value in figures.items()}


def _ranking(values: Tensor, inside: np.ndarray) -> dict[str, float]:
    metrics = _metrics()

    ranked = values.double().numpy()
    size = int(inside.sum())
    order = np.argsort(-ranked, kind="stable")[:size]
    return {
        "ap": metrics.average_precision_score(inside, ranked),
        "auc": metrics.roc_auc_score(inside, ranked),
        "precision_k": float(inside[order].mean()),
    }


def _best(values: Tensor, inside: np.ndarray) -> dict[str, float]:
    metrics = _metrics()

    ranked = values.double().numpy()
    precision, recall, _ = metrics.precision_recall_curve(inside, ranked)
    total = precision + recall
    f1 = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    best = int(f1.argmax())
    fpr, tpr, _ = metrics.roc_curve(inside, ranked)
    both = tpr + 1 - fpr
    balanced = np.divide(2 * tpr * (1 - fpr), both, out=np.zeros_like(both), where=both > 0)
    return {
        "precision": precision[best],
        "recall": recall[best],
        "f1": f1[best],
        "bal_f1": balanced.max(),
    }


def curves(score: Score, truth: Truth) -> dict[str, list[float]]:
    """Points of the ROC and of the precision-recall curve, for plots."""
    metrics = _metrics()

    inside, ranked = truth.inside.numpy(), score.values.double().numpy()
    fpr, tpr, _ = metrics.roc_curve(inside, ranked)
    precision, recall, _ = metrics.precision_recall_curve(inside, ranked)
    points = {"fpr": fpr, "tpr": tpr, "precision": precision, "recall": recall}
    return {name: values.tolist() for name, values in points.items()}
