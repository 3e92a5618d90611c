"""People of coloured parts, seen by two cameras: who is the same, and which part tells so.

Each person wears four colours (hair, shirt, trousers, shoes); the second camera is darker, blue and
noisy, and people stand elsewhere in it. A narrow network with a little bit of attention learns some
people and must find others again, whom it has not seen. The relevance of a pair's similarity then
names one part of the gallery's picture, and painting that part over is compared with painting over
another one: of the same person at random, and the one named for another pair.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.methods.metrics import cosine_distances, interval, retrieval
from limelight.models.zoo.reid_lba import SimilarityOfTwo

FLOORS = {
    "rank-1": 0.9,
    "drop of similarity, named less random, lower bound": 0.0,
}
COLOURS = torch.tensor(
    [
        [0.85, 0.15, 0.15], [0.15, 0.65, 0.2], [0.2, 0.3, 0.85], [0.9, 0.8, 0.2],
        [0.6, 0.25, 0.7], [0.2, 0.75, 0.8], [0.95, 0.95, 0.95], [0.08, 0.08, 0.1],
    ]
)  # fmt: skip
PARTS = {"hair": (2, 10, 5), "shirt": (10, 30, 10), "trousers": (30, 50, 8), "shoes": (50, 58, 9)}
HEIGHT, WIDTH = 64, 32
KNOWN, UNKNOWN, PAIRS = 192, 100, 100
METHOD = "lrp:epsilon"


@dataclass(frozen=True)
class Seen:
    """Pictures `b 3 y x` of people by a camera, and where their parts are, `b 4 y x`."""

    pictures: Tensor
    parts: Tensor


def people(count: int, draw: torch.Generator) -> Tensor:
    """Colours of each person's parts, `n 4`, no two people alike."""
    codes = torch.randperm(len(COLOURS) ** len(PARTS), generator=draw)[:count]
    return torch.stack([codes // len(COLOURS) ** n % len(COLOURS) for n in range(len(PARTS))], 1)


def seen(worn: Tensor, camera: int, draw: torch.Generator) -> Seen:
    """People in their colours, `n 4`, as one camera sees them."""
    count = len(worn)
    down = torch.randint(-2, 5, (count, 1, 1), generator=draw)
    along = torch.randint(-5, 6, (count, 1, 1), generator=draw)
    ys, xs = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    ys, xs = ys - down, xs - along
    parts = [
        (ys >= top) & (ys < bottom) & ((xs - WIDTH // 2).abs() <= half)
        for top, bottom, half in PARTS.values()
    ]
    masks = torch.stack(parts, 1)
    ground = torch.rand(count, 3, 1, 1, generator=draw) * 0.5 + 0.25
    noise = partial(torch.randn, generator=draw)
    picture = ground + 0.1 * F.interpolate(noise(count, 3, 8, 4), (HEIGHT, WIDTH), mode="bilinear")
    cloth = COLOURS[worn][..., None, None] * masks[:, :, None]
    picture = torch.where(masks.any(1, keepdim=True), cloth.sum(1), picture)
    light = 0.9 + 0.2 * torch.rand(count, 1, 1, 1, generator=draw)
    tint = torch.tensor([[1.0, 1.0, 1.0], [0.6, 0.7, 0.95]])[camera][:, None, None]
    picture = picture * light * tint + (0.02, 0.06)[camera] * noise(count, 3, HEIGHT, WIDTH)
    return Seen((picture - 0.5) / 0.25, masks)


def network(seed: int) -> nn.Module:
    """A narrow network for pictures of people, with random weights."""
    torch.manual_seed(seed)
    return ll.load(
        "reid_lba",
        weights=None,
        layers=(1, 1, 1),
        width=16,
        locations="011",
        return_logits=True,
        num_classes=KNOWN,
    )


def trained(seed: int, steps: int) -> nn.Module:
    """The network after some steps on known people, each by both cameras."""
    draw = torch.Generator().manual_seed(seed)
    net, worn = network(seed).train(), people(KNOWN + UNKNOWN, draw)[:KNOWN]
    optimiser = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], 3e-3)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, total_steps=steps)
    for _ in range(steps):
        who = torch.randperm(KNOWN, generator=draw)[:24]
        both = torch.cat([seen(worn[who], camera, draw).pictures for camera in (0, 1)])
        loss = F.cross_entropy(net(both)["logits"], who.repeat(2), label_smoothing=0.1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        plan.step()
    net.return_logits = False
    return net.eval()


def strangers(seed: int) -> tuple[Tensor, torch.Generator]:
    """People who were not in training, and a source of numbers that training did not use."""
    draw = torch.Generator().manual_seed(seed)
    worn = people(KNOWN + UNKNOWN, draw)[KNOWN:]
    return worn, torch.Generator().manual_seed(seed + 1000)


@torch.no_grad()
def found_again(net: nn.Module, seed: int) -> dict[str, float]:
    """Scores of finding strangers of the first camera among those of both."""
    worn, draw = strangers(seed)
    shots = [seen(worn, camera, draw).pictures for camera in (0, 0, 1)]
    query, *gallery = (net(x) for x in shots)
    names = torch.arange(len(worn))
    cameras = torch.zeros_like(names)
    found = retrieval(
        cosine_distances(query, torch.cat(gallery)),
        names,
        names.repeat(2),
        cameras,
        torch.cat([cameras, cameras + 1]),
    )
    return {"rank-1": found.cmc(1), "mAP": found.mean_average_precision}


def named_parts(pair: nn.Module, query: Tensor, gallery: Seen) -> Tensor:
    """The part of each gallery's picture with the largest relevance, `b`."""
    found = ll.maps(pair, (query, gallery.pictures), METHOD, target=0, sites="input.1")
    relevance = found.stack()[:, None] * gallery.parts
    return relevance.sum((2, 3)).argmax(1)


@torch.no_grad()
def drops(pair: nn.Module, query: Tensor, gallery: Seen) -> Tensor:
    """By how much the similarity falls when each part is painted over, `b 4`."""
    whole = pair(query, gallery.pictures)
    ground = gallery.pictures.mean((2, 3), keepdim=True)
    painted = [
        torch.where(gallery.parts[:, n : n + 1], ground, gallery.pictures)
        for n in range(len(PARTS))
    ]
    return torch.cat([whole - pair(query, x) for x in painted], 1)


def which_part(net: nn.Module, seed: int, pairs: int) -> dict[str, float]:
    """What painting over the named part does, beside other parts."""
    worn, draw = strangers(seed)
    query = seen(worn[:pairs], 0, draw).pictures
    gallery = seen(worn[:pairs], 1, draw)
    pair = SimilarityOfTwo(net).eval()
    named = named_parts(pair, query, gallery)
    fell = drops(pair, query, gallery)
    choose = random.Random(seed)
    others = torch.tensor(
        [choose.choice([n for n in range(len(PARTS)) if n != part]) for part in named.tolist()]
    )
    by = {
        "named": fell.gather(1, named[:, None])[:, 0],
        "random": fell.gather(1, others[:, None])[:, 0],
        "named for another pair": fell.gather(1, named.roll(1)[:, None])[:, 0],
        "largest": fell.amax(1),
    }
    mean, low, _ = interval((by["named"] - by["random"]).tolist(), seed=seed)
    return {
        **{f"drop of similarity, part {word}": float(fall.mean()) for word, fall in by.items()},
        "drop of similarity, named less random": mean,
        "drop of similarity, named less random, lower bound": low,
        "pairs whose named part drops it more": float((by["named"] > by["random"]).double().mean()),
    }


def measure(seed: int, *, quick: bool = False) -> dict[str, float]:
    """Figures of one seed: retrieval, what relevance names, and the controls of both."""
    net = trained(seed, 20 if quick else 400)
    plain = network(seed).eval()
    plain.return_logits = False
    return {
        **found_again(net, seed),
        **{f"{key}, untrained": value for key, value in found_again(plain, seed).items()},
        **which_part(net, seed, 8 if quick else PAIRS),
    }
