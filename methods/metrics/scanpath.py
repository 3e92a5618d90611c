"""Scanpaths, where a gaze rests and in which order: their scores, and those that maps give.

From OAT (Fang et al., ECCV 2024, arXiv 2407.13335), whose scanpaths are objects on a shelf.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...probe.errors import OptionError
from ...probe.results import SaliencyMap
from ..context_aware import foci as focus_mask
from .registry import flat, metric

Objects = Sequence[int] | Tensor


@dataclass(frozen=True)
class Shelf:
    """Objects in rows and columns; index = row * columns + column.

    cell    width and height of an object's place in pixels
    top     pixels above the first row
    screen  width and height of the whole; None ends it where the shelf ends
    """

    rows: int
    columns: int
    cell: tuple[float, float]
    top: float = 0.0
    screen: tuple[float, float] | None = None

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in pixels, what `multimatch` asks for as the screen."""
        return self.screen or (self.columns * self.cell[0], self.top + self.rows * self.cell[1])

    def centres(self, path: Objects) -> Tensor:
        """The centres of the objects as fixations, `n 2`: x and y in pixels."""
        index = torch.tensor(_indices(path), dtype=torch.long)
        count = self.rows * self.columns
        outside = [i for i in index.tolist() if not 0 <= i < count]
        if outside:
            raise OptionError(
                f"a shelf of {self.rows} x {self.columns} objects was asked for object "
                f"{outside[0]}; give 0 to {count - 1}, without the marks of begin, end and padding"
            )
        place = torch.stack([index % self.columns, index // self.columns], 1) + 0.5
        return place * torch.tensor(self.cell) + torch.tensor([0.0, self.top])

    def objects(self, fixations: Tensor) -> list[int]:
        """The object under each fixation `n 2`; fixations beside the shelf are left out."""
        place = (fixations[:, :2] - torch.tensor([0.0, self.top])) / torch.tensor(self.cell)
        x, y = place.floor().long().unbind(1)
        on = (x >= 0) & (x < self.columns) & (y >= 0) & (y < self.rows)
        return (y * self.columns + x)[on].tolist()


SHELVES = {
    "amazon": Shelf(6, 14, (183, 267)),
    "yogurt": Shelf(3, 9, (186, 305), 135, (1680, 1050)),
    "wine": Shelf(2, 11, (152, 449), 152, (1680, 1050)),
}


class Behaviour(NamedTuple):
    """OAT's behavioural measures of one scanpath, or their means over many.

    correct  1 where the last fixation is on the target
    length   the number of fixations
    search   the share of fixations that begin a stay on a new object
    refix    the share that stay on the object of the fixation before
    revisit  the share that begin a stay on an object seen earlier
    """

    correct: float
    length: float
    search: float
    refix: float
    revisit: float


def levenshtein(a: Objects, b: Objects) -> int:
    """The fewest insertions, deletions and substitutions that make one path of the other.

    D_ij = min(D_i-1,j + 1, D_i,j-1 + 1, D_i-1,j-1 + [a_i != b_j])
    """
    a, b = _indices(a), _indices(b)
    above = list(range(len(b) + 1))
    for i, a_i in enumerate(a, 1):
        row = [i]
        for j, b_j in enumerate(b):
            row.append(min(above[j + 1] + 1, row[j] + 1, above[j] + (a_i != b_j)))
        above = row
    return above[-1]


def sequence_score(pred: Objects, gt: Objects) -> float:
    """Needleman-Wunsch's score of two paths over the length of the longer one.

    A match counts 1, a mismatch and a gap 0: the longest common subsequence,
    F_ij = max(F_i-1,j, F_i,j-1, F_i-1,j-1 + [a_i = b_j]). NaN for two empty paths.
    """
    pred, gt = _indices(pred), _indices(gt)
    above = [0] * (len(gt) + 1)
    for p_i in pred:
        row = [0]
        for j, g_j in enumerate(gt):
            row.append(max(above[j + 1], row[j], above[j] + (p_i == g_j)))
        above = row
    longest = max(len(pred), len(gt))
    return above[-1] / longest if longest else math.nan


def behaviour(path: Objects, target: int) -> Behaviour:
    """Whether a search ended at its target, how long it was, and what its fixations did.

    search + refix + revisit = 1. Raises OptionError for a path without fixations.
    """
    path = _indices(path)
    if not path:
        raise OptionError("behaviour was given a scanpath without fixations; leave such trials out")
    seen: set[int] = set()
    search = refix = revisit = 0
    for place, now in enumerate(path):
        if place and now == path[place - 1]:
            refix += 1
        elif now in seen:
            revisit += 1
        else:
            search += 1
        seen.add(now)
    n = len(path)
    return Behaviour(float(path[-1] == target), float(n), search / n, refix / n, revisit / n)


def mean_behaviour(paths: Sequence[Objects], targets: Sequence[int]) -> Behaviour:
    """Each measure's mean over trials. Raises OptionError unless each path has its target."""
    if not len(paths) or len(paths) != len(targets):
        raise OptionError(
            f"behaviour was asked of {len(paths)} scanpaths with {len(targets)} targets; "
            "give one or more, and a target for each"
        )
    trials = [behaviour(path, target) for path, target in zip(paths, targets, strict=True)]
    return Behaviour(*(sum(column) / len(trials) for column in zip(*trials, strict=True)))


def behaviour_delta(
    pred: Sequence[Objects],
    gt: Sequence[Objects],
    targets: Sequence[int],
    *,
    gt_targets: Sequence[int] | None = None,
    skip: bool = False,
) -> float:
    """How far a model's mean behaviour is from that of humans; lower is better.

    The mean over the five measures of |model - human| / human, each averaged over trials first.
    targets     of the predicted paths, and of the human ones unless `gt_targets` gives those, as
                with several predictions a trial
    skip        leave out a measure that is 0 for both, which gives NaN otherwise
    A measure that is 0 for humans alone makes it infinite.
    """
    human_targets = targets if gt_targets is None else gt_targets
    means = mean_behaviour(pred, targets), mean_behaviour(gt, human_targets)
    model, human = torch.tensor(means, dtype=torch.float64)
    apart = (model - human).abs() / human
    return float(apart.nanmean() if skip else apart.mean())


def from_foci(
    saliency: SaliencyMap | Tensor, threshold: float = 0.8, *, most: int | None = None
) -> Tensor:
    """The scanpath that a map's attention foci give, `n 2`: x and y in pixels, largest first.

    The foci are the connected pieces of what `foci` marks (Goferman et al., CVPR 2010), pixels
    above `threshold` times the largest value, joined also across corners. A gaze is taken to rest
    at a focus' centre of mass and to go from one to the next by their largest values, equal ones
    by their mass. Pixels are those of the model's input for a `SaliencyMap` with an extent, else
    the map's own; a pixel's centre lies at one half. Empty for a map without positive values.
    most  how many foci to keep
    """
    values, (top, left, bottom, right) = _plane(saliency)
    if not 0 <= threshold < 1:
        raise OptionError(
            f"from_foci was asked for threshold={threshold!r}; "
            "give a share of the largest value, from 0 to below 1"
        )
    mask = focus_mask(values, threshold)
    weight = values[mask].double()
    names, piece = _pieces(mask)[mask].unique(return_inverse=True)
    y, x = (mask.nonzero().double() + 0.5).unbind(1)
    zero = weight.new_zeros(len(names))
    mass = zero.index_add(0, piece, weight)
    peak = zero.scatter_reduce(0, piece, weight, "amax")
    rank = list(zip(peak.tolist(), mass.tolist(), strict=True))
    order = sorted(range(len(rank)), key=rank.__getitem__, reverse=True)[:most]
    along, down = (zero.index_add(0, piece, weight * place) / mass for place in (x, y))
    rows, columns = mask.shape
    path = torch.stack(
        [left + along * (right - left) / columns, top + down * (bottom - top) / rows], 1
    )
    return path[order].float()


def fixation_map(fixations: Tensor, size: tuple[int, int]) -> Tensor:
    """Where a scanpath `n 2` rested, a mask `y x` of `size`; fixations outside are left out."""
    x, y = fixations[:, :2].floor().long().unbind(1)
    on = (x >= 0) & (x < size[1]) & (y >= 0) & (y < size[0])
    mask = torch.zeros(size, dtype=torch.bool)
    mask[y[on], x[on]] = True
    return mask


@metric("nss", "Localisation")
def nss(saliency: Tensor, mask: Tensor) -> Tensor:
    """Normalised scanpath saliency: the mean of (S - mean S) / std S where a gaze rested.

    saliency and mask, `b` and places -> `b`; NaN for a constant map or no fixation. 0 is chance. In
    the scores of a run the mask is the object, on which a gaze may rest anywhere. The
    deviation is the population's (Peters et al., Vision Research 45, 2005).
    """
    rows, on = flat(saliency), mask.flatten(1).bool()
    scores = (rows - rows.mean(1, keepdim=True)) / rows.std(1, correction=0, keepdim=True)
    return scores.where(on, 0).sum(1) / on.sum(1)


def sim(probabilities: Tensor, chosen: Objects) -> Tensor:
    """The overlap of each step's prediction with the human choice: sum_o min(p_o, [o = chosen]).

    probabilities `n o`, rows after softmax; chosen `n` -> `n`. It is the choice's probability.
    """
    index = torch.tensor(_indices(chosen), dtype=torch.long, device=probabilities.device)
    return torch.minimum(probabilities, F.one_hot(index, probabilities.shape[1])).sum(1)


def _indices(path: Objects) -> list[int]:
    """A path as whole numbers."""
    return [int(i) for i in (path.tolist() if isinstance(path, Tensor) else path)]


def _plane(saliency: SaliencyMap | Tensor) -> tuple[Tensor, tuple[float, ...]]:
    """A map's values `y x` on the CPU, holes as 0, and the pixels it covers."""
    axes: str = "y x"
    extent: tuple[float, ...] = ()
    if isinstance(saliency, SaliencyMap):
        axes, extent, saliency = saliency.axes, saliency.extent, saliency.values
    values = saliency.detach().cpu()
    if axes != "y x" or values.ndim != 2:
        raise OptionError(
            f"from_foci was given a map of shape {tuple(values.shape)} over {axes!r}; "
            "give one over y and x"
        )
    return torch.nan_to_num(values), extent or (0.0, 0.0, *map(float, values.shape))


def _pieces(mask: Tensor) -> Tensor:
    """A number above 0 for each connected piece of a mask `y x`, corners joined; 0 elsewhere."""
    names = torch.arange(1, mask.numel() + 1).view(mask.shape) * mask
    while True:
        grown = F.max_pool2d(names[None].double(), 3, 1, 1)[0].long() * mask
        grown = grown.flatten()[grown - 1] * mask  # to the name that the namesake has by now
        if torch.equal(grown, names):
            return names
        names = grown
