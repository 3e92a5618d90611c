"""Golden cases of methods, with the activations and gradients they are computed from."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import fill
import numpy as np
import pytest
import torch
from torch import Tensor, nn

FOLDER = Path(__file__).parent.parent / "parity"

torch.set_num_threads(1)

UNIT = 2.0**-24  # the largest relative error of one rounding to float32
RUNS = 24  # in float32, at most, of inputs beside a case's own
LOUDEST = 0.1  # share of the largest value that float32 may be off by

# The outputs of a case, by key, from a model and its input in any precision.
Compute = Callable[[nn.Module, Any], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Case:
    """What a case's JSON says and its arrays."""

    about: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def outputs(self) -> dict[str, dict[str, Any]]:
        return {o["key"]: o for o in self.about["outputs"]}

    @property
    def telling(self) -> list[str]:
        """The outputs that say something: not those that the case calls vacuous."""
        vacuous = self.about.get("vacuous", {})
        empty = {*vacuous.get("constant", ()), *vacuous.get("nonfinite", ())}
        return [key for key in self.outputs if key not in empty]

    def check(
        self,
        compute: Compute,
        net: nn.Module,
        x: Any,
        *,
        relative: float = 0.0,
        absolute: float | Mapping[str, float] = 0.0,
    ) -> set[str]:
        """Compare what `compute` gives in float64 with the stored values; the keys compared.

        The stored values are float32 and so have an error of their own. What is allowed is the
        tolerance, `relative` to the largest stored |value| and `absolute` for all outputs or by
        key, and float32's error for that very output, measured here: the largest difference
        between our float32 and our float64 result. Where one float32 run is luckier than the
        recorded one, more of them follow, of inputs that float32 can hardly tell apart. A float32
        that leaves no digit is a mistake of its own.
        """
        wide_net, wide_x = copy.deepcopy(net).double(), widened(x)
        exact, rounded = compute(wide_net, wide_x), compute(net, x)
        assert exact
        assert rounded.keys() == exact.keys()
        noise = {key: difference(rounded[key], exact[key]) for key in exact}
        if isinstance(absolute, float):
            absolute = dict.fromkeys(exact, absolute)
        bars = {k: absolute.get(k, 0.0) + relative * self.largest(k) for k in exact}
        off = {key: self.off(key, exact[key]) for key in exact}
        for near in neighbours(x):
            if all(off[key] <= bars[key] + noise[key] for key in exact):
                break
            rounded = compute(net, near)
            noise = {k: max(n, difference(rounded[k], exact[k])) for k, n in noise.items()}
        for key, bar in bars.items():
            allowed = f"allowed {bar:.3g} and float32's error of {noise[key]:.3g}"
            assert off[key] <= bar + noise[key], f"{key}: off by {off[key]:.3g}, {allowed}"
            share = noise[key] / self.largest(key)
            assert share < LOUDEST, f"{key}: our float32 is off by {share:.1e} of the largest value"
        return set(exact)

    def off(self, key: str, values: Tensor) -> float:
        """The largest difference from the stored part of an output."""
        return difference(self._stored_part(key, values), torch.from_numpy(self.arrays[key]))

    def largest(self, key: str) -> float:
        """The largest |value| of an output."""
        largest = max(abs(self.outputs[key]["min"]), abs(self.outputs[key]["max"]))
        assert largest > 0
        return largest

    def _stored_part(self, key: str, values: Tensor) -> Tensor:
        about = self.outputs[key]
        assert values.numel() == np.prod(about["shape"]), (key, values.shape)
        part = values.reshape(about["shape"])
        if about["store"].startswith("stride"):
            step = int(about["store"].removeprefix("stride"))
            return part[..., ::step, ::step]
        if about["store"].startswith("first"):
            return part.flatten()[: int(about["store"].removeprefix("first"))]
        return part


def difference(one: Tensor, other: Tensor) -> float:
    return (one.detach().double() - other.detach().double()).abs().max().item()


def widened(x: Any) -> Any:
    """Inputs in float64; what is no float stays."""
    if isinstance(x, dict):
        return {name: widened(value) for name, value in x.items()}
    return x.double() if x.is_floating_point() else x


