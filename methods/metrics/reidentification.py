"""How well people are found again: mAP and CMC, without pictures of a person by the same camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...probe.errors import OptionError

Numbers = Sequence[int] | Tensor


@dataclass(frozen=True)
class Retrieval:
    """Scores of ranked galleries.

    precision  `q`, the average precision of each query; NaN for one whose person no other camera
               of the gallery has seen
    rank       `q`, the place of the first picture of the same person, from 1; 0 where there is none
    """

    precision: Tensor
    rank: Tensor

    @property
    def queries(self) -> int:
        """How many queries could be answered; the others count nowhere."""
        return int((self.rank > 0).sum())

    @property
    def mean_average_precision(self) -> float:
        """mAP, the mean of the average precisions; NaN without a query that could be answered."""
        return float(self.precision.nanmean())

    def cmc(self, ranks: int = 1) -> float:
        """Cumulative matching characteristic: the share of queries answered within `ranks`.

        NaN without a query that could be answered; `cmc(1)` is known as rank-1. Raises OptionError
        for ranks below 1.
        """
        if ranks < 1:
            raise OptionError(f"cmc({ranks}) was asked for: ranks count from 1")
        known = self.rank[self.rank > 0]
        return float((known <= ranks).double().mean())


def cosine_distances(query: Tensor, gallery: Tensor) -> Tensor:
    """1 - cos of embeddings `q d` and `g d` -> `q g`."""
    return 1 - F.normalize(query, dim=1) @ F.normalize(gallery, dim=1).T


def retrieval(
    distances: Tensor,
    query: Numbers,
    gallery: Numbers,
    query_cameras: Numbers | None = None,
    gallery_cameras: Numbers | None = None,
) -> Retrieval:
    """Average precision and rank of each query over its gallery.

    AP = 1/m sum_i i / r_i, r_i the place of the i-th of m pictures of the query's person, nearest
    first. Pictures of the same person by the same camera are junk: they are taken out before places
    are counted (Zheng et al., Scalable person re-identification, ICCV 2015). Pictures at one
    distance share the worst of their places, so that no order of files helps.

    distances      `q g`
    query, gallery people as numbers, `q` and `g`
    cameras        of either; without them nothing is junk
    Raises OptionError for lengths that do not fit and for distances that are no number.
    """
    people, seen = _numbers(query), _numbers(gallery)
    cameras = _cameras(query_cameras, gallery_cameras)
    _check(distances, people, seen, cameras)
    same = people[:, None] == seen[None]
    junk = torch.zeros_like(same)
    if cameras is not None:
        junk = same & (cameras[0][:, None] == cameras[1][None])
    scored = [_score(d, s, j) for d, s, j in zip(distances.cpu(), same, junk, strict=True)]
    precision = torch.tensor([p for p, _ in scored], dtype=torch.float64)
    return Retrieval(precision, torch.tensor([r for _, r in scored], dtype=torch.long))


def _score(distances: Tensor, same: Tensor, junk: Tensor) -> tuple[float, int]:
    """Average precision and first place of one query."""
    distances, same = distances[~junk].double(), same[~junk]
    ranked, own = distances.sort().values, distances[same].sort().values
    if not len(own):
        return float("nan"), 0
    places = torch.searchsorted(ranked, own, right=True)
    found = torch.searchsorted(own, own, right=True)  # of the person, up to that distance
    return float((found / places.double()).mean()), int(places[0])


def _numbers(values: Numbers) -> Tensor:
    return torch.as_tensor(values).cpu()


def _cameras(query: Numbers | None, gallery: Numbers | None) -> tuple[Tensor, Tensor] | None:
    if query is None and gallery is None:
        return None
    if query is None or gallery is None:
        raise OptionError(
            "retrieval was given the cameras of one side alone: give those of queries and gallery, "
            "or neither"
        )
    return _numbers(query), _numbers(gallery)


def _check(
    distances: Tensor, people: Tensor, seen: Tensor, cameras: tuple[Tensor, Tensor] | None
) -> None:
    shape = (len(people), len(seen))
    sides = shape if cameras is None else (len(cameras[0]), len(cameras[1]))
    if tuple(distances.shape) != shape or sides != shape:
        raise OptionError(
            f"retrieval was given distances {tuple(distances.shape)}, {shape[0]} and {shape[1]} "
            f"people and {sides[0]} and {sides[1]} cameras: give distances of queries by gallery"
        )
    if bool(distances.isnan().any()):
        raise OptionError("retrieval was given distances that are no number: correct them")
