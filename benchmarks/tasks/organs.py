"""Organs: two noisy ellipses whose borders touch, labelled pixel by pixel.

Guided attention of narrow width learns the three classes of 64 x 64 pictures. Grad-CAM asks where
each organ's score over its own region comes from, and its peak must lie inside that organ; the
control asks the same of the region of the other organ.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import limelight as ll
from limelight.models.zoo.msguided import guided_losses

DICE, POINTING = "dice", "pointing game"
FLOORS: dict[str, float] = {DICE: 0.85, POINTING: 0.9}
SIDE, CLASSES, STEPS, BATCH, TESTED = 64, 3, 150, 8, 60


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return ll.load(
        "msguided_narrow", weights=None, width=16, inter_channels=16, num_classes=CLASSES
    )


def scans(count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pictures `b 1 y x` and the class of each pixel: 1 the brighter organ, 2 the darker one."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    labels = torch.zeros(count, SIDE, SIDE, dtype=torch.long)
    for n in range(count):
        tall, wide = torch.randint(9, 15, (2, 2), generator=draw).tolist()
        middle = torch.randint(26, 38, (2,), generator=draw).tolist()
        for organ, side in ((2, 1), (1, -1)):  # the brighter one lies over the other's border
            across = middle[1] + side * (wide[organ - 1] - 1)
            down = (y - middle[0]) / tall[organ - 1]
            labels[n][down**2 + ((x - across) / wide[organ - 1]) ** 2 <= 1] = organ
    level = torch.tensor([0.3, 0.7, 0.5])[labels]
    noise = 0.12 * torch.randn(level.shape, generator=draw)
    return (level + noise)[:, None], labels


def trained(seed: int, steps: int) -> nn.Module:
    model, draw = network(seed).train(), torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3, betas=(0.9, 0.99))
    for _ in range(steps):
        pictures, labels = scans(BATCH, draw)
        loss = guided_losses(model(pictures), labels)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def dice(found: Tensor, labels: Tensor) -> float:
    """The mean over organs of 2 |A and B| / (|A| + |B|)."""
    shares = []
    for organ in range(1, CLASSES):
        a, b = found == organ, labels == organ
        shares.append(2 * (a & b).sum() / (a.sum() + b.sum()).clamp(min=1))
    return float(torch.stack(shares).mean())


def pointed(model: nn.Module, pictures: Tensor, labels: Tensor, *, shuffled: bool) -> float:
    """How often the peak of Grad-CAM lies in the organ it was asked about.

    shuffled  the peak is looked for in the other organ instead
    """
    hits = []
    for organ in range(1, CLASSES):
        target = ll.region((labels == organ).float(), organ, per_sample=True)
        found = ll.maps(model, pictures, "gradcam", sites="fuse1", target=target)
        wanted = labels == (CLASSES - organ if shuffled else organ)
        for m, inside in zip(found, wanted, strict=True):
            peak = int(m.resize((SIDE, SIDE)).values.argmax())
            hits.append(float(inside.flatten()[peak]))
    return sum(hits) / len(hits)


def measure(seed: int, *, quick: bool = False) -> dict[str, float]:
    """Train on scans of a seed, label and point on others."""
    model = trained(seed, 2 if quick else STEPS)
    count = 4 if quick else TESTED
    pictures, labels = scans(count, torch.Generator().manual_seed(10**6 + seed))
    with torch.no_grad():
        found, fresh = (net(pictures).argmax(1) for net in (model, network(seed)))
    return {
        DICE: dice(found, labels),
        "dice, untrained": dice(fresh, labels),
        POINTING: pointed(model, pictures, labels, shuffled=False),
        "pointing game, the other organ": pointed(model, pictures, labels, shuffled=True),
        "pointing game, untrained": pointed(network(seed), pictures, labels, shuffled=False),
        "share of an organ": float((labels > 0).float().mean()) / (CLASSES - 1),
    }
