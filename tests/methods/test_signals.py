"""Methods with a formula over every kind of signal; `make signals` runs these alone.

The truth stands in `signal_nets`: what each dimension means is known there, and maps must lie over
it; values are those of plain autograd and of loops by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import pytest
import torch
from numpy.polynomial.legendre import leggauss
from signal_formulas import AT_THE_INPUT, HIDDEN, OVER_PLACES, UP_TO_SIGN
from signal_nets import SAMPLES, SIGNALS, Signal
from torch import Tensor, nn

import limelight as ll
from limelight.methods.perturbation.rise import kept, mask
from limelight.probe.errors import MethodError, SiteError

CLASS = 1
NAMES = list(SIGNALS)
MOVABLE = [name for name in NAMES if not name.startswith("words")]
RECTIFIED = [
    name
    for name, signal in SIGNALS.items()
    if any(isinstance(m, nn.ReLU) for m in signal.build().modules())
]
NOISE, POINTS = 4, 12


def built(name: str) -> tuple[Signal, nn.Module, Any]:
    torch.manual_seed(5)
    signal = SIGNALS[name]
    return signal, signal.build().double().eval(), signal.example()


def main(signal: Signal, x: Any) -> Tensor:
    return x if signal.main is None else x[signal.main]


def with_main(signal: Signal, x: Any, tensor: Tensor) -> Any:
    return tensor if signal.main is None else {**x, signal.main: tensor}


def called(net: nn.Module, x: Any) -> Any:
    return net(**x) if isinstance(x, Mapping) else net(x)


def canonical(t: Tensor, axes: str) -> Tensor:
    """`b c` and the places, in their order; one channel where the axes name none."""
    names = axes.split()
    places = [n for n in names if n not in ("b", "c")]
    order = [names.index(n) for n in ("b", "c", *places) if n in names]
    t = t.permute(order)
    if not places:
        return t.unsqueeze(1)  # features are what a map lies over
    return t if "c" in names else t.unsqueeze(1)


def over(axes: str) -> str:
    """What a map lies over."""
    return " ".join(n for n in axes.split() if n not in ("b", "c")) or "c"


def gradients(signal: Signal, net: nn.Module, x: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """Values and gradients at the input and the hidden site, by autograd and hooks of torch."""
    held: dict[str, Tensor] = {}
    path, axes = signal.site

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            held[name] = output[0] if isinstance(output, tuple) else output

        return hook

    tensor = main(signal, x)
    hooks = [net.get_submodule(path).register_forward_hook(keep("site"))]
    if tensor.is_floating_point():
        held["input"] = tensor.clone().requires_grad_()
        x = with_main(signal, x, held["input"])
    else:
        hooks.append(net.get_submodule("embed").register_forward_hook(keep("input")))
    score = signal.scores(called(net, x))[:, CLASS].sum()
    for hook in hooks:
        hook.remove()
    grads = torch.autograd.grad(score, [held["input"], held["site"]])
    return {
        name: (canonical(held[name].detach(), names), canonical(g, names))
        for name, names, g in zip(("input", "site"), (signal.axes, axes), grads, strict=True)
    }


def found(
    signal: Signal, net: nn.Module, x: Any, methods: Any, site: str, *, one_place: bool = False
) -> dict[str, Tensor]:
    """Maps by method, samples first; they lie over what the truth says, or are one number each."""
    axes = signal.axes if site == "input" else signal.site[1]
    lies = "" if one_place else over(axes)
    target = ll.label(CLASS, **signal.options)
    maps = ll.maps(net, x, methods, target=target, sites=site, axes=signal.said or None)
    result: dict[str, list[Tensor]] = {}
    for m in maps:
        assert m.axes == lies, f"{m.method} at {m.site} lies over {m.axes}"
        result.setdefault(m.method, []).append(m.values)
    assert all(len(rows) == SAMPLES for rows in result.values())
    return {name: torch.stack(rows) for name, rows in result.items()}


def assert_same(name: str, one: Tensor, other: Tensor) -> None:
    other = other.detach()
    other = other[:, 0] if other.ndim > one.ndim else other
    torch.testing.assert_close(
        one.double(), other, rtol=1e-6, atol=1e-9, msg=lambda told: f"{name}: {told}"
    )


@pytest.mark.parametrize("name", NAMES)
def test_maps_of_gradients(name: str) -> None:
    signal, net, x = built(name)
    truth = gradients(signal, net, x)
    at_input = found(signal, net, x, [*AT_THE_INPUT, *HIDDEN], "input")
    at_site = found(signal, net, x, [*AT_THE_INPUT, *HIDDEN], signal.site[0])
    for maps, (act, grad) in zip((at_input, at_site), (truth["input"], truth["site"]), strict=True):
        for text, formula in {**AT_THE_INPUT, **HIDDEN}.items():
            key = ll.use(text).name
            assert_same(key, maps[key], formula(act, grad))


@pytest.mark.parametrize("name", NAMES)
def test_maps_of_means_over_places(name: str) -> None:
    signal, net, x = built(name)
    path, axes = signal.site
    act, grad = gradients(signal, net, x)["site"]
    single = over(axes) == "c"
    if single:  # features are the channels of one place
        act, grad = act.mT, grad.mT
    maps = found(signal, net, x, list(OVER_PLACES), path, one_place=single)
    for text, formula in OVER_PLACES.items():
        key = ll.use(text).name
        values = formula(act, grad)
        assert_same(key, maps[key], values[:, 0] if single else values)
    if single:
        for text in (*UP_TO_SIGN, "band_energy"):
            with pytest.raises(SiteError, match="no positions to draw a map over"):
                found(signal, net, x, text, path)
        return
    maps = found(signal, net, x, list(UP_TO_SIGN), path)
    for text, formula in UP_TO_SIGN.items():
        key = ll.use(text).name
        assert_same(key, maps[key].abs(), formula(act, grad).abs())


def moved(signal: Signal, net: nn.Module, x: Any, points: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients at other points, `b c` and places, and the scores there."""
    names = signal.axes.split()
    places = [n for n in names if n not in ("b", "c")]
    leaf = points.clone().requires_grad_()
    inner = [n for n in ("b", "c", *places) if n in names]
    tensor = leaf[:, 0] if "c" not in names or not places else leaf
    tensor = tensor.permute([inner.index(n) for n in names])
    score = signal.scores(called(net, with_main(signal, x, tensor)))[:, CLASS]
    return torch.autograd.grad(score.sum(), leaf)[0], score.detach()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in MOVABLE])
