"""Shapes with boxes: what key points are worth to a detector, and where it looks for them.

Rectangles of three colours lie on noise, and the BVR head learns their boxes on a map whose places
see 23 pixels, less than a rectangle: its sides must come from its corners. Of each rectangle's best
box the overlap is taken, as it is, with what places attend to cut, and with attention made even;
then the share of attention on key points of the rectangle itself, beside the share of these points.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.models.zoo.relationnet2.anchors import anchors, boxes_of, encoded
from limelight.models.zoo.relationnet2.training import keypoint_loss

FLOORS: dict[str, float] = {
    "iou": 0.7,
    "iou lost by the cut": 0.1,
    "attention inside over chance": 1.0,
}

SIDE, CLASSES, STRIDES, WIDTH = 64, 3, (4,), 32
STEPS, BATCH, TESTED, MARGIN = 1000, 12, 192, 3
RARE = -2.2  # the logit of a class that is there at one place in ten
DECODERS = "head.*_transformer.decoder.*"
ANCHORS: dict[str, Any] = {"scale": 8.0, "per_octave": 1, "ratios": (1.0,)}
BUILD = {
    "channels": WIDTH,
    "num_classes": CLASSES,
    "anchors_per_location": 1,
    "stacked_convs": 1,
    "keypoint_stacked_convs": 1,
    "keypoint_logits_convs": 0,
    "num_attn_heads": 4,
    "base_size": (32, 32),
    "strides": STRIDES,
    "max_keypoint_num": 12,
    "cross_level_topk": 12,
    "reg_cat_pos": True,
    "norm": "GroupNorm 8 groups, eps 1e-5",
}


class Detector(nn.Module):
    """Two convolutions of stride 2 and the BVR head on the map behind them.

    Boxes also get the mean offset of the corners attended to, which no published model does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, WIDTH, 3, 2, 1), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, 2, 1), nn.ReLU()
        )
        self.head = ll.load("relationnet2_head", weights=None, **BUILD)

    def forward(self, x: Tensor) -> dict[str, Any]:
        return self.head(self.stem(x))


@dataclass(frozen=True, eq=False)
class Scenes:
    """Pictures `n 3 64 64`, and by class a box `n 3 4` and whether it is there."""

    pictures: Tensor
    boxes: Tensor
    there: Tensor


def scenes(count: int, draw: torch.Generator) -> Scenes:
    """Rectangles with sides of 20 to 36 pixels; where they cover each other colours add."""

    def even(*shape: int) -> Tensor:
        return torch.rand(shape, generator=draw)

    pictures = 0.3 * torch.randn(count, 3, SIDE, SIDE, generator=draw)
    there = even(count, CLASSES) < 0.85
    there[~there.any(1), 0] = True
    sides = 20 + 16 * even(count, CLASSES, 2)
    first = 1 + even(count, CLASSES, 2) * (SIDE - 2 - sides)
    boxes = torch.cat([first, first + sides], -1)
    at = torch.arange(SIDE) + 0.5
    for kind in range(CLASSES):
        left, top, right, bottom = boxes[:, kind, :, None, None].unbind(1)
        down = at[:, None]
        inside = (at >= left) & (at <= right) & (down >= top) & (down <= bottom)
        inside &= there[:, kind, None, None]
        colour = torch.eye(3)[kind] * (1 + even(count, 1))
        pictures = torch.where(inside[:, None], colour[:, :, None, None] + pictures, pictures)
    return Scenes(pictures, boxes, there)


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes `... 4` that broadcast."""
    inner = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(0)
    both = inner.prod(-1)
    areas = [(x[..., 2:] - x[..., :2]).prod(-1) for x in (a, b)]
    return both / (areas[0] + areas[1] - both).clamp(min=1e-6)


def flat(levels: list[Tensor], last: int) -> Tensor:
    """Levels `b last y x` of one anchor a place as `b n last`."""
    return torch.cat([x.flatten(2).transpose(1, 2) for x in levels], 1)[..., :last]


def loss_of(out: dict[str, Any], batch: Scenes, own: Tensor) -> Tensor:
    """Focal loss of classes, L1 of deltas at anchors that overlap by half, and key points'."""
    share = overlap(own[None, :, None], batch.boxes[:, None])  # b n class
    share = share.where(batch.there[:, None], torch.zeros(()))
    best, kind = share.max(2)
    nearest = (share == share.amax(1, keepdim=True)) & (share > 0)  # each box has its best anchor
    hit = (best >= 0.5) | nearest.any(2)
    kind = kind.where(~nearest.any(2), nearest.float().argmax(2))
    wanted = F.one_hot(kind, CLASSES) * hit[..., None]
    logits, deltas = flat(out["cls_score"], CLASSES), flat(out["bbox_pred"], 4)
    plain = F.binary_cross_entropy_with_logits(logits, wanted.float(), reduction="none")
    p = logits.sigmoid()
    focal = plain * torch.where(wanted == 1, 0.25 * (1 - p) ** 2, 0.75 * p**2)
    known = hit | (best < 0.4)
    picked = batch.boxes.gather(1, kind[..., None].expand(-1, -1, 4))
    goal = encoded(own.expand_as(picked), picked)
    count = hit.sum().clamp(min=1)
    boxes = [b[t] for b, t in zip(batch.boxes, batch.there, strict=True)]
    labels = [t.nonzero()[:, 0] for t in batch.there]
    points = keypoint_loss(out["keypoint_scores"], out["keypoint_offsets"], boxes, labels, STRIDES)
    away = (deltas - goal).abs()[hit].sum() / count
    return (focal.sum(2) * known).sum() / count + away + points[0] + points[1]


