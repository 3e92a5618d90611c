"""Whether what a map calls important is: perturbations, many copies in each forward."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ...probe.attribution import Count
from ...probe.errors import OptionError
from .neighbours import impute, patch_means
from .perturbed_scores import Baseline, Scorer
from .registry import flat, metric
from .similarity import pearson


@metric("deletion", "Faithfulness", better="smaller")
def deletion(
    saliency: Tensor, model: Scorer, *, steps: int = 224, baseline: Baseline = "zero"
) -> float:
    """Area under the probability while the most relevant pixels go first (RISE, 1806.07421)."""
    curve = deletion_curve(saliency, model, steps=steps, baseline=baseline)
    return _area(curve, saliency.numel(), _part(saliency, steps))


@metric("insertion", "Faithfulness")
def insertion(
    saliency: Tensor, model: Scorer, *, steps: int = 224, baseline: Baseline = "blur"
) -> float:
    """Area under the probability while the most relevant pixels come into a blurred copy first."""
    curve = insertion_curve(saliency, model, steps=steps, baseline=baseline)
    return _area(curve, saliency.numel(), _part(saliency, steps))


def deletion_curve(
    saliency: Tensor, model: Scorer, *, steps: int = 224, baseline: Baseline = "zero"
) -> Tensor:
    """The probability with 0, 1, ... parts of the pixels gone, the largest first.

    A part is ceil(pixels / steps), the last one what is left: every point is there once.
    """
    return _curve(saliency, model, model.x, model.baseline(baseline), _part(saliency, steps))


def insertion_curve(
    saliency: Tensor, model: Scorer, *, steps: int = 224, baseline: Baseline = "blur"
) -> Tensor:
    """The probability with 0, 1, ... parts of the pixels back in their places."""
    return _curve(saliency, model, model.baseline(baseline), model.x, _part(saliency, steps))


@metric("pixel_flipping", "Faithfulness", better="smaller")
def pixel_flipping(
    saliency: Tensor, model: Scorer, *, step: int = 1, baseline: Baseline = "black"
) -> float:
    """Mean probability while `step` pixels more are flipped each time (Bach et al. 2015).

    A last step of fewer pixels counts by their number.
    """
    if step < 1:
        raise OptionError(f"step={step} flips nothing: give at least 1 pixel")
    part = min(step, saliency.numel())
    curve = _curve(saliency, model, model.x, model.baseline(baseline), part)
    return _weighed(curve[1:], saliency.numel(), part)


@metric("region_perturbation", "Faithfulness")
def region_perturbation(
    saliency: Tensor,
    model: Scorer,
    *,
    patch: Count = 8,
    regions: Count = 100,
    baseline: Baseline = "uniform",
) -> float:
    """Mean drop of the probability over the most relevant patches, one after another (AOPC).

    patch  places along each axis; 1 for features of a table
    """
    drops = region_drops(saliency, model, patch=patch, regions=regions, baseline=baseline)
    return float(drops.mean()) if len(drops) else float("nan")


def region_drops(
    saliency: Tensor,
    model: Scorer,
    *,
    patch: Count = 8,
    regions: Count = 100,
    baseline: Baseline = "uniform",
) -> Tensor:
    """The drop of the probability after 1, 2, ... regions; empty for a constant map."""
    if bool(flat(saliency[None]).isnan().any()):
        return torch.empty(0, dtype=torch.float64)
    if patch > 1:
        model.check_places(f"region_perturbation with patch={patch}")
    mass = patch_means(saliency.double()[None], patch)[0]
    order = mass.flatten().argsort(descending=True, stable=True)[:regions]
    rank = torch.full((mass.numel(),), regions, dtype=torch.long)
    rank[order] = torch.arange(len(order))
    ranks = rank.reshape(mass.shape).to(model.x.device)
    for axis, side in enumerate(saliency.shape):
        ranks = ranks.repeat_interleave(patch, axis).narrow(axis, 0, side)
    after = _scored(model, model.x, model.baseline(baseline), ranks, range(1, len(order) + 1))
    return float(model(model.x[None])) - after


@metric("road", "Faithfulness", better="smaller")
def road(saliency: Tensor, model: Scorer, *, share: float = 0.5, noise: float = 0.01) -> float:
    """The probability once a share of the pixels, the largest first, is imputed (2202.00449).

    Each missing pixel is a noisy weighted mean of its neighbours, 1/6 beside and 1/12 across, so
    that no shape of the mask is left to see; in a series half of each, in volumes of all 26.
    """
    model.check_places("road")
    ranks = _ranks(saliency)
    if ranks is None:
        return float("nan")
    gone = ranks < round(share * ranks.numel())
    filled = impute(model.x, gone.to(model.x.device))
    filled = filled + noise * torch.randn(filled.shape, generator=model.generator()).to(filled)
    return float(model(torch.where(gone.to(model.x.device), filled, model.x)[None]))


@metric("sensitivity_n", "Faithfulness")
def sensitivity_n(
    saliency: Tensor, model: Scorer, *, n: int = 256, draws: int = 100, baseline: Baseline = "zero"
) -> float:
    """Correlation, over random sets of n pixels, of their mass and the drop of the logit.

    (Ancona et al., arXiv 1711.06104)
    """
    if not 0 < n < saliency.numel():
        raise OptionError(f"n={n} must lie between 1 and the {saliency.numel()} pixels of the map")
    draw = model.generator()
    size = (draws, saliency.numel())
    picked = torch.rand(size, generator=draw).argsort(1)[:, :n]
    masks = torch.zeros(size, dtype=torch.bool).scatter_(1, picked, True)
    mass = (masks * saliency.double().cpu().flatten()).sum(1)
    base, shape = model.baseline(baseline), model.x.shape[1:]
    drops = []
    for part in masks.split(model.batch):
        gone = part.reshape(-1, 1, *shape).to(model.x.device)
        drops.append(model(torch.where(gone, base, model.x), logits=True))
    drop = float(model(model.x[None], logits=True)) - torch.cat(drops).cpu()
    return float(pearson(mass[None], drop[None]))


@metric("average_drop", "Faithfulness", better="smaller")
def average_drop(saliency: Tensor, model: Scorer) -> float:
    """max(0, p - p') / p, p' with the sample weighted by the map (Grad-CAM++, 1710.11063)."""
    whole, kept = _kept(saliency, model)
    defined = whole > 0 and kept == kept
    return max(0.0, whole - kept) / whole if defined else float("nan")


@metric("increase_in_confidence", "Faithfulness")
def increase_in_confidence(saliency: Tensor, model: Scorer) -> float:
    """1 where weighting the sample by the map raises the probability, else 0."""
    whole, kept = _kept(saliency, model)
    return float("nan") if kept != kept else float(kept > whole)


@metric("monotonicity", "Faithfulness")
def monotonicity(
    saliency: Tensor, model: Scorer, *, steps: int = 32, baseline: Baseline = "black"
) -> float:
    """The share of steps at which the probability does not fall, the least relevant added first.

    A last step of fewer pixels counts by their number.
    """
    part = _part(saliency, steps)
    curve = _curve(-saliency, model, model.baseline(baseline), model.x, part)
    return _weighed((curve.diff() >= 0).double(), saliency.numel(), part)


@metric("infidelity", "Faithfulness", better="smaller")
def infidelity(
    saliency: Tensor, model: Scorer, *, draws: int = 10, noise: float = 0.2, normalise: bool = True
) -> float:
    """Expected square of (I . a) - (f(x) - f(x - I)), I Gaussian noise, by captum (1901.09392).

    The map is spread evenly over the channels; normalise scales it as fits best.
    """
    from captum.metrics import infidelity as by_captum

    draw, x = model.generator(), model.x[None].double()
    spread = (saliency.double() / len(model.x)).expand(1, *model.x.shape)

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        moved = noise * torch.randn(inputs.shape, generator=draw).to(inputs)
        return moved, inputs - moved

    value = by_captum(
        lambda x: model(x.to(model.x), logits=True),
        perturb,
        x,
        spread.to(x),
        n_perturb_samples=draws,
        normalize=normalise,
    )
    return float(value)


@metric("max_sensitivity", "Faithfulness", better="smaller")
def max_sensitivity(
    saliency: Tensor, model: Scorer, *, radius: float = 0.02, draws: int = 10
) -> float:
    """The largest relative change of the map under noise in a ball, by captum (1901.09392)."""
    from captum.metrics import sensitivity_max

    if model.explain is None:
        raise OptionError("max_sensitivity explains again: give the scorer a method, explain=...")
    explain = model.explain
    with torch.random.fork_rng():
        torch.manual_seed(model.seed)
        value = sensitivity_max(
            lambda inputs: (explain(inputs[0]),),
            (model.x[None],),
            perturb_radius=radius,
            n_perturb_samples=draws,
        )
    return float(value)


def _kept(saliency: Tensor, model: Scorer) -> tuple[float, float]:
    """The probability of the sample, and of the sample weighted by the map scaled to 0..1."""
    low, high = saliency.min(), saliency.max()
    whole = float(model(model.x[None]))
    if not bool(high > low):
        return whole, float("nan")
    weight = ((saliency - low) / (high - low)).to(model.x)
    return whole, float(model((model.x * weight)[None]))


def _part(saliency: Tensor, steps: int) -> int:
    """Pixels in a step, of at most so many steps. Raises OptionError for none."""
    if steps < 1:
        raise OptionError(f"steps={steps} changes nothing: give at least 1")
    return -(-saliency.numel() // steps)


def _curve(saliency: Tensor, model: Scorer, before: Tensor, after: Tensor, part: int) -> Tensor:
    """Probabilities while `part` pixels more of `before` give way to `after` each time.

    Empty for a map that holds nan or is constant.
    """
    ranks = _ranks(saliency)
    if ranks is None:
        return torch.empty(0, dtype=torch.float64)
    steps = -(-ranks.numel() // part)
    return _scored(model, before, after, (ranks // part).to(model.x.device), range(steps + 1))


def _scored(model: Scorer, before: Tensor, after: Tensor, ranks: Tensor, steps: range) -> Tensor:
    """Probabilities with the first 0, 1, ... ranks exchanged, batch by batch."""
    batch_scores = [model(copies) for copies in _copies(before, after, ranks, steps, model.batch)]
    return torch.cat(batch_scores).cpu()


def _copies(
    before: Tensor, after: Tensor, ranks: Tensor, steps: range, batch: int
) -> Iterator[Tensor]:
    for start in range(0, len(steps), batch):
        done = torch.tensor(list(steps[start : start + batch]), device=ranks.device)
        done = done.reshape(-1, *[1] * before.ndim)
        yield torch.where(ranks[None, None] < done, after, before)


def _ranks(saliency: Tensor) -> Tensor | None:
    """The place of each pixel, the largest value 0, ties in raster order; None if constant."""
    rows = flat(saliency[None])
    if bool(rows.isnan().any()):
        return None
    order = rows[0].argsort(descending=True, stable=True)
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order), device=order.device)
    return ranks.reshape(saliency.shape)


def _area(curve: Tensor, pixels: int, part: int) -> float:
    """The mean height by trapezoids as wide as what a step holds; NaN for no curve."""
    return _weighed((curve[1:] + curve[:-1]) / 2, pixels, part)


def _weighed(values: Tensor, pixels: int, part: int) -> float:
    """The mean over steps, each by its share of the pixels; NaN for none."""
    if not len(values):
        return float("nan")
    starts = torch.arange(0, pixels, part, dtype=values.dtype)
    return float(values @ (starts + part).clamp(max=pixels).sub(starts)) / pixels
