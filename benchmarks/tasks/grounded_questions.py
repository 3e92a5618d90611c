"""Grounded questions: where is the red disc, asked of a picture by hashed words.

Pictures of 32 x 32 hold three things, each of its own colour and shape; a question names one of
them. Sentence attention on a small pyramid learns its mask. The control asks about another thing
of the same picture: the mask must leave the first and move to the second.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limelight.models.zoo.sentence_attention import SentenceGrounding

IOU, MOVED = "iou", "iou lost with the sentence of another thing"
FLOORS: dict[str, float] = {IOU: 0.5, MOVED: 0.4}
COLOURS = {"red": (0.9, 0.15, 0.1), "green": (0.1, 0.7, 0.2), "blue": (0.15, 0.25, 0.9),
           "yellow": (0.9, 0.85, 0.1)}  # fmt: skip
SHAPES = ("disc", "square", "bar")
SIDE, THINGS, STEPS, BATCH, TESTED = 32, 3, 600, 32, 200


class Pyramid(nn.Module):
    """Maps at strides 1, 2 and 4."""

    channels = (24, 32, 48)

    def __init__(self) -> None:
        super().__init__()
        widths = zip((3, *self.channels), self.channels, (1, 2, 2), strict=False)
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, out, 3, stride, 1), nn.ReLU(),
                nn.Conv2d(out, out, 3, 1, 1), nn.BatchNorm2d(out), nn.ReLU(),
            )
            for width, out, stride in widths
        )  # fmt: skip

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for level in self.levels:
            x = level(x)
            maps.append(x)
        return maps


def network(seed: int) -> SentenceGrounding:
    torch.manual_seed(seed)
    body = Pyramid()
    return SentenceGrounding(
        body, body.channels, n_classes=2, encode_dim=64, mid_dim=128, dropout=0.0
    )


def scenes(count: int, draw: torch.Generator) -> tuple[Tensor, Tensor, list[list[str]]]:
    """Pictures `b c y x`, masks of their things `b thing y x`, and a question about each."""
    pictures = 0.3 + 0.08 * torch.randn(count, 3, SIDE, SIDE, generator=draw)
    masks = torch.zeros(count, THINGS, SIDE, SIDE)
    questions = []
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    quarters = torch.tensor([(8, 8), (8, 24), (24, 8), (24, 24)])
    for n in range(count):
        colours = torch.randperm(len(COLOURS), generator=draw)[:THINGS].tolist()
        shapes = torch.randperm(len(SHAPES), generator=draw).tolist()
        places = quarters[torch.randperm(4, generator=draw)[:THINGS]]
        places = places + torch.randint(-2, 3, places.shape, generator=draw)
        asked = []
        for thing, (colour, shape) in enumerate(zip(colours, shapes, strict=True)):
            down, across = (y - places[thing, 0]).abs(), (x - places[thing, 1]).abs()
            inside = {
                "disc": down**2 + across**2 <= 25,
                "square": (down <= 4) & (across <= 4),
                "bar": (down <= 2) & (across <= 6),
            }[SHAPES[shape]]
            name = list(COLOURS)[colour]
            pictures[n][:, inside] = torch.tensor(COLOURS[name])[:, None]
            masks[n, thing] = inside
            asked.append(f"where is the {name} {SHAPES[shape]}")
        questions.append(asked)
    return pictures + 0.03 * torch.randn(pictures.shape, generator=draw), masks, questions


def trained(seed: int, steps: int) -> SentenceGrounding:
    model = network(seed).train()
    draw = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, max(steps, 2))
    for _ in range(steps):
        pictures, masks, questions = scenes(BATCH, draw)
        sentences = model.encode([asked[0] for asked in questions])
        loss = F.cross_entropy(model(pictures, sentences), masks[:, 0].long())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def overlap(found: Tensor, wanted: Tensor) -> float:
    """The mean over samples of intersection over union."""
    both = (found & wanted).flatten(1).sum(1)
    either = (found | wanted).flatten(1).sum(1).clamp(min=1)
    return float((both / either).mean())


def measure(seed: int, *, quick: bool = False) -> dict[str, float]:
    """Train on scenes of a seed, ask about others."""
    model = trained(seed, 3 if quick else STEPS)
    tested = 8 if quick else TESTED
    pictures, masks, questions = scenes(tested, torch.Generator().manual_seed(10**6 + seed))
    wanted = masks.bool()
    with torch.no_grad():
        right, swapped, untrained = (
            net(pictures, net.encode([asked[thing] for asked in questions])).argmax(1).bool()
            for net, thing in ((model, 0), (model, 1), (network(seed).eval(), 0))
        )
    first = overlap(right, wanted[:, 0])
    left = overlap(swapped, wanted[:, 0])
    return {
        IOU: first,
        "iou, untrained": overlap(untrained, wanted[:, 0]),
        "iou, everything": float((wanted[:, 0]).float().mean()),
        "iou with the thing that the swapped sentence names": overlap(swapped, wanted[:, 1]),
        "iou with the first thing, sentence swapped": left,
        MOVED: first - left,
    }
