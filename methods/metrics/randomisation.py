"""Sanity checks: does a map change when the weights, or the class, do? (Adebayo, 1810.03292)"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...probe.capture import guarded
from ...probe.engine import maps
from ...probe.errors import OptionError
from ...probe.results import Maps
from ...probe.targets import Reading, label, ranked
from .similarity import spearman, ssim


@dataclass(frozen=True)
class Change:
    """How alike maps of a changed model are to those of the model; means over samples.

    layer   the last layer that was randomised, or what was changed
    """

    layer: str
    spearman: float
    ssim: float


def cascade(
    model: nn.Module,
    x: Tensor,
    method: Any,
    *,
    sites: Any = None,
    target: Literal["keep", "recompute"] = "keep",
    order: Literal["top_down", "bottom_up"] = "top_down",
    seed: int = 0,
) -> list[Change]:
    """Randomise the layers one after another, and compare absolute maps with the first ones.

    target  keep the class that the trained model predicts, or take the changed model's own
    order   from the classifier down, or from the input up
    Methods that ignore the weights, as guided backprop nearly does, stay alike.
    """
    if order not in ("top_down", "bottom_up") or target not in ("keep", "recompute"):
        raise OptionError(
            f"order={order!r}, target={target!r}: write order 'top_down' or 'bottom_up', target "
            "'keep' or 'recompute'"
        )
    classes = [int(c) for c in _logits(model, x).argmax(1)]
    first = _maps(model, x, method, sites, classes)
    changed = copy.deepcopy(model)
    changes = []
    for name in randomised(changed, order, seed):
        predicted = [int(c) for c in _logits(changed, x).argmax(1)]
        now = _maps(changed, x, method, sites, classes if target == "keep" else predicted)
        changes.append(_compared(name, first, now))
    return changes


def random_logit(
    model: nn.Module, x: Tensor, method: Any, *, sites: Any = None, seed: int = 0
) -> Change:
    """Maps of the predicted class against maps of another one, drawn for each sample."""
    logits = _logits(model, x)
    best, draw = logits.argmax(1), torch.Generator().manual_seed(seed)
    step = torch.randint(1, logits.shape[1], (len(x),), generator=draw)
    other = (best.cpu() + step) % logits.shape[1]
    first = _maps(model, x, method, sites, best.tolist())
    return _compared("another class", first, _maps(model, x, method, sites, other.tolist()))


@torch.no_grad()
def _logits(model: nn.Module, x: Tensor) -> Tensor:
    """The scores of classes `b c`, as a target reads them."""
    with guarded(model, grad=False, evaluate=True):
        return Reading()(model(x.clone()), len(x))


def class_sensitivity(model: nn.Module, x: Tensor, method: Any, *, sites: Any = None) -> Tensor:
    """Spearman of the maps for the likeliest and the least likely class, `b` (2001.04983).

    Both at the size of the input, as `limelight.score` compares them; NaN where one is constant.
    """
    both = _one_each(
        maps(model, x, method, target=[ranked(0), ranked(-1)], sites=sites), 2 * len(x)
    )
    large = [m.on_input()[None] for m in both]
    return torch.cat([spearman(*large[i : i + 2]) for i in range(0, len(large), 2)])


def completeness(saliency: Tensor, score: float, baseline: float) -> float:
    """The relative error of sum a = f(x) - f(baseline); 0 for a complete method."""
    gap = score - baseline
    return abs(float(saliency.double().sum()) - gap) / abs(gap) if gap else float("nan")


@torch.no_grad()
def randomised(
    model: nn.Module, order: Literal["top_down", "bottom_up"], seed: int = 0
) -> Iterator[str]:
    """Reset layers in place, one at a time; yields the name of each after it was reset.

    A layer is a module with parameters of its own; it is reset as it was made, or drawn from a
    normal of its own spread where it has no way to reset.
    """
    layers = [
        (name, part)
        for name, part in model.named_modules()
        if any(True for _ in part.parameters(recurse=False))
    ]
    draw = torch.Generator().manual_seed(seed)
    for name, part in reversed(layers) if order == "top_down" else layers:
        with torch.random.fork_rng():
            torch.manual_seed(int(torch.randint(1 << 31, (), generator=draw)))
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
            else:
                for p in part.parameters(recurse=False):
                    spread = float(p.float().std()) if p.numel() > 1 else 0.02
                    p.normal_(std=spread or 0.02)
        yield name


def _maps(model: nn.Module, x: Tensor, method: Any, sites: Any, classes: Sequence[int]) -> Tensor:
    of_classes = maps(model, x, method, target=label(list(classes)), sites=sites)
    return torch.stack([m.values.float().abs() for m in _one_each(of_classes, len(classes))])


def _one_each(found: Maps, wanted: int) -> Maps:
    """The maps, where there is one for each sample and class."""
    if len(found) != wanted:
        raise OptionError(
            f"maps are compared one a sample and class, but {len(found)} came for {wanted}; "
            "name one method at one site"
        )
    return found


def _compared(name: str, first: Tensor, now: Tensor) -> Change:
    rank, shape = spearman(first, now), ssim(first, now)
    return Change(name, float(rank.nanmean()), float(shape.nanmean()))
