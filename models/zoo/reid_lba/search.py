"""Where gates pay: masks of locations with their score and cost, and the best trade-offs."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median

import torch
from torch import Tensor, nn

from ....probe.errors import OptionError

MOST = 12  # bits of masks that are all tried


@dataclass(frozen=True)
class Located:
    """A mask of locations such as "0110", how well it does and what it costs."""

    mask: str
    score: float
    cost: float


def pareto_front(tried: Sequence[Located]) -> tuple[Located, ...]:
    """Those that no other beats: none costs as little or less and scores as high or higher.

    In order of cost; of those that are equal in both all are kept. A score or cost that is no
    number is beaten by anything.
    """
    known = [t for t in tried if t.score == t.score and t.cost == t.cost]

    def beaten(one: Located) -> bool:
        return any(
            (o.cost, -o.score) != (one.cost, -one.score)
            and o.cost <= one.cost
            and o.score >= one.score
            for o in known
        )

    return tuple(sorted((t for t in known if not beaten(t)), key=lambda t: (t.cost, t.mask)))


def effects(tried: Sequence[Located]) -> tuple[tuple[float, float], ...]:
    """What a gate at each location changes of score and cost: with it minus without, the means.

    Over pairs of masks that differ in that location alone; NaN where none was tried.
    """
    by_mask = {t.mask: t for t in tried}
    found = []
    for place in range(max((len(mask) for mask in by_mask), default=0)):
        pairs = [
            (t, by_mask[without])
            for mask, t in by_mask.items()
            if mask[place] == "1" and (without := mask[:place] + "0" + mask[place + 1 :]) in by_mask
        ]
        count = len(pairs) or float("nan")
        score = sum(a.score - b.score for a, b in pairs) / count
        found.append((score, sum(a.cost - b.cost for a, b in pairs) / count))
    return tuple(found)


def search(
    score: Callable[[str], float],
    cost: Callable[[str], float],
    locations: int,
    *,
    trials: int = 64,
    seed: int = 0,
) -> tuple[Located, ...]:
    """Masks with their scores and costs: all there are up to 12 locations, else by evolution.

    Evolution starts from none, all and each location alone. Then it mixes two masks of the Pareto
    front, location by location, and flips locations of a mix that is known, until `trials` masks
    are known. Raises OptionError for no location, and for fewer trials than the start takes.
    """
    if locations < 1 or (locations > MOST and trials < locations + 2):
        raise OptionError(
            f"a search over {locations} locations in {trials} trials was asked for: give 1 "
            "location or more, and at least 2 trials more than locations"
        )
    trials = min(trials, 2**locations)
    if locations <= MOST:
        masks = ["".join(bits) for bits in product("01", repeat=locations)]
        return tuple(Located(mask, score(mask), cost(mask)) for mask in masks)
    alone = ["".join("01"[i == n] for i in range(locations)) for n in range(locations)]
    start = ["0" * locations, "1" * locations, *alone]
    tried = {mask: Located(mask, score(mask), cost(mask)) for mask in start}
    draw = random.Random(seed)
    while len(tried) < trials:
        front = pareto_front(tuple(tried.values()))
        pairs = zip(draw.choice(front).mask, draw.choice(front).mask, strict=True)
        mask = "".join(draw.choice(pair) for pair in pairs)
        while mask in tried:
            place = draw.randrange(locations)
            mask = mask[:place] + "10"[int(mask[place])] + mask[place + 1 :]
        tried[mask] = Located(mask, score(mask), cost(mask))
    return tuple(tried.values())


def slow_down(
    net: nn.Module, plain: nn.Module, x: Tensor, *, rounds: int = 9, warm_up: int = 2
) -> float:
    """How many times as long one forward takes as that of the plain network: 1.02 is 2 % slower.

    The median over rounds of the ratio within a round, in which both run one after the other;
    whatever else the machine does falls on both. For the batch as given: time batch 1 and more
    on their own. Raises OptionError for no round.
    """
    if rounds < 1 or warm_up < 0:
        raise OptionError(f"rounds={rounds} and warm_up={warm_up}: give 1 or more, and 0 or more")
    for _ in range(warm_up):
        _seconds(net, x), _seconds(plain, x)
    ratios = [_seconds(net, x) / _seconds(plain, x) for _ in range(rounds)]
    return median(ratios)


@torch.no_grad()
def _seconds(net: nn.Module, x: Tensor) -> float:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    start = time.perf_counter()
    net(x)
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter() - start
