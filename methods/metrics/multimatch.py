"""MultiMatch: five similarities of two scanpaths (Jarodzka 2010; Dewhurst et al. 2012)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...probe.errors import OptionError

Fixations = Tensor | np.ndarray | Sequence[Sequence[float]]
FEWEST = 3


class MultiMatch(NamedTuple):
    """Five similarities, 1 for equal scanpaths."""

    vector: float
    direction: float
    length: float
    position: float
    duration: float

    @property
    def mean(self) -> float:
        """The mean of all but the duration, the one figure that OAT reports."""
        return sum(self[:4]) / 4


def multimatch(
    a: Fixations, b: Fixations, screen: tuple[float, float], *, pad: bool = True
) -> MultiMatch:
    """How alike two scanpaths of pixel fixations are: the human one first, then the predicted one.

    a, b    `n 2` as x and y, or `n 3` with a duration; without durations all last equally long
    screen  width and height in pixels; its diagonal is the unit of distances
    pad     give a path of one or two fixations rows of ones up to three, as OAT does; without it
            such a path makes all five NaN, as in MultiMatch
    Saccades v are aligned by the path of least sum |va_i - vb_j| from the first pair to the last,
    moving one on in either or both. Over its pairs, with starts s, angles t and durations d:
    vector    1 - median |va - vb| / (2 diagonal)
    direction 1 - median |ta - tb| / pi, the smaller angle
    length    1 - median ||va| - |vb|| / diagonal
    position  1 - median |sa - sb| / diagonal
    duration  1 - median |da - db| / max(da, db), of the fixations that the saccades start at
    Nothing is simplified first. Single precision, so that ties are settled as upstream's.
    Raises OptionError for an empty path, other shapes and a screen without an area.
    Source: Dewhurst et al., Behavior Research Methods 44 (2012); OAT, arXiv 2407.13335.
    """
    first, second = (_rows(path) for path in (a, b))
    diagonal = math.hypot(*screen)
    if not min(screen) > 0 or not math.isfinite(diagonal):
        raise OptionError(
            f"multimatch was given the screen {screen!r}; give its width and height in pixels"
        )
    if pad:
        first, second = (_padded(path) for path in (first, second))
    if min(len(first), len(second)) < FEWEST:
        return MultiMatch(*[math.nan] * 5)
    apart = _differences(first, second)
    units = (2 * diagonal, math.pi, diagonal, diagonal, 1.0)
    return MultiMatch(
        *(1 - float(np.median(d)) / unit for d, unit in zip(apart, units, strict=True))
    )


def _differences(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, ...]:
    """What aligned saccades differ by: vector, angle, length, start and duration, each `k`."""
    va, vb = (np.diff(path[:, :2], axis=0) for path in (first, second))
    i, j = _aligned(_norm(va[:, None] - vb[None]))
    va, vb = va[i], vb[j]
    angle = np.abs(np.arctan2(va[:, 1], va[:, 0]) - np.arctan2(vb[:, 1], vb[:, 0]))
    da, db = first[i, 2], second[j, 2]
    longest = np.maximum(da, db)
    return (
        _norm(va - vb),
        np.minimum(angle, 2 * math.pi - angle),
        np.abs(_norm(va) - _norm(vb)),
        _norm(first[i, :2] - second[j, :2]),
        np.abs(da - db) / np.where(longest > 0, longest, 1),
    )


def _aligned(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cheapest way through a cost matrix from corner to corner, as its rows and columns.

    Each cell entered is paid for. Dijkstra's search: the lowest (cost, index) is settled first,
    and a cell changes where it is come from only for a strictly lower cost.
    """
    rows, columns = cost.shape
    total = np.full(cost.size, np.inf, cost.dtype)
    total[0] = 0
    before = np.zeros(cost.size, int)
    queue = [(total[0], 0)]
    while queue:
        paid, cell = heappop(queue)
        if paid > total[cell]:
            continue
        y, x = divmod(cell, columns)
        for down, along in ((y, x + 1), (y + 1, x), (y + 1, x + 1)):
            if down < rows and along < columns:
                to, sum_ = down * columns + along, paid + cost[down, along]
                if sum_ < total[to]:
                    total[to], before[to] = sum_, cell
                    heappush(queue, (sum_, to))
    way = [cost.size - 1]
    while way[-1]:
        way.append(int(before[way[-1]]))
    return np.divmod(np.array(way[::-1]), columns)


def _norm(vectors: np.ndarray) -> np.ndarray:
    lengths: np.ndarray = np.sqrt((vectors**2).sum(-1))
    return lengths


def _rows(path: Fixations) -> np.ndarray:
    """A scanpath as `n 3` in single precision: x, y and duration, 1 where none is given."""
    if isinstance(path, Tensor):
        path = path.detach().to("cpu", torch.float32).numpy()
    rows = np.asarray(path, np.float32)
    if rows.ndim != 2 or rows.shape[1] not in (2, 3) or not len(rows):
        raise OptionError(
            f"multimatch was given a scanpath of shape {rows.shape}; "
            "give one or more fixations, `n 2` as x and y or `n 3` with a duration"
        )
    if not np.isfinite(rows).all() or (rows[:, 2:] < 0).any():
        raise OptionError(
            "multimatch was given a fixation that is not finite or lasts a negative time; "
            "leave lost samples out of the scanpath"
        )
    return rows if rows.shape[1] == 3 else np.pad(rows, ((0, 0), (0, 1)), constant_values=1)


def _padded(path: np.ndarray) -> np.ndarray:
    missing = max(FEWEST - len(path), 0)
    return np.pad(path, ((0, missing), (0, 0)), constant_values=1)
