"""One map in one call, beside bare torch and captum: `python benchmarks/single_maps.py`.

A bare pass is a forward and a backward to the input with frozen weights. Both tools are asked for
the gradient at the input of one photo, again and again, as users do: the first call of ours, which
sees every op of the model, is a row of its own. Grad-CAM on a net of five layers is nearly all
overhead, and is timed with a call each and inside one open probe.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Iterator

import torch
from captum.attr import LayerGradCam, Saliency
from measure import Ratio, Row, Work, close, machine, rounds, seconds
from torch import Tensor, nn

import limelight as ll

MODELS = {
    "resnet18": 1.02,
    "resnet50": 1.02,
    "deit_tiny": 1.04,
    "convit_tiny": 1.04,
    "vig_tiny": 1.04,
}
OVER_CAPTUM, SMALL, OPEN = 1.03, 1.3, 1.0
OF_CLASS = 3


def bare(net: nn.Module, x: Tensor) -> Tensor:
    """One gradient by torch alone."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(net(x)[:, OF_CLASS].sum(), x)[0]


def ours(net: nn.Module, x: Tensor) -> Tensor:
    return ll.maps(net, x, "gradient", target=OF_CLASS).stack()


def theirs(net: nn.Module, x: Tensor) -> Tensor:
    return Saliency(net).attribute(x.clone().requires_grad_(), target=OF_CLASS)


def gradient(name: str, goal: float, count: int) -> Iterator[Row]:
    """One gradient map of a network of the zoo."""
    torch.manual_seed(0)
    net = ll.load(name, weights=None).eval().requires_grad_(False)
    x = torch.randn(1, 3, 224, 224)
    bare(net, x)
    first = seconds(lambda: ours(net, x))
    close(ours(net, x), theirs(net, x).amax(1), 1e-3)
    works: dict[str, Work] = {
        "bare": lambda: bare(net, x),
        "ours": lambda: ours(net, x),
        "captum": lambda: theirs(net, x),
    }
    times = rounds(works, count)
    over = Ratio.of(times["ours"], times["bare"])
    peer = Ratio.of(times["captum"], times["bare"])
    beside = Ratio.of(times["ours"], times["captum"])
    what = f"{name}: gradient at the input"
    yield Row.most(f"{what} over bare (captum {peer})", over.median, goal, over)
    yield Row.most(f"{what} over captum's", beside.median, OVER_CAPTUM, beside)
    share = first / min(times["bare"])
    yield Row(f"{what}, first call over bare", f"{share:.2f} x", "for comparison", True)


def small(count: int) -> Iterator[Row]:
    """Grad-CAM where the network itself costs next to nothing."""
    torch.manual_seed(0)
    end = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), end
    ).eval()
    x = torch.randn(1, 3, 32, 32)
    cam = LayerGradCam(net, net[2])

    def call() -> Tensor:
        return ll.maps(net, x, "gradcam", sites="2", target=OF_CLASS).stack()

    def peer() -> Tensor:
        return cam.attribute(x, target=OF_CLASS, relu_attributions=True)

    close(call(), peer()[:, 0], 1e-4)
    with ll.Probe(net, ops=False) as probe:
        probe.watch("2")

        def inside() -> object:
            probe(x)
            return probe.maps("gradcam", target=OF_CLASS)

        kept = rounds({"inside": inside, "peer": peer}, count, repeats=20)
    times = rounds({"call": call, "peer": peer}, count, repeats=20)
    for what, goal, ratio in (
        ("one call", SMALL, Ratio.of(times["call"], times["peer"])),
        ("inside an open probe", OPEN, Ratio.of(kept["inside"], kept["peer"])),
    ):
        yield Row.most(f"Grad-CAM of five layers, {what}, over captum", ratio.median, goal, ratio)


def main() -> None:
    """Print each row as it comes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=11, help="at least 5 for figures to report")
    asked = parser.parse_args()
    print(machine())
    gc.freeze()
    for name in asked.models:
        for row in gradient(name, MODELS.get(name, 1.04), asked.rounds):
            show(row)
    for row in small(asked.rounds):
        show(row)


def show(row: Row) -> None:
    met = "ok  " if row.met else "MISS"
    print(f"{met} {row.what}: {row.figure} ({row.goal})", flush=True)


if __name__ == "__main__":
    main()