def trained(seed: int, steps: int) -> nn.Module:
    """The detector after so many steps."""
    torch.manual_seed(seed)
    draw = torch.Generator().manual_seed(seed)
    model = Detector().train()
    for name, p in model.named_parameters():
        if name.endswith("bias") and ("retina_cls" in name or "keypoint_cls_heads" in name):
            nn.init.constant_(p, RARE)
    own = all_anchors()
    best = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=1e-4)
    rate = torch.optim.lr_scheduler.OneCycleLR(best, 4e-3, total_steps=max(steps, 2))
    for _ in range(steps):
        batch = scenes(BATCH, draw)
        loss = loss_of(model(batch.pictures), batch, own)
        best.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        best.step()
        rate.step()
    return model.eval()


def all_anchors() -> Tensor:
    """The anchors of all levels, `n 4`."""
    like = torch.zeros(())
    return torch.cat(
        [anchors((SIDE // s, SIDE // s), s, like=like, **ANCHORS).flatten(0, 2) for s in STRIDES]
    )


def found_boxes(out: dict[str, Any], best: Tensor) -> Tensor:
    """The boxes at places `b class` of all levels, `b class 4`."""
    made = boxes_of(out["bbox_pred"], STRIDES, **ANCHORS)
    every = torch.cat([x.flatten(1, 3) for x in made], 1)
    return every.gather(1, best[..., None].expand(-1, -1, 4))


def even(attention: Tensor, site: ll.Site) -> Tensor:
    """The same share for every key point."""
    return attention.mean(-1, keepdim=True).expand_as(attention)


@torch.no_grad()
def attended(model: nn.Module, tested: Scenes, best: Tensor) -> tuple[float, float]:
    """Attention of the places `b class` to key points in the shape's box, and these points' share.

    The mean over heads, shapes and kinds of key points; a box counts with 4 pixels around it.
    """
    shares, chances = [], []
    with ll.Probe(model, grad=False) as p:
        p.watch(f"{DECODERS}:map", f"{DECODERS}:points")
        p(tested.pictures)
        paths = dict.fromkeys(site.path for site in p.trace)
        for path in paths:
            levels = [p.trace[f"{path}:map@{n}"].act.mean(1) for n in range(len(STRIDES))]
            rows = torch.cat(levels, 1)  # b n k
            points = p.trace[f"{path}:points@0"].act[:, None]  # b 1 k 2
            box = tested.boxes[:, :, None]
            near = (points >= box[..., :2] - MARGIN) & (points <= box[..., 2:] + MARGIN)
            inside = near.all(-1).float()  # b class k
            own = rows.gather(1, best[..., None].expand(-1, -1, rows.shape[2]))
            shares.append((own * inside).sum(2)[tested.there])
            chances.append(inside.mean(2)[tested.there])
    return float(torch.cat(shares).mean()), float(torch.cat(chances).mean())


def measure(seed: int, *, quick: bool = False) -> dict[str, float]:
    """Train on scenes of a seed, test on others."""
    torch.set_num_threads(1)
    model = trained(seed, 2 if quick else STEPS)
    tested = scenes(4 if quick else TESTED, torch.Generator().manual_seed(seed + 10_000))
    with torch.no_grad():
        out = model(tested.pictures)
        best = flat(out["cls_score"], CLASSES).argmax(1)  # b class
    edits = {
        "": {},
        ", key points cut": {DECODERS: ll.zero},
        ", even attention": {f"{DECODERS}:map": even},
    }
    figures = {}
    for words, edit in edits.items():
        answer = ll.patch(model, tested.pictures, edit) if edit else out
        shares = overlap(found_boxes(answer, best), tested.boxes)[tested.there]
        figures[f"iou{words}"] = float(shares.mean())
    inside, chance = attended(model, tested, best)
    return figures | {
        "iou lost by the cut": figures["iou"] - figures["iou, key points cut"],
        "attention inside": inside,
        "attention inside, chance": chance,
        "attention inside over chance": inside / max(chance, 1e-6),
    }


if __name__ == "__main__":
    start = time.process_time()
    for name, value in measure(0).items():
        print(f"{name}: {value:.3f}")
    print(f"{time.process_time() - start:.0f} CPU seconds")
