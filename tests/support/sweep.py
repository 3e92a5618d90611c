"""What the probe must hold on any foreign model; shared by the quick tests and the sweep."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import limelight as ll
from limelight.probe.trace.pytree import first_tensor


@dataclass(frozen=True)
class Row:
    """One model's result; `difference` is relative to the output's largest value."""

    name: str
    seconds: float
    layers: int
    grids: int
    heads: int
    holes: int
    difference: float

    def __str__(self) -> str:
        return (
            f"{self.name:42s} {self.seconds:6.2f} s  layers {self.layers:3d}  "
            f"on a grid {self.grids:3d}  attention {self.heads:3d}  holes {self.holes}  "
            f"difference {self.difference:.0e}"
        )


def call(model: nn.Module, x: Any) -> Any:
    return model(**x) if isinstance(x, Mapping) else model(x)


def liven(model: nn.Module) -> None:
    """Give parameters that start at zero, or too small to carry a signal, some random values."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() == 0:
                continue
            if parameter.ndim > 1:
                least = (parameter[0].numel()) ** -0.5
            else:
                least = 0.05 if parameter.abs().max() < 1e-3 else 0.0
            if parameter.square().mean().sqrt() < 0.9 * least:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * least)


def calibrate(model: nn.Module, x: Any) -> None:
    """One pass in train mode that gives batch norms the statistics of this input."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            call(model.train(), x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def score(output: Any) -> Tensor:
    """Some fixed mixture of the main output, one number per sample."""
    flat = first_tensor(output).flatten(1)
    mixture = torch.randn(flat.shape[1], generator=torch.Generator().manual_seed(1))
    return flat @ mixture / flat.shape[1] ** 0.5


def probe_model(
    name: str, model: nn.Module, x: Any, *, grid: bool = True, talking: bool = False
) -> Row:
    """Probe a model at every hidden layer and attention module, and check what must hold.

    grid     whether the hidden layers lie on the picture
    talking  whether the model mixes its maps again after the softmax
    """
    liven(model)
    calibrate(model, x)
    model.train()
    before = snapshot(model)
    model.eval()
    with torch.no_grad():
        reference = first_tensor(call(model, x)).clone()
    model.train()
    start = time.perf_counter()
    with ll.Probe(model) as probe:
        told = probe.adapter
        probe.watch("hidden", "last")
        for path in told.heads:
            probe.watch(*(f"{path}:{port}" for port in ("q", "k", "v", "map", "heads")))
        output = probe(**x) if isinstance(x, Mapping) else probe(x)
        found = [*probe.maps(["normgrad"], target=score, sites="hidden")]
        found += probe.maps(["gradcam", "normgrad"], target=score, sites="last", retain=False)
        trace = probe.trace
    seconds = time.perf_counter() - start
    moved = first_tensor(output).detach() - reference
    difference = float(moved.abs().max() / reference.abs().max())
    dead = told.hidden[-1:] if told.final else ()  # only the class token is read behind it
    placed = check_maps([m for m in found if m.site.path not in dead], grid)
    for path in told.heads:
        check_heads(trace, path, talking=talking)
    check_restored(model, before, x, reference)
    assert difference < 1e-5, f"the output moved by {difference}"
    assert not trace.holes, str(trace.holes)
    return Row(name, seconds, len(told.hidden), placed, len(told.heads), 0, difference)


def check_maps(maps: Any, grid: bool) -> int:
    """Every map is finite and, for normgrad, alive; on pictures every one lies on a grid."""
    for m in maps:
        assert m.values.isfinite().all(), f"{m.method} at {m.site}"
        assert m.method == "gradcam" or m.values.abs().max() > 0, f"{m.method} at {m.site}"
        assert not grid or m.axes.endswith("y x"), f"{m.site} has axes {m.axes}"
    return sum(m.axes.endswith("y x") for m in maps if m.method == "normgrad" and m.sample == "0")


def check_heads(trace: Any, path: str, *, talking: bool) -> None:
    """Rows of the map sum to one, and the map mixes the values into the heads."""
    for site in trace.where(f"{path}:map"):
        mixing = trace[site].act
        twin = {port: trace[f"{path}:{port}@{site.call}"].act for port in ("v", "heads")}
        assert torch.allclose(mixing.sum(-1), torch.ones(()), atol=1e-4), str(site)
        times = mixing.shape[1] // twin["v"].shape[1]
        mixed = mixing @ twin["v"].repeat_interleave(times, 1)
        error = (mixed - twin["heads"]).abs().max() / mixed.abs().max()
        assert talking or error < 1e-4, f"the map at {site} gives other heads, by {error}"


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that a probe touches."""
    return {
        "training": [m.training for m in model.modules()],
        "frozen": [p.requires_grad for p in model.parameters()],
        "grad": [p.grad is None for p in model.parameters()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "names": [sorted(vars(m)) for m in model.modules()],
        "state": {n: v.clone() for n, v in model.state_dict().items()},
    }


def check_restored(model: nn.Module, before: dict[str, Any], x: Any, reference: Tensor) -> None:
    """The model is as it was, and says what it said."""
    after = snapshot(model)
    state, kept = after.pop("state"), before.pop("state")
    assert after == before
    assert all(torch.equal(v, kept[n]) for n, v in state.items())
    with torch.no_grad():
        assert torch.equal(first_tensor(call(model.eval(), x)), reference)
