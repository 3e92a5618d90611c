"""Captum's algorithms at the input, as one method: `captum:deep_lift`, `captum:kernel_shap`, ...

They run one sample at a time, so that a target is that of its sample and splitting a batch changes
nothing; inputs that `sites=` names go in together, as a tuple. Source: Kokhlikyan et al., arXiv
2009.07896.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from ..probe.attribution import Count, Spread, pass_method
from ..probe.capture import guarded, keep_hooks
from ..probe.engine import MovedInput, Runner
from ..probe.errors import MethodError, OptionError, near
from ..probe.sites import is_script, sealed
from ..probe.targets import Target
from .captum_hooks import note_unhooked
from .gradients import Baseline, laid_out, reference
from .perturbation import OnJointCopies, Size, grid, window_sizes


@dataclass(frozen=True, eq=False)
class Settings:
    """The options of one call for one input, as the algorithms below read them.

    n         steps or samples, where the algorithm does not fit a linear model
    samples   where it does
    features  the perturbed features by number, `1 1` and the places
    count     how many features there are, those of the other inputs included
    """

    n: int
    samples: int
    features: Tensor
    baseline: Baseline
    sigma: float
    sides: tuple[int, ...]
    steps: tuple[int, ...]
    batch: int
    count: int


Arguments = Callable[[Tensor, Settings], dict[str, Any]]


@dataclass(frozen=True)
class Algorithm:
    """A class of captum.attr and the arguments of its `attribute`.

    hooks   it hooks activation modules
    slopes  it differentiates
    """

    name: str
    arguments: Arguments
    hooks: bool = False
    slopes: bool = False


def _baseline(x: Tensor, s: Settings) -> Tensor:
    return reference(x[0], s.baseline)[None]


def _plain(x: Tensor, s: Settings) -> dict[str, Any]:
    return {}


def _against(x: Tensor, s: Settings) -> dict[str, Any]:
    return {"baselines": _baseline(x, s)}


def _steps(x: Tensor, s: Settings) -> dict[str, Any]:
    return {"baselines": _baseline(x, s), "n_steps": s.n, "internal_batch_size": s.batch}


def _several(x: Tensor, s: Settings) -> dict[str, Any]:
    """Eight baselines, the noisy copies of one: the distribution that the SHAP pair expects."""
    noise = torch.randn(8, *x.shape[1:], dtype=torch.float32).to(x)
    return {"baselines": _baseline(x, s) + s.sigma * (x.max() - x.min()) * noise}


def _shap(x: Tensor, s: Settings) -> dict[str, Any]:
    return {**_several(x, s), "n_samples": s.n, "stdevs": 0.0}


def _cells(x: Tensor, s: Settings) -> dict[str, Any]:
    return {"feature_mask": s.features, "perturbations_per_eval": s.batch}


def _ablate(x: Tensor, s: Settings) -> dict[str, Any]:
    return {**_cells(x, s), "baselines": _baseline(x, s)}


def _sampled(x: Tensor, s: Settings) -> dict[str, Any]:
    return {**_ablate(x, s), "n_samples": s.n}


def _fitted(x: Tensor, s: Settings) -> dict[str, Any]:
    return {**_ablate(x, s), "n_samples": s.samples}


def _every_subset(x: Tensor, s: Settings) -> dict[str, Any]:
    if s.count > 9:
        raise OptionError(
            f"captum:shapley_values visits every order of its features, and there are {s.count} of "
            "them; take fewer cells a side (3 or less of a picture), or captum:shapley_sampling"
        )
    return _ablate(x, s)


def _shuffled(x: Tensor, s: Settings) -> dict[str, Any]:
    if len(s.features.unique()) == s.features.numel():
        raise OptionError(
            "captum:feature_permutation shuffles the places within a feature, and here each is of "
            "one place; take fewer cells, or captum:feature_ablation"
        )
    return _cells(x, s)


def _slide(x: Tensor, s: Settings) -> dict[str, Any]:
    sides = tuple(map(min, s.sides, x.shape[2:]))
    steps = tuple(map(min, s.steps, sides))
    return {
        "sliding_window_shapes": (x.shape[1], *sides),
        "strides": (x.shape[1], *steps),
        "baselines": _baseline(x, s),
        "perturbations_per_eval": s.batch,
    }


ALGORITHMS = {
    "saliency": Algorithm("Saliency", _plain, slopes=True),
    "input_x_gradient": Algorithm("InputXGradient", _plain, slopes=True),
    "integrated_gradients": Algorithm("IntegratedGradients", _steps, slopes=True),
    "guided_backprop": Algorithm("GuidedBackprop", _plain, hooks=True, slopes=True),
    "deconvolution": Algorithm("Deconvolution", _plain, hooks=True, slopes=True),
    "deep_lift": Algorithm("DeepLift", _against, hooks=True, slopes=True),
    "deep_lift_shap": Algorithm("DeepLiftShap", _several, hooks=True, slopes=True),
    "gradient_shap": Algorithm("GradientShap", _shap, slopes=True),
    "feature_ablation": Algorithm("FeatureAblation", _ablate),
    "feature_permutation": Algorithm("FeaturePermutation", _shuffled),
    "occlusion": Algorithm("Occlusion", _slide),
    "shapley_sampling": Algorithm("ShapleyValueSampling", _sampled),
    "shapley_values": Algorithm("ShapleyValues", _every_subset),
    "lime": Algorithm("Lime", _fitted),
    "kernel_shap": Algorithm("KernelShap", _fitted),
}
_OF_EACH = ("baselines", "feature_mask", "sliding_window_shapes", "strides")  # not one for all
_ALSO = {
    "deeplift": "deep_lift",
    "deepliftshap": "deep_lift_shap",
    "shapleyvalue": "shapley_values",
}


@pass_method("captum", together=True)
def captum(
    runner: Runner,
    x: Tensor,
    target: Target,
    *,
    algorithm: str = "",
    n: Count | None = None,
    cells: Count = 7,
    baseline: Baseline = "zero",
    sigma: Spread = 0.1,
    window: Size = None,
    stride: Size = None,
    batch: Count = 16,
    channels: bool = False,
) -> list[Tensor]:
    """An algorithm of captum at the input, its attribution summed over the channels.

    n         steps or samples, where the algorithm takes some: 50; the linear fits of lime and
              kernel_shap take 4 for each feature of a table, and for each cell of more than 49
    cells     the perturbed features are the cells of a grid of `cells` a side; each feature of a
              table is one of its own
    baseline  zero, the mean of each channel, or a tensor of one sample's shape
    sigma     spread of the eight baselines of gradient_shap and deep_lift_shap, in ranges of x
    window, stride  of captum:occlusion, as in `occlusion`
    channels  a map of each channel instead of their sum
    Inputs that `sites=` names move together, so that what adds up to the gain does so over all of
    them; windows go over one after the other. Those that give a cell one number give it to every
    channel, so the sum counts it per channel. feature_permutation shuffles the places within a
    cell; lime's penalty is 0.01 in units of the score, so small scores may leave zeros. Raises
    MethodError, OptionError.
    """
    chosen, moving = _find(algorithm), runner.moving
    if chosen.hooks and any(is_script(part) for part in runner.model.modules()):
        raise sealed(f"captum's {chosen.name}")
    if chosen.hooks:
        _refuse_in_place(chosen, runner.model)
        note_unhooked(runner, chosen.name)
    of_cells = [_features(one, cells) for one in moving]
    count = sum(int(features.max()) + 1 for features in of_cells)
    tables = all(one.layout.axes == "c" for one in moving)
    fitted = 50 if count < 50 and not tables else max(50, 4 * count)
    settings, first = [], 0
    for one, features in zip(moving, of_cells, strict=True):
        shape, start = features.shape[2:], laid_out(baseline, one.layout, one.x)
        sizes = window_sizes(one.layout.axes, shape, window, stride)
        samples = (50, fitted) if n is None else (n, n)
        settings.append(Settings(*samples, features + first, start, sigma, *sizes, batch, count))
        first += int(features.max()) + 1
    if chosen.slopes:
        for words in runner.unseen:
            runner.note(words)
    scored = Scores(OnJointCopies(runner.model, runner.batch, moving), target)
    (generator,) = runner.generators()
    xs = [one.layout.canonical(one.x).detach() for one in moving]
    values = _attribute(chosen, scored, xs, settings, generator)
    return [v if channels else v.sum(1) for v in values]


def _features(one: MovedInput, cells: int) -> Tensor:
    """The perturbed features of an input by number: cells, or each feature of a table."""
    sample = one.layout.canonical(one.x)
    return grid(sample, max(sample.shape[2:]) if one.layout.axes == "c" else cells)


class Scores(nn.Module):
    """The model with its target: one score a copy of the sample, as captum wants it."""

    def __init__(self, model: nn.Module, target: Callable[[Any, int], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.target = target

    def forward(self, *xs: Tensor) -> Tensor:
        return self.target(self.model(*xs), len(xs[0]))


def _find(name: str) -> Algorithm:
    short = {key.replace("_", ""): key for key in ALGORITHMS} | _ALSO
    key = short.get(name.replace("_", "").lower())
    if key is None:
        names = ", ".join(ALGORITHMS)
        raise MethodError(
            f"captum has no input-level algorithm {name!r}; write captum: and one of {names}"
            f"{near(name, ALGORITHMS)}"
        )
    return ALGORITHMS[key]


def _attribute(
    algorithm: Algorithm,
    scored: Scores,
    xs: Sequence[Tensor],
    settings: Sequence[Settings],
    generator: Generator,
) -> list[Tensor]:
    """The attribution of each input, with its channels."""
    from captum import attr

    kind = getattr(attr, algorithm.name)
    with (
        guarded(scored, grad=True, evaluate=True) as undo,
        seeded(generator, xs[0]),
        warnings.catch_warnings(),
        torch.enable_grad(),
    ):
        warnings.simplefilter("ignore")
        keep_hooks(scored.modules(), undo)
        asked = [algorithm.arguments(x, s) for x, s in zip(xs, settings, strict=True)]
        arguments = {
            name: tuple(a[name] for a in asked) if name in _OF_EACH else asked[0][name]
            for name in asked[0]
        }
        if algorithm.name == "FeaturePermutation":  # it wants two samples: the sample and its twin
            tool, given = kind(scored, perm_func=shuffle), [torch.cat([x, x]) for x in xs]
        else:
            tool = kind(scored)
            given = [x.clone().requires_grad_(algorithm.slopes) for x in xs]
        try:
            values = tool.attribute(tuple(given), **arguments)
        except (AssertionError, ImportError, RuntimeError) as error:
            raise MethodError(
                f"captum's {algorithm.name} cannot explain this model: {error}; "
                "try another algorithm"
            ) from error
    return [v[:1].detach().to(x.dtype) for v, x in zip(values, xs, strict=True)]


def _refuse_in_place(algorithm: Algorithm, model: nn.Module) -> None:
    for name, module in model.named_modules():
        if getattr(module, "inplace", False):
            raise MethodError(
                f"captum's {algorithm.name} hooks activations, but {name or 'the model'!r} "
                f"({type(module).__name__}) works in place; build the model with inplace=False"
            )


def shuffle(x: Tensor, feature_mask: Tensor) -> Tensor:
    """The input with the places of one feature in random order, all channels alike."""
    places = feature_mask.expand(1, 1, *x.shape[2:])[0, 0].bool().flatten().nonzero()[:, 0]
    order = places[torch.randperm(len(places)).to(places.device)]
    flat = x.flatten(2).clone()
    flat[:, :, places] = flat[:, :, order]
    return flat.reshape(x.shape)


@contextmanager
def seeded(generator: Generator, x: Tensor) -> Iterator[None]:
    """torch's and numpy's global generators set from `generator`, and put back afterwards.

    Draws are of torch's default type, which is float32 meanwhile: another draws other numbers.
    """
    seed = int(torch.randint(2**31, (1,), generator=generator))
    devices = [x.device] if x.is_cuda else []
    kept, default = np.random.get_state(), torch.get_default_dtype()
    with torch.random.fork_rng(devices):
        torch.default_generator.manual_seed(seed)
        if x.is_cuda:
            torch.cuda.manual_seed(seed)
        np.random.seed(seed)
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(default)
            np.random.set_state(kept)
