"""Small runs of attention metrics, trained beside initial, for tests of the page of heads."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from small_runs import photos

import limelight as ll
from limelight.reports.runs.run import Run, run

METRICS = ["nonlocality", "gate", "centre_distance", "attention_entropy"]


@cache
def network(name: str) -> torch.nn.Module:
    """convit_digits, `trained` or `initial`; a small `vit` without gates."""
    torch.manual_seed(0)
    if name == "vit":
        return ll.load("deit_tiny", weights=None, img_size=32, depth=2)
    return ll.load("convit_digits", "digits" if name == "trained" else None)


class Pair(torch.nn.Module):
    """A network in two states; its answer is that of the trained one."""

    def __init__(self) -> None:
        super().__init__()
        self.trained, self.initial = network("trained"), network("initial")
        self.card = self.trained.card

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.trained(x) + 0 * self.initial(x)


def heads_run(root: Path, name: str, metrics: list[str] = METRICS) -> Run:
    """A run over six photos whose folder says the state of the network."""
    data = root / "photos"
    if not data.exists():
        data.mkdir(parents=True)
        photos(data)
    if name == "both":
        sites = ["trained.blocks.*.attn:map", "initial.blocks.*.attn:map"]
        return run(root / name, Pair(), data, metrics, sites=sites, workers=0)
    return run(root / name, network(name), data, metrics, shard=4, workers=0)


def orders_run(root: Path) -> Run:
    """Class sensitivity of order 0 and of order 1 can be had from it, at two layers."""
    (root / "photos").mkdir()
    photos(root / "photos")
    torch.manual_seed(0)
    net = ll.load("resnet18", weights=None, num_classes=6, img_size=32)
    sites = {"sites": ["layer1", "layer2"], "target": ["top", "least"]}
    return run(root / "run", net, root / "photos", ["normgrad", "meta,lr=0.1"], workers=0, **sites)