def test_ids_are_not_moved(name: str) -> None:
    signal, net, x = built(name)
    for method in ("smoothgrad,n=2", "integrated_gradients,n=2"):
        with pytest.raises(MethodError, match="give inputs_embeds instead of ids"):
            found(signal, net, x, method, "input")


@pytest.mark.parametrize("name", MOVABLE)
def test_averages_over_noise(name: str) -> None:
    signal, net, x = built(name)
    start = gradients(signal, net, x)["input"][0]
    maps = []
    draws = [torch.Generator().manual_seed(i) for i in range(SAMPLES)]
    for _ in range(NOISE):
        noise = torch.stack(
            [torch.randn(s.shape, generator=g) for s, g in zip(start, draws, strict=True)]
        )
        reach = 0.2 * (start.flatten(1).amax(1) - start.flatten(1).amin(1))
        points = start + noise.double() * reach.reshape(-1, *(1,) * (start.ndim - 1))
        maps.append(moved(signal, net, x, points)[0].abs().amax(1))
    readings = torch.stack(maps)
    asked = {
        "smoothgrad": readings.mean(0),
        "squaregrad": readings.square().mean(0),
        "vargrad": readings.var(0, unbiased=False),
    }
    specs = [f"{method},n={NOISE},sigma=0.2" for method in asked]
    given = found(signal, net, x, specs, "input")
    for spec, (method, values) in zip(specs, asked.items(), strict=True):
        assert_same(method, given[ll.use(spec).name], values)


