"""SmoothGrad and integrated gradients beside bare passes and captum: `python benchmarks/paths.py`.

A bare pass is a forward and a backward to the input with frozen weights, on as many points at a
time as we take. captum is given the same number. Ours also runs the photo itself, for the score
that its maps carry; that forward is the first row, and the goal is held with it and without.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from captum.attr import IntegratedGradients, NoiseTunnel, Saliency
from measure import Ratio, Row, Work, close, machine, rounds
from torch import Tensor, nn

import limelight as ll

POINTS = 16
AT_ONCE = 8
GOAL = 1.03
OF_CLASS = 3


def bare(net: nn.Module, x: Tensor, at_once: int = AT_ONCE) -> list[Tensor]:
    """Gradients of all points, `at_once` of them a pass."""
    grads = []
    for start in range(0, POINTS, at_once):
        count = min(at_once, POINTS - start)
        points = x.repeat(count, 1, 1, 1).requires_grad_()
        grads += torch.autograd.grad(net(points)[:, OF_CLASS].sum(), points)
    return grads


def variants(net: nn.Module, x: Tensor) -> dict[str, Work]:
    """What is timed, by name."""
    ig, tunnel = IntegratedGradients(net), NoiseTunnel(Saliency(net))
    return {
        "bare": lambda: bare(net, x),
        "score": lambda: score(net, x),
        "integrated_gradients": lambda: ours(net, x, "integrated_gradients"),
        "captum integrated_gradients": lambda: theirs(ig, x),
        "smoothgrad": lambda: ours(net, x, "smoothgrad"),
        "captum smoothgrad": lambda: tunnel.attribute(
            x, target=OF_CLASS, nt_samples=POINTS, nt_samples_batch_size=AT_ONCE, stdevs=0.1
        ),
    }


def score(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x)[:, OF_CLASS]


def ours(net: nn.Module, x: Tensor, method: str) -> Tensor:
    return ll.maps(net, x, ll.use(method, n=POINTS), target=OF_CLASS).stack()


def theirs(ig: IntegratedGradients, x: Tensor) -> Tensor:
    return ig.attribute(x, target=OF_CLASS, n_steps=POINTS, internal_batch_size=AT_ONCE)


def rows(name: str, count: int) -> Iterator[Row]:
    """Every method over bare passes, ours held to the goal."""
    torch.manual_seed(0)
    net = ll.load(name, weights=None).eval().requires_grad_(False)
    x = torch.randn(1, 3, 224, 224)
    close(ours(net, x, "integrated_gradients"), theirs(IntegratedGradients(net), x).sum(1))
    times = rounds(variants(net, x), count)
    share = Ratio.of(times["score"], times["bare"])
    yield Row(f"{name}, the photo's own forward over bare passes", f"{share} x", "", True)
    scored = [sum(pair) for pair in zip(times["bare"], times["score"], strict=True)]
    for method in list(times)[2:]:
        what = f"{name}, {method}, {POINTS} points over bare passes of {AT_ONCE}"
        ratio = Ratio.of(times[method], times["bare"])
        yield Row.most(what, ratio.median, GOAL, ratio)
        if not method.startswith("captum"):
            ratio = Ratio.of(times[method], scored)
            yield Row.most(f"{what} and the photo's forward", ratio.median, GOAL, ratio)


def main() -> None:
    """Print each row as it comes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["resnet18", "deit_tiny_patch16_224"])
    parser.add_argument("--rounds", type=int, default=7, help="at least 5 for figures to report")
    asked = parser.parse_args()
    print(machine())
    for name in asked.models:
        for row in rows(name, asked.rounds):
            print(
                f"{'ok  ' if row.met else 'MISS'} {row.what}: {row.figure} ({row.goal})", flush=True
            )


if __name__ == "__main__":
    main()
