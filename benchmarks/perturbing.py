"""Deletion and insertion in batches of copies, beside loops of one perturbed copy a forward.

The loop does what captum and Quantus do for one picture: change some pixels, run the model, read
the class, again and again. Quantus itself (PixelFlipping, deletion and then with turned-around
attributions, as many forwards as insertion) is timed too where it is installed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from measure import Ratio, Row, close
from torch import Tensor, nn

import limelight as ll
from limelight.methods.metrics.faithfulness import deletion_curve, insertion_curve
from limelight.methods.metrics.perturbed_scores import Scorer

GOAL = 5
Work = Callable[[], object]


def rows(net: nn.Module, paths: Sequence[Path], rounds: int, steps: int) -> Iterator[Row]:
    """Wall time of loops over ours, picture by picture in turn."""
    draw = torch.Generator().manual_seed(0)
    times: dict[str, list[float]] = {}
    for n in range(rounds):
        x = ll.preprocess(net, paths[n % len(paths)])[0]
        with torch.no_grad():
            of_class = int(net(x[None]).argmax())
        saliency = torch.rand(x.shape[1:], generator=draw)
        works = variants(net, x, saliency, of_class, steps)
        if not n:
            check(net, x, saliency, of_class, steps)
        for name in works if n % 2 else reversed(list(works)):
            start = time.perf_counter()
            works[name]()
            times.setdefault(name, []).append(time.perf_counter() - start)
    what = f"deletion and insertion of one photo, {steps} steps"
    for name in [name for name in times if name != "ours"]:
        gain = Ratio.of(times[name], times["ours"])
        yield Row.least(f"{what}: time of {name} over ours", gain.median, GOAL, gain)
    if "Quantus" not in times:
        yield Row(what, "Quantus is not installed", "pip install quantus", True)


def variants(
    net: nn.Module, x: Tensor, saliency: Tensor, of_class: int, steps: int
) -> dict[str, Work]:
    model = Scorer(net, x, of_class)

    def ours() -> None:
        deletion_curve(saliency, model, steps=steps)
        insertion_curve(saliency, model, steps=steps)

    found: dict[str, Work] = {
        "ours": ours,
        "one copy a forward": lambda: one_by_one(net, x, saliency, of_class, steps),
    }
    flipping = quantus(net, x, saliency, of_class, steps)
    return found if flipping is None else {**found, "Quantus": flipping}


def one_by_one(
    net: nn.Module, x: Tensor, saliency: Tensor, of_class: int, steps: int
) -> tuple[Tensor, Tensor]:
    """Both curves, a forward for each step."""
    model = Scorer(net, x, of_class)
    order = saliency.flatten().argsort(descending=True)
    ends = [(x, model.baseline("zero")), (model.baseline("blur"), x)]
    curves = []
    for start, goal in ends:
        probabilities = []
        for step in range(steps + 1):
            copy = start.clone().flatten(1)
            moved = order[: round(step * len(order) / steps)]
            copy[:, moved] = goal.flatten(1)[:, moved]
            with torch.no_grad():
                out = net(copy.view_as(x)[None]).softmax(1)
            probabilities.append(out[0, of_class].item())
        curves.append(torch.tensor(probabilities, dtype=torch.float64))
    return curves[0], curves[1]


def check(net: nn.Module, x: Tensor, saliency: Tensor, of_class: int, steps: int) -> None:
    """Both ways give the same curves. Raises ValueError where they do not."""
    model = Scorer(net, x, of_class)
    mine = (f(saliency, model, steps=steps) for f in (deletion_curve, insertion_curve))
    for found, wanted in zip(mine, one_by_one(net, x, saliency, of_class, steps), strict=True):
        close(found, wanted)


def quantus(net: nn.Module, x: Tensor, saliency: Tensor, of_class: int, steps: int) -> Work | None:
    """Quantus' pixel flipping, twice; None where it is not installed."""
    try:
        import quantus as peer
    except ImportError:
        return None
    batch: dict[str, Any] = {
        "model": net.eval(),
        "x_batch": x[None].numpy(),
        "y_batch": torch.tensor([of_class]).numpy(),
        "device": "cpu",
        "softmax": True,
    }
    flips = peer.PixelFlipping(
        features_in_step=saliency.numel() // steps,
        perturb_baseline="black",
        normalise=False,
        abs=False,
        disable_warnings=True,
    )

    def work() -> None:
        for turned in (saliency, saliency.max() - saliency):
            flips(**batch, a_batch=turned[None, None].numpy())

    return work