@pytest.mark.parametrize("name", MOVABLE)
def test_integrals_along_the_line(name: str) -> None:
    """The quadrature by hand, and what it approaches: the score gained on the way."""
    signal, net, x = built(name)
    end = gradients(signal, net, x)["input"][0]
    total = torch.zeros_like(end)
    for node, weight in zip(*leggauss(POINTS), strict=True):
        total += weight / 2 * moved(signal, net, x, (node + 1) / 2 * end)[0]
    spec = f"integrated_gradients,n={POINTS}"
    values = found(signal, net, x, spec, "input")[ll.use(spec).name]
    assert_same(spec, values, (end * total).sum(1))
    gained = moved(signal, net, x, end)[1] - moved(signal, net, x, torch.zeros_like(end))[1]
    fine = found(signal, net, x, "integrated_gradients,n=150", "input")
    sums = next(iter(fine.values())).flatten(1).sum(1)
    torch.testing.assert_close(sums.double(), gained, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("name", [name for name, signal in SIGNALS.items() if signal.linear])
def test_relevance_of_piecewise_linear_nets_is_input_times_gradient(name: str) -> None:
    signal, net, x = built(name)
    act, grad = gradients(signal, net, x)["input"]
    values = found(signal, net, x, "lrp:lrp0", "input")
    torch.testing.assert_close(
        next(iter(values.values())).double(), (act * grad).sum(1), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("name", RECTIFIED)
def test_what_passes_rectifiers(name: str) -> None:
    """Guided backpropagation and deconvolution, by hooks on the backward of every nn.ReLU."""
    signal, net, x = built(name)
    rectifiers = [m for m in net.modules() if isinstance(m, nn.ReLU)]

    def guided(module: nn.Module, given: Any, received: Any) -> Any:
        return (given[0].clamp(min=0),)

    def deconv(module: nn.Module, given: Any, received: Any) -> Any:
        return (received[0].clamp(min=0),)

    for method, rule in (("guided_backprop", guided), ("deconvnet", deconv)):
        hooks = [m.register_full_backward_hook(rule) for m in rectifiers]
        grad = gradients(signal, net, x)["input"][1]
        for hook in hooks:
            hook.remove()
        assert_same(method, found(signal, net, x, method, "input")[method], grad.abs().amax(1))


def place_dims(axes: str) -> list[int]:
    """The dimensions that a map lies over."""
    names = axes.split()
    return [names.index(n) for n in over(axes).split()]


def spread(values: Tensor, axes: str) -> Tensor:
    """Values over the places, shaped to multiply an input of these axes."""
    sides = dict(zip(place_dims(axes), values.shape, strict=True))
    return values.reshape([sides.get(dim, 1) for dim in range(len(axes.split()))])


def scores_of(signal: Signal, net: nn.Module, x: Any, tensor: Tensor) -> Tensor:
    with torch.no_grad():
        return signal.scores(called(net, with_main(signal, x, tensor)))[:, CLASS]


@pytest.mark.parametrize("name", MOVABLE)
def test_covered_parts(name: str) -> None:
    """Every window set to zero: what the score loses; windows lie side by side, cut at the edge."""
    signal, net, x = built(name)
    whole = main(signal, x)
    shape = [whole.shape[dim] for dim in place_dims(signal.axes)]
    lost = torch.zeros(SAMPLES, *shape).double()
    for corner in product(*(range(0, side, 4) for side in shape)):
        shown = torch.ones(shape).double()
        area = tuple(slice(start, start + 4) for start in corner)
        shown[area] = 0
        covered = scores_of(signal, net, x, whole * spread(shown, signal.axes))
        drop = scores_of(signal, net, x, whole) - covered
        lost[(slice(None), *area)] = drop.reshape(-1, *[1] * len(shape))
    spec = "occlusion,window=4,stride=4"
    values = found(signal, net, x, spec, "input")[ll.use(spec).name]
    torch.testing.assert_close(values.double(), lost, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", MOVABLE)
def test_random_masks(name: str) -> None:
    """RISE by hand: the score of every masked input times its mask; features each on their own."""
    signal, net, x = built(name)
    whole = main(signal, x)
    shape = [whole.shape[dim] for dim in place_dims(signal.axes)]
    total = torch.zeros(SAMPLES, *shape).double()
    for i in range(SAMPLES):
        draw = torch.Generator().manual_seed(i)
        for _ in range(8):
            alone = over(signal.axes) == "c"
            shown = kept(shape, 0.5, draw) if alone else mask(shape, 3, 0.5, draw)
            masked = whole * spread(shown.double(), signal.axes)
            total[i] += scores_of(signal, net, x, masked)[i] * shown
    spec = "rise,n=8,cells=3,p=0.5"
    values = found(signal, net, x, spec, "input")[ll.use(spec).name]
    torch.testing.assert_close(values.double(), total / (8 * 0.5), rtol=1e-4, atol=1e-5)