def neighbours(x: Any) -> Iterator[Any]:
    """Inputs about one unit of float32 away; none of token numbers."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(RUNS if isinstance(x, Tensor) else 0):
        yield x * (1 + 2 * UNIT * torch.randn(x.shape, generator=generator))


@cache
def case(name: str) -> Case:
    return Case(
        json.loads((FOLDER / f"{name}.json").read_text()),
        dict(np.load(FOLDER / f"{name}.npz")),
    )


@lru_cache(maxsize=3)  # VGG-16 alone is half a gigabyte
def model(name: str) -> nn.Module:
    """The case's model with its rebuilt weights, in eval mode."""
    models = pytest.importorskip("limelight.models")
    about = case(name).about
    built = models.load(about["constructor"]["name"].rsplit(".", 1)[-1], weights=None)
    fill.fill(built, about["salt"])
    with torch.no_grad():
        for p in built.parameters():
            if p.ndim >= 2:
                p.mul_(about["gain"])
    return built.eval().requires_grad_(False)


def inputs(name: str) -> Tensor:
    about = case(name).about["input"]
    return torch.from_numpy(fill.image(tuple(about["shape"]), about["seed"]))


@dataclass(frozen=True)
class Reading:
    """What a probe would hand to a method at one site."""

    act: Tensor
    grad: Tensor
    inputs: Tensor
    module: nn.Module

    def __call__(self, bound: Any) -> Tensor:
        return bound(*(getattr(self, need) for need in bound.method.needs))


def read(
    net: nn.Module, x: Tensor, score: Callable[[Tensor], Tensor], sites: Iterable[str]
) -> dict[str, Reading]:
    """Activation and gradient at each named module, and at the input under `input`."""
    x = x.clone().requires_grad_()
    seen: dict[str, tuple[Tensor, Tensor]] = {"input": (x, x)}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            seen[name] = (args[0], out)

        return hook

    modules = {name: net.get_submodule(name) for name in sites if name != "input"}
    handles = [m.register_forward_hook(keep(name)) for name, m in modules.items()]
    try:
        total = score(net(x)).sum()
    finally:
        for handle in handles:
            handle.remove()
    grads = torch.autograd.grad(total, [out for _, out in seen.values()])
    return {
        name: Reading(out.detach(), grad, entering.detach(), modules.get(name, net))
        for (name, (entering, out)), grad in zip(seen.items(), grads, strict=True)
    }


class _Rectifier(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.gate = gate
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, p: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        p = p.clamp(min=0)
        return (p * (x > 0) if ctx.gate else p), None


class Rectifier(nn.Module):
    """A ReLU with the backward of guided backpropagation (gate) or the deconvnet."""

    def __init__(self, gate: bool) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        return _Rectifier.apply(x, self.gate)


def rectified(net: nn.Module, regime: str) -> nn.Module:
    """A copy of the model whose ReLUs follow a regime, `guided` or `deconv`."""
    twin = copy.deepcopy(net)
    for module in list(twin.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, Rectifier(regime == "guided"))
    return twin


def generators(count: int) -> list[torch.Generator]:
    """Those of the first samples of a call with seed 0."""
    return [torch.Generator().manual_seed(i) for i in range(count)]


def run(spec: Any, net: nn.Module, x: Any, target: Any, **options: Any) -> Tensor:
    """The maps of one method at one site, sample by sample, `b` and the places."""
    import limelight as ll

    return ll.maps(net, x, spec, target=target, **options).stack()


def walk(path: Any, net: nn.Module, x: Tensor, target: Any) -> Tensor:
    """A path method as a runner would drive it, at the input."""
    from limelight.probe.attribution.registry import use

    rows = []
    for i, generator in enumerate(generators(len(x))):
        state, one = None, target.take([i])
        for k in range(path.points.count):
            reading = read(net, path.points(x[i], k, generator)[None], one, [])["input"]
            value = reading.grad if path.base == "raw" else reading(use(path.base))
            state = path.fold(state, value, k)
        end = x[i : i + 1]
        end = end if path.line is None else end - path.starts(end)
        rows.append(path.finish(state, path.points.count, end))
    return torch.cat(rows)
