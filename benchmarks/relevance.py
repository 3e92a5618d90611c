"""Relevance beside zennit and captum: VGG-16 by two composites, DeiT-tiny with held maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from captum.attr import LRP
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule
from measure import Ratio, Row, Work, close, rounds
from memory import MIB, peak
from networks import Case, frozen, grad_cam, one_pass, random_net
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.utils._python_dispatch import TorchDispatchMode

import limelight as ll
from limelight.probe.relevance.presets import Preset

SPECS = {
    "epsilon_plus": "lrp:epsilon_plus,init=one",
    "epsilon_gamma_box": "lrp:epsilon_gamma_box,init=one,low=-3,high=3",
}
Maps = Callable[[Case], Tensor]


def rows(count: int) -> Iterator[Row]:
    """Speed on VGG-16 at two batch sizes and on DeiT-tiny, peaks of memory, passes counted."""
    grad_cam()  # where torchvision was built for another torch, zennit could not be imported
    error = _check(Case.vgg16())
    yield Row("relevance on VGG-16: largest difference from zennit", error, "at most 1e-05", True)
    yield from _beside_peers(Case.vgg16(), count)
    yield from _beside_peers(Case.vgg16(8), min(count, 3), warm=False)
    yield _held_maps(count)
    yield from _counted(Case.vgg16())
    yield from _peaks()


def epsilon_plus(case: Case) -> Tensor:
    """limelight's z+ and epsilon rules, from 1 at the top class."""
    return _ours(case, "epsilon_plus")


def epsilon_gamma_box(case: Case) -> Tensor:
    """limelight's box, gamma and epsilon rules, from 1 at the top class."""
    return _ours(case, "epsilon_gamma_box")


def zennit_plus(case: Case) -> Tensor:
    """zennit's EpsilonPlus."""
    from zennit.composites import EpsilonPlus

    return _zennit(case, EpsilonPlus(layer_map=_exact_pool()))


def zennit_box(case: Case) -> Tensor:
    """zennit's EpsilonGammaBox."""
    from zennit.composites import EpsilonGammaBox

    return _zennit(case, EpsilonGammaBox(low=-3.0, high=3.0, layer_map=_exact_pool()))


def captum_plus(case: Case) -> Tensor:
    """captum's LRP with its alpha-1-beta-0 rule in convolutions: no negative weights at all."""
    with torch.no_grad():
        top = case.net(case.x).argmax(1)
    for module in case.net.modules():
        if isinstance(module, nn.Conv2d):
            module.rule = Alpha1_Beta0_Rule()
        elif not list(module.children()) and not isinstance(module, (nn.ReLU, nn.Dropout)):
            module.rule = EpsilonRule()
    return LRP(case.net).attribute(case.x, target=top).sum(1).detach()


def _ours(case: Case, preset: str) -> Tensor:
    return ll.maps(case.net, case.x, SPECS[preset]).stack()


def _exact_pool() -> list[tuple[Any, Any]]:
    """VGG's average pool moves nothing at 224, but zennit's rule for it absorbs a share."""
    from zennit.rules import Pass
    from zennit.types import AvgPool

    return [(AvgPool, Pass())]


def _zennit(case: Case, composite: Any) -> Tensor:
    from zennit.attribution import Gradient

    def start(output: Tensor) -> Tensor:
        return one_hot(output.argmax(1), output.shape[1]).to(output)

    with Gradient(case.net, composite, start) as attributor:
        return attributor(case.x)[1].sum(1).detach()


def _check(case: Case) -> str:
    """Both presets give zennit's values. Raises ValueError where they do not."""
    pairs = ((epsilon_plus, zennit_plus), (epsilon_gamma_box, zennit_box))
    return f"{max(close(mine(case), peer(case), 1e-5) for mine, peer in pairs):.0e}"


