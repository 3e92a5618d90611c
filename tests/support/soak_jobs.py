"""Calls that soak trials repeat: each on a small model of its own, with what it must give."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from circuit_models import induction_pairs
from torch import Tensor, nn

import limelight as ll

METHODS = {
    "site": ("gradcam", "normgrad", "guided_backprop"),
    "relevance": ("lrp", "lrp:epsilon"),
    "path": ("integrated_gradients:3", "smoothgrad:gradient,n=2"),
    "pass": ("occlusion:4", "rise:3", "meta"),
}
HEAD_METHODS = ("edge_attribution", "attribution", "norm")
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Job:
    """A call, the model that it reads; it returns tensors that tell whether it was right."""

    name: str
    model: nn.Module
    call: Callable[[], list[Tensor]]


def convnet(seed: int = 0) -> nn.Module:
    """State of every kind: modes mixed, a frozen layer, running statistics, a switch."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.Dropout(0.1), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    )
    net.train()
    net[1].eval()
    net[0].requires_grad_(False)
    net[3].use_checkpoint = True
    return net


def map_job(kind: str, net: nn.Module | None = None) -> Job:
    """`limelight.maps` with methods of one kind."""
    net = convnet() if net is None else net
    methods = list(METHODS[kind])
    return Job(kind, net, lambda: [m.values for m in ll.maps(net, X, methods, batch=2)])


def jobs() -> list[Job]:
    """One of each kind of call."""
    calls = (_trace, _patch, _ledger, _probe, _explain, _run)
    made = [(call.__name__.strip("_"), net, call) for call in calls for net in [convnet()]]
    others = [Job(name, net, lambda net=net, call=call: call(net)) for name, net, call in made]
    return [*map(map_job, METHODS), *others, circuit_job()]


def circuit_job() -> Job:
    """Heads of a small model scored, three methods and the truth measured."""
    net, pairs = ll.load("induction_2l"), induction_pairs(6)

    def call() -> list[Tensor]:
        found = ll.circuit(net, pairs, HEAD_METHODS, truth_pairs=2)
        return [torch.as_tensor(found.score(name).values) for name in found.scores]

    return Job("circuit", net, call)


def _trace(net: nn.Module) -> list[Tensor]:
    seen = ll.trace(net, X, ["0", "3.0"], target=1, edits={"2": ll.scale(0.5)})
    return [seen["0"].act, seen["3.0"].grad]


def _patch(net: nn.Module) -> list[Tensor]:
    return [ll.patch(net, X, {"3.0": ll.zero}, target=1)]


def _ledger(net: nn.Module) -> list[Tensor]:
    return [torch.tensor([entry.received for entry in ll.ledger(net, X)])]


def _probe(net: nn.Module) -> list[Tensor]:
    with ll.Probe(net) as p:
        p.watch("**")
        p(X)
        return [m.values for m in p.maps(["gradcam"], sites="3.0")]


def _explain(net: nn.Module) -> list[Tensor]:
    return [m.values for m in ll.explain(net, inputs=X, methods=["gradcam"]).maps]


def _run(net: nn.Module) -> list[Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "a.npy", X[0].numpy())
        made = ll.run(Path(folder) / "run", net, folder, ["gradcam"], inputs="array", workers=0,
                      dtype="float64")  # fmt: skip
        return [torch.tensor([row["score"] for row in made.rows()])]
