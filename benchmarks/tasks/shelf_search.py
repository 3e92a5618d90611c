"""Shelf search: where a gaze goes that looks for one of many coloured objects.

A shelf holds 3 x 5 discs and squares of five colours, and one of them is the target. The gaze first
visits all others of the target's colour in reading order, then the target, and there it ends. A
small OAT learns it from drawn shelves and is asked which objects it would visit, and why.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn

import limelight as ll
from limelight.methods.metrics import sequence_score
from limelight.models import load

ROWS, COLUMNS, SIDE = 3, 5, 20
OBJECTS = ROWS * COLUMNS
COLOURS = torch.tensor(
    [[0.9, 0.1, 0.1], [0.1, 0.8, 0.2], [0.15, 0.25, 0.95], [0.9, 0.85, 0.1], [0.75, 0.2, 0.8]]
)
RELEVANCE = "lrp:epsilon"
TWICE = "sequence score over that of random order"
TARGET, EARLY = "target first", "target first, at the first fixation"
FLOORS: dict[str, float] = {TWICE: 2.0, TARGET: 0.5}  # twice; in most trials
Trials = tuple[Tensor, Tensor, list[list[int]]]


def drawn(count: int, draw: torch.Generator) -> Trials:
    """Shelves `b p y x c` on 0..1, their targets, and the scanpaths of the rule."""
    kinds = torch.randint(0, len(COLOURS), (count, OBJECTS), generator=draw)
    target = torch.randint(0, OBJECTS, (count,), generator=draw)
    tint = COLOURS[kinds] + 0.06 * torch.randn(count, OBJECTS, 3, generator=draw)
    place = torch.arange(SIDE) - (SIDE - 1) / 2
    radius = 4 + 5 * torch.rand(count, OBJECTS, 1, 1, generator=draw)
    disc = torch.rand(count, OBJECTS, 1, 1, generator=draw) < 0.5
    y, x = place[:, None].abs(), place[None].abs()
    inside = torch.where(disc, (y**2 + x**2).sqrt() <= radius, torch.maximum(y, x) <= radius)
    ground = 0.1 * torch.rand(count, OBJECTS, SIDE, SIDE, 3, generator=draw)
    shelf = torch.where(inside[..., None], tint[:, :, None, None], ground)
    low, high = shelf.amin((2, 3, 4), keepdim=True), shelf.amax((2, 3, 4), keepdim=True)
    paths = [path(row, goal) for row, goal in zip(kinds.tolist(), target.tolist(), strict=True)]
    return (shelf - low) / (high - low), target, paths


def path(kinds: list[int], target: int) -> list[int]:
    """Objects of the target's colour in reading order, then the target."""
    return [i for i, k in enumerate(kinds) if k == kinds[target] and i != target] + [target]


def random_order(target: int, draw: random.Random) -> list[int]:
    """All objects in a random order, up to the target."""
    order = draw.sample(range(OBJECTS), OBJECTS)
    return order[: order.index(target) + 1]


def trained(seed: int, steps: int) -> nn.Module:
    """A small OAT that has seen `steps` batches of 32 new shelves."""
    torch.manual_seed(seed)
    model = load(
        "oat_yogurt",
        weights=None,
        rows=ROWS,
        cols=COLUMNS,
        patch=(SIDE, SIDE),
        spp=2,
        emb_size=96,
        dim_feedforward=128,
        num_encoder_layers=2,
        num_decoder_layers=2,
        ca_d_k=64,
        dropout=0.0,
    ).train()
    draw = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 1e-3, total_steps=max(steps, 2), pct_start=0.1
    )
    for _ in range(steps):
        shelf, target, paths = drawn(32, draw)
        sequence = model.tokens(paths)
        loss = model.loss(model(shelf, target, sequence[:, :-1]), sequence)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        rate.step()
    return model.eval()


def ranked_first(model: nn.Module, trials: Trials, *, last: bool) -> float:
    """How often relevance names the target's copy first among all tokens but the chosen object.

    The model is asked for the object that the rule chooses: at the last fixation the target, at
    the first another of its colour. Searches of two fixations and more count; chance is 1 / 15.
    """
    shelf, target, paths = trials
    first = count = 0
    for length in sorted({len(p) for p in paths} - {1}):
        some = [i for i, p in enumerate(paths) if len(p) == length]
        chosen = [paths[i][-1 if last else 0] for i in some]
        ids = model.tokens([paths[i] for i in some])[:, :-1]  # type: ignore[operator]
        asked = ll.choice(length - 1 if last else 0, chosen)
        x = shelf[some], target[some], ids
        found = ll.maps(model, x, RELEVANCE, sites=[":objects", ":target"], target=asked)
        for name, own in zip(dict.fromkeys(m.sample for m in found), chosen, strict=True):
            values = torch.cat([m.values.flatten() for m in found if m.sample == name])
            values[own] = -torch.inf
            first += int(values.argmax()) == OBJECTS
        count += len(some)
    return first / count


def measure(seed: int, *, quick: bool = False) -> dict[str, float]:
    """The figures of one training, each control beside them; quick trains hardly at all."""
    steps, tests, asked = (20, 20, 8) if quick else (1000, 200, 100)
    model, fresh = trained(seed, steps), trained(seed, 0)
    shelf, target, paths = drawn(tests, torch.Generator().manual_seed(10**6 + seed))
    found = model.paths(model.generate(shelf, target, steps=OBJECTS))  # type: ignore[operator]
    draw = random.Random(seed)
    orders = [random_order(int(goal), draw) for goal in target]
    own = [draw.sample(p, len(p)) for p in paths]
    score = _mean_score(found, paths)
    some: Trials = (shelf[:asked], target[:asked], paths[:asked])
    return {
        TWICE: score / (control := _mean_score(orders, paths)),
        "sequence score": score,
        "sequence score, random order": control,
        "sequence score, the rule's objects in random order": _mean_score(own, paths),
        TARGET: ranked_first(model, some, last=True),
        f"{TARGET}, untrained": ranked_first(fresh, some, last=True),
        EARLY: ranked_first(model, some, last=False),
        f"{EARLY}, untrained": ranked_first(fresh, some, last=False),
    }


def _mean_score(found: list[list[int]], paths: list[list[int]]) -> float:
    return sum(map(sequence_score, found, paths)) / len(paths)