def _beside_peers(case: Case, count: int, warm: bool = True) -> Iterator[Row]:
    """Ours over zennit at equal values, and both and captum in units of one pass."""
    every: list[Maps] = [epsilon_plus, zennit_plus, epsilon_gamma_box, zennit_box, captum_plus]
    variants: dict[str, Work] = {work.__name__: _bound(work, case) for work in every}
    times = rounds({"pass": frozen(case, one_pass), **variants}, count, warm=warm)
    where = f"relevance on {case.name}, batch {len(case.x)}"
    for mine, peer in ((epsilon_plus, zennit_plus), (epsilon_gamma_box, zennit_box)):
        ratio = Ratio.of(times[mine.__name__], times[peer.__name__])
        yield Row.most(f"{where}: {mine.__name__} over zennit", ratio.median, 0.6, ratio)
    for work in every:
        ratio = Ratio.of(times[work.__name__], times["pass"])
        yield Row(f"{where}: {work.__name__}", f"{ratio} F", "for comparison", True)


def _bound(work: Maps, case: Case) -> Work:
    return lambda: work(case)


def _held_maps(count: int) -> Row:
    """Relevance with held attention maps over one pass."""
    net, x = random_net("deit_tiny"), torch.randn(1, 3, 224, 224)
    case = Case("DeiT-tiny", net, x, (), (), 1.3)
    hold = ll.use("lrp", preset=Preset("hold"))
    times = rounds(
        {"pass": frozen(case, one_pass), "ours": lambda: ll.maps(net, x, hold)}, 3 * count
    )
    ratio = Ratio.of(times["ours"], times["pass"])
    what = "relevance on DeiT-tiny, held maps"
    return Row.most(what, ratio.median, case.limit, ratio, "F")


@dataclass
class Counts(TorchDispatchMode):
    """Counts the operators that run."""

    def __post_init__(self) -> None:
        super().__init__()
        self.by_name: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.by_name[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def _counted(case: Case) -> Iterator[Row]:
    """What plain gradients add to relevance: no forward, and one backward's convolutions."""
    lrp = SPECS["epsilon_plus"]
    alone, both = _calls(case, [lrp]), _calls(case, [lrp, "gradient", "input_x_gradient"])
    layers = sum(isinstance(m, nn.Conv2d) for m in case.net.modules())
    more = both["forward"] - alone["forward"]
    what = "plain gradients beside relevance"
    yield Row.most(f"{what}: forwards added to {alone['forward']}", more, 0, str(more), "forwards")
    more = both["convolution"] - alone["convolution"]
    yield Row.most(f"{what}: convolutions added", more, 0, str(more), "convolutions")
    more = both["convolution_backward"] - alone["convolution_backward"]
    yield Row.most(
        f"{what}: backwards of its {layers} convolutions added",
        more,
        layers,
        str(more),
        "backwards",
    )


def _calls(case: Case, methods: list[str]) -> Counter[str]:
    """How often the model, and each operator below it, ran for some maps."""
    with _forwards(case.net) as seen, Counts() as counts:
        ll.maps(case.net, case.x, methods)
    return counts.by_name + Counter(forward=len(seen))


@contextmanager
def _forwards(net: nn.Module) -> Iterator[list[None]]:
    seen: list[None] = []
    hook = net.register_forward_hook(lambda module, args, out: seen.append(None))
    try:
        yield seen
    finally:
        hook.remove()


def _peaks() -> Iterator[Row]:
    """Peaks of memory in fresh processes."""
    for mine, peer in ((epsilon_plus, zennit_plus), (epsilon_gamma_box, zennit_box)):
        own, theirs = (peak("vgg16", f.__name__, "relevance")[0] for f in (mine, peer))
        what = f"relevance on VGG-16, batch 1: peak memory of {mine.__name__}"
        goal = f"less than zennit's {theirs / MIB:.0f} MiB"
        yield Row(what, f"{own / MIB:.0f} MiB", goal, own < theirs)
