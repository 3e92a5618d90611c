"""Golden cases of methods, with the activations and gradients they are computed from."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import fill
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limelight.probe.attribution.registry import use

FOLDER = Path(__file__).parent.parent / "parity"

torch.set_num_threads(1)


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
        self, key: str, found: Tensor, *, relative: float = 0.0, absolute: float = 0.0
    ) -> None:
        """Compare with the stored part of an output; `relative` to its largest |value|."""
        about, stored = self.outputs[key], torch.from_numpy(self.arrays[key])
        assert found.numel() == np.prod(about["shape"])
        part = found.reshape(about["shape"])
        if about["store"].startswith("stride"):
            step = int(about["store"].removeprefix("stride"))
            part = part[..., ::step, ::step]
        largest = max(abs(about["min"]), abs(about["max"]))
        assert largest > 0
        bar = absolute + relative * largest
        worst = (part.double() - stored.double()).abs().max().item()
        assert worst <= bar, f"{key}: off by {worst:.3g}, allowed {bar:.3g}"


@cache
def case(name: str) -> Case:
    return Case(
        json.loads((FOLDER / f"{name}.json").read_text()),
        dict(np.load(FOLDER / f"{name}.npz")),
    )


@cache
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


class Runner:
    """The part of a runner that pass methods ask for, without micro-batches."""

    def __init__(self, net: nn.Module, site: str = "input", seed: int = 0) -> None:
        self.model, self.site, self.seed, self.calls = net, site, seed, 0

    def scores(self, x: Tensor, target: Any) -> Tensor:
        self.calls += len(x)
        with torch.no_grad():
            return target(self.model(x))

    def classes(self, x: Tensor, target: Any) -> Tensor:
        return target.rows.expand(len(x))

    def generators(self, x: Tensor) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(self.seed + i) for i in range(len(x))]

    def maps(
        self, x: Tensor, target: Any, bounds: list, pattern: str, weights: dict | None = None
    ) -> list[Tensor]:
        net = copy.deepcopy(self.model)
        if weights is not None:
            net.load_state_dict(weights, strict=False)
        reading = read(net, x, target, [pattern])[pattern]
        return [reading(bound) for bound in bounds]


def walk(path: Any, net: nn.Module, x: Tensor, target: Any) -> Tensor:
    """A path method as a runner would drive it, at the input."""
    from limelight.probe.attribution.registry import use

    rows = []
    for i, generator in enumerate(Runner(net).generators(x)):
        state, one = None, target.take([i])
        for k in range(path.points.count):
            reading = read(net, path.points(x[i], k, generator)[None], one, [])["input"]
            value = reading.grad if path.base == "raw" else reading(use(path.base))
            state = path.fold(state, value, k)
        rows.append(path.finish(state, path.points.count, x[i : i + 1]))
    return torch.cat(rows)


SITE_METHODS = {
    "gradient": "gradient",
    "gradient_sum": "gradient_sum",
    "grad_cam": "gradcam",
    "linear_approx": "linear_approx",
    "norm_grad": "normgrad",
    "norm_grad_selective": "normgrad_selective",
    "norm_grad_proper": "normgrad_proper",
}


CAMS = {
    "GradCAM": "gradcam",
    "GradCAMPlusPlus": "gradcam_plus_plus",
    "HiResCAM": "hirescam",
    "LayerCAM": "layercam",
    "XGradCAM": "xgradcam",
    "GradCAMElementWise": "gradcam_elementwise",
    "EigenCAM": "eigencam",
    "EigenGradCAM": "eigengradcam",
}


def _as_cam(values: Tensor, size: int) -> Tensor:
    """As pytorch-grad-cam shows a map: [0, 1], then bilinear; scaled once more over the layers."""
    low = values.clamp(min=0) - values.clamp(min=0).min()
    scaled = (low / (low.max() + 1e-7))[:, None]
    large = F.interpolate(scaled, (size, size), mode="bilinear", align_corners=False)[:, 0]
    return (large - large.min()) / (large.max() - large.min() + 1e-7)


def check_cams(golden: Case, readings: dict[str, Reading], size: int) -> int:
    """Compare every CAM; eigenvectors are equal up to their sign. Returns how many there were."""
    checked = 0
    for key in golden.telling:
        if key.startswith("cam."):
            _, kind, site = key.split(".", 2)
            found = readings[site](use(CAMS[kind]))
            if kind.startswith("Eigen"):
                signed = readings[site](use(CAMS[kind], relu=False))
                shown = [_as_cam(v, size) for v in (signed, -signed)]
                flat = golden.arrays[key]
                step = int(golden.outputs[key]["store"].removeprefix("stride") or 1)
                near = [(v[..., ::step, ::step].numpy() - flat).__abs__().max() for v in shown]
                golden.check(key, shown[int(near[1] < near[0])], absolute=2e-3)
            else:
                golden.check(key, _as_cam(found, size), absolute=2e-3)
            checked += 1
    return checked
