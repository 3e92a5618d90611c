"""What it costs to keep the values of many sites: microseconds a site on 200 small layers."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Iterator
from unittest import mock

import torch
from captum.attr import LayerActivation
from measure import Ratio, Row, Work, rounds
from torch import Tensor, nn

import limelight as ll

SITES = 200


def chain() -> nn.Sequential:
    """The network: small layers, so that nothing hides the hooks."""
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(16, 16) for _ in range(SITES)]).eval()


def lens_chain() -> nn.Module:
    """The same chain with TransformerLens' hook points."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformer_lens import HookedRootModule
        from transformer_lens.hook_points import HookPoint

    class Chain(HookedRootModule):
        def __init__(self) -> None:
            super().__init__()
            self.layers = chain()
            self.points = nn.ModuleList([HookPoint() for _ in range(SITES)])
            self.setup()

        def forward(self, x: Tensor) -> Tensor:
            for layer, point in zip(self.layers, self.points, strict=True):
                x = point(layer(x))
            return x

    return Chain().eval()


def rows(count: int) -> Iterator[Row]:
    """Cost a site, ours and the peers', and hooks installed by later runs."""
    net, x = chain(), torch.randn(2, 16)
    probe = ll.Probe(net, grad=False).watch("*")
    with torch.no_grad(), probe:
        variants = _variants(net, x, probe)
        _check(net, x, probe)
        times = rounds(variants, count, repeats=4)
        yield from _costs(times)
    yield _new_hooks(probe, x)


def _variants(net: nn.Sequential, x: Tensor, probe: ll.Probe) -> dict[str, Work]:
    lens, captum = lens_chain(), LayerActivation(net, list(net))
    hooked, kept = chain(), {}

    def keep(place: int) -> object:
        return lambda module, args, out: kept.__setitem__(place, out.detach())

    for i, layer in enumerate(hooked):
        layer.register_forward_hook(keep(i))
    again = ll.Probe(net, grad=False).watch("*")

    def enter_again() -> None:
        with again:
            again(x)

    return {
        "bare": lambda: net(x),
        "plain hooks": lambda: hooked(x),
        "limelight": lambda: probe(x),
        "limelight, entered anew": enter_again,
        "limelight, trace": lambda: ll.trace(net, x, "*"),
        "captum": lambda: captum.attribute(x),
        "bare lens": lambda: lens(x),
        "TransformerLens": lambda: lens.run_with_cache(x),
    }


def _check(net: nn.Sequential, x: Tensor, probe: ll.Probe) -> None:
    probe(x)
    value = x
    for layer, (site, kept) in zip(net, list(probe.trace.items()), strict=True):
        value = layer(value)
        if not torch.equal(kept.act, value):
            raise ValueError(f"the value kept at {site} is wrong")


def _costs(times: dict[str, list[float]]) -> Iterator[Row]:
    def cost(name: str, bare: str = "bare") -> list[float]:
        spent = zip(times[name], times[bare], strict=True)
        return [max((a - b) / SITES * 1e6, 0.01) for a, b in spent]

    mine = cost("limelight")
    for name in ("plain hooks", "captum", "limelight, trace", "limelight, entered anew"):
        yield Row(f"caching 200 sites: {name}", _micro(cost(name)), "for comparison", True)
    lens = cost("TransformerLens", "bare lens")
    yield Row("caching 200 sites: TransformerLens", _micro(lens), "for comparison", True)
    what = "caching 200 sites: limelight"
    yield Row.most(what, statistics.median(mine), 8, _micro(mine).removesuffix(" us"), "us a site")
    for name, peer in (("captum", cost("captum")), ("TransformerLens", lens)):
        ratios = [a / b for a, b in zip(mine, peer, strict=True)]
        low, *_, high = statistics.quantiles(ratios, n=10)
        ratio = Ratio(statistics.median(ratios), low, high)
        what = f"caching 200 sites: limelight over {name} (range: tenths)"
        yield Row.most(what, ratio.median, 0.35, ratio)


def _micro(costs: list[float]) -> str:
    low, *_, high = statistics.quantiles(costs, n=10)
    return f"{statistics.median(costs):.1f} ({low:.1f} to {high:.1f}, tenths) us"


def _new_hooks(probe: ll.Probe, x: Tensor) -> Row:
    names = ("register_forward_hook", "register_forward_pre_hook")
    counted = [mock.patch.object(nn.Module, n, autospec=True) for n in names]
    with counted[0] as after, counted[1] as before, probe:
        probe(x)
        probe(x)
        new = after.call_count + before.call_count
    return Row.most("hooks registered by entering a probe again", new, 0, str(new), "hooks")
