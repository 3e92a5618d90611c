"""A target as it was scored on a batch: classes, names and scores of each sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch

from ..targets import Given, Target

_ELSEWHERE = 0.05
UNIFORM = "the probabilities of all classes are nearly equal: the model tells nothing apart here"


@dataclass(frozen=True)
class ScoredTarget:
    """A target fixed to the classes it picked, with their names and scores, sample by sample.

    uniform  whether all classes are nearly as probable
    """

    target: Target
    titles: list[str]
    scores: list[float]
    classes: list[int | None]
    uniform: list[bool]

    @staticmethod
    def of(
        target: Target, output: Any, labels: Sequence[str], given: Given | None = None
    ) -> ScoredTarget:
        given = given or Given()
        with torch.no_grad():
            fixed = target.fix(output, given)
            scores = fixed(output, given.samples).tolist()
            rows = None if fixed.pick is None else fixed.rows
            classes = [None] * len(scores) if rows is None else rows.expand(len(scores)).tolist()
            titles = fixed.titles(output, labels, given.samples)
            if target.rows is None and rows is not None:  # nothing is the largest among nans
                lost = [not isfinite(score) for score in scores]
                classes = [None if no else c for no, c in zip(lost, classes, strict=True)]
                titles = [target.name if no else t for no, t in zip(lost, titles, strict=True)]
            uniform = _uniform(fixed, output, given, len(scores))
            return ScoredTarget(fixed, titles, scores, classes, uniform)


def _uniform(target: Target, output: Any, given: Given, count: int) -> list[bool]:
    """Whether the probabilities of classes are nearly equal, sample by sample.

    Nearly: at most .05 of the probability lies elsewhere than in equal shares of 1 / c. Values
    that are no probabilities of one class among many are read as logits.
    """
    reading = target.reading
    if target.pick is None or reading is None or reading.part(output).ndim != 2:
        return [False] * count
    values = reading(output, given.samples).detach().float()
    inside = bool(((values >= 0) & (values <= 1)).all())
    shares = values if inside else values.softmax(1)
    if shares.shape[1] < 2 or (inside and not bool(((shares.sum(1) - 1).abs() < 1e-3).all())):
        return [False] * count
    return ((shares - 1 / shares.shape[1]).abs().sum(1) < 2 * _ELSEWHERE).tolist()
