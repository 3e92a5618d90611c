"""Text removal: GaRNet learns to take letters off gradients of colour, 64 x 64.

Photos are linear gradients between two colours, with one word in a third colour at a random place
and size; the mask is a box around it. The network of width 16 is trained on the box alone, as the
paper has it: the photo at three sizes, and two maps of every gate, one towards the strokes, one
towards what is beside them; on photos that it has not seen, the error in the box is compared with
that of the text left in, and with that of the same network whose gates are made even.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

import limelight as ll
from limelight.models.zoo.garnet.model import GATES

FLOORS: dict[str, float] = {
    "PSNR in the box": 27.0,
    "PSNR gained": 10.0,
    "PSNR gained over even gates": 2.0,
    "gate, strokes over box": 0.05,
    "gate, box over rest": 0.3,
    "stroke map, strokes over box": 0.25,
    "surround map, box over strokes": 0.15,
}
SIDE, WIDTH, BATCH, STEPS = 64, 16, 8, 800
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"


@dataclass(frozen=True)
class Scenes:
    """Photos with text `b 3 y x` from -1 to 1, without it, boxes and strokes `b 1 y x`."""

    text: Tensor
    clean: Tensor
    boxes: Tensor
    strokes: Tensor


def scenes(count: int, draw: random.Random) -> Scenes:
    """Words on gradients, rendered."""
    made = [_scene(draw) for _ in range(count)]
    return Scenes(*(torch.stack(parts) for parts in zip(*made, strict=True)))


def _scene(draw: random.Random) -> tuple[Tensor, ...]:
    colours = torch.tensor([[draw.random() for _ in range(3)] for _ in range(2)]) * 2 - 1
    angle = draw.random() * 2 * math.pi
    ys, xs = torch.meshgrid(*(torch.linspace(-0.5, 0.5, SIDE),) * 2, indexing="ij")
    share = (ys * math.sin(angle) + xs * math.cos(angle)) / math.sqrt(2) + 0.5
    clean = torch.lerp(colours[0, :, None, None], colours[1, :, None, None], share)
    strokes, boxes = _word(draw)
    ink = colours.mean(0).sign().neg() * torch.tensor([0.5 + 0.5 * draw.random() for _ in range(3)])
    return torch.lerp(clean, ink[:, None, None], strokes), clean, boxes, strokes


def _word(draw: random.Random) -> tuple[Tensor, Tensor]:
    """The coverage of a word's strokes, and the box around them."""
    word = "".join(draw.choices(LETTERS, k=draw.randint(2, 4)))
    page = Image.new("L", (SIDE, SIDE))
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(draw.randint(12, 20))
    left, top, right, bottom = pen.textbbox((0, 0), word, font=font)
    x = draw.uniform(2, max(2.0, SIDE - 2 - (right - left))) - left
    y = draw.uniform(2, SIDE - 2 - (bottom - top)) - top
    pen.text((x, y), word, fill=255, font=font)
    strokes = torch.from_numpy(np.array(page)).float()[None] / 255
    boxes = torch.zeros_like(strokes)
    rows, columns = (_around(strokes[0].amax(dim), draw) for dim in (1, 0))
    boxes[:, rows, columns] = 1
    return strokes, boxes


def _around(ink: Tensor, draw: random.Random) -> slice:
    """From the first to the last place with ink, and some more on either side."""
    there = ink.nonzero()
    margins = [draw.randint(3, 9) for _ in range(2)]
    return slice(max(int(there[0]) - margins[0], 0), int(there[-1]) + 1 + margins[1])


def loss_of(made: dict[str, Any], s: Scenes) -> Tensor:
    """The photo in its box at three sizes; the maps of every gate to strokes, and to what is
    beside them in the box.
    """
    loss = torch.zeros(())
    for part, factor in (("up5", 1), ("up4_o", 2), ("up3_o", 4)):
        clean, boxes = (F.avg_pool2d(x, factor) for x in (s.clean, s.boxes))
        loss = loss + ((made[part] - clean).abs() * boxes).sum() / (3 * boxes.sum())
    for stroke, surround in made["attentions"]:
        ink, box = (F.adaptive_max_pool2d(x, stroke.shape[2:]) for x in (s.strokes, s.boxes))
        misses = F.binary_cross_entropy(stroke, ink)
        misses = misses + F.binary_cross_entropy(surround, (box - ink).clamp(min=0))
        loss = loss + misses / 4
    return loss


def trained(draw: random.Random, steps: int) -> nn.Module:
    """The network, after so many steps of Adam."""
    model = ll.load("garnet", weights=None, ndf=WIDTH).train()
    learner = torch.optim.Adam(model.parameters(), 2e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(learner, steps)
    for _ in range(steps):
        s = scenes(BATCH, draw)
        learner.zero_grad()
        loss_of(model(s.text, s.boxes), s).backward()
        learner.step()
        decay.step()
    return model.eval()


def psnr(made: Tensor, s: Scenes) -> float:
    """10 log10 of the squared range over the mean squared error in the box; mean of samples."""
    error = ((made.clamp(-1, 1) - s.clean).square() * s.boxes).sum((1, 2, 3))
    return float((10 * (4 * 3 * s.boxes.sum((1, 2, 3)) / error).log10()).mean())


def measure(seed: int, *, quick: bool = False) -> dict[str, float]:
    """What a network learns, and what its gates do, on scenes that it has not seen.

    PSNR is in the box, of the composite. Gates and their maps are those of the first block, whose
    places are 4 x 4 pixels: strokes are places that letters cover by a third or more, the box is
    what lies in it without any stroke, the rest lies outside.
    """
    torch.manual_seed(seed)
    model = trained(random.Random(seed), 8 if quick else STEPS)
    s = scenes(8 if quick else 64, random.Random(10_000 + seed))
    given = s.text, s.boxes
    with torch.no_grad():
        made = model(*given)
    flat = ll.patch(model, given, {f"{path}:gate": even for path in GATES})
    best, before, bare = (psnr(x, s) for x in (made["composite"], s.text, flat["composite"]))
    found = {
        "PSNR in the box": best,
        "PSNR in the box, text left in": before,
        "PSNR in the box, even gates": bare,
        "PSNR gained": best - before,
        "PSNR gained over even gates": best - bare,
    }
    maps = made["gates"][0], *made["attentions"][0]
    for name, values in zip(("gate", "stroke map", "surround map"), maps, strict=True):
        found |= {f"{name} on {part}": mean for part, mean in means_on(values, s).items()}
    for name, more, less in (
        ("gate", "strokes", "box"),
        ("gate", "box", "rest"),
        ("stroke map", "strokes", "box"),
        ("surround map", "box", "strokes"),
    ):
        over = found[f"{name} on {more}"] - found[f"{name} on {less}"]
        found[f"{name}, {more} over {less}"] = over
    return found


def even(gate: Tensor, _: object) -> Tensor:
    """The mean of a gate everywhere."""
    return gate.mean((2, 3), keepdim=True).expand_as(gate)


def means_on(values: Tensor, s: Scenes) -> dict[str, float]:
    """The mean of a map on strokes, on the box beside them, on the rest."""
    inside = F.avg_pool2d(s.boxes, 4)
    on = {
        "strokes": F.avg_pool2d(s.strokes, 4) >= 1 / 3,
        "box": (F.max_pool2d(s.strokes, 4) == 0) & (inside == 1),
        "rest": inside == 0,
    }
    return {name: float(values[there].mean()) for name, there in on.items()}
