"""The two networks of the comparison, with random weights, and what each tool is asked for."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from types import ModuleType

import torch
from captum.attr import InputXGradient, LayerGradientXActivation, Saliency
from measure import Work, close
from torch import Tensor, nn

import limelight as ll
from limelight.models import load

CAMS = {
    "gradcam": "GradCAM",
    "gradcam_plus_plus": "GradCAMPlusPlus",
    "layercam": "LayerCAM",
    "hirescam": "HiResCAM",
    "xgradcam": "XGradCAM",
}


@dataclass(frozen=True)
class Case:
    """A network, its input, the sites, the site methods beside the two maps at the input."""

    name: str
    net: nn.Module
    x: Tensor
    sites: tuple[str, ...]
    methods: tuple[str, ...]
    limit: float

    @staticmethod
    def resnet18(batch: int = 4) -> Case:
        net = random_net("resnet18")
        sites = tuple(f"layer{n}" for n in (1, 2, 3, 4))
        return Case("ResNet-18", net, torch.randn(batch, 3, 224, 224), sites, tuple(CAMS), 1.35)

    @staticmethod
    def vgg16(batch: int = 1) -> Case:
        net = random_net("vgg16")
        sites = tuple(n for n, m in net.named_modules() if isinstance(m, nn.Conv2d))
        methods = ("gradcam", "normgrad")
        return Case("VGG-16", net, torch.randn(batch, 3, 224, 224), sites, methods, 1.15)

    @property
    def count(self) -> int:
        return 2 + len(self.methods) * len(self.sites)

    @property
    def layers(self) -> list[nn.Module]:
        return [self.net.get_submodule(site) for site in self.sites]


def random_net(name: str) -> nn.Module:
    """A network of the zoo with random weights."""
    torch.manual_seed(0)
    return load(name, weights=None).eval()


def one_pass(case: Case) -> Tensor:
    """The unit: one forward and one backward to the input, weights frozen."""
    x = case.x.clone().requires_grad_()
    output = case.net(x)
    score = output.gather(1, output.argmax(1, keepdim=True)).sum()
    return torch.autograd.grad(score, x)[0]


def ours(case: Case) -> ll.Maps:
    """All maps by one call."""
    at_input = [ll.use(name, sites="input") for name in ("gradient", "input_x_gradient")]
    inside = [ll.use(name, sites=case.sites) for name in case.methods]
    return ll.maps(case.net, case.x, [*at_input, *inside])


def frozen(case: Case, work: Callable[[Case], object]) -> Work:
    """The same work on frozen weights."""

    def run() -> object:
        case.net.requires_grad_(False)
        try:
            return work(case)
        finally:
            case.net.requires_grad_(True)

    return run


def peers_at_best(case: Case) -> list[Tensor]:
    """Captum and pytorch-grad-cam with all layers in one object per method.

    pytorch-grad-cam then returns one map, the mean over the layers, and not one for each.
    """
    classes = _classes(case)
    found = _at_input(case, classes)
    for method in case.methods:
        if method == "normgrad":
            layered = LayerGradientXActivation(case.net, case.layers)
            found += [t.norm(dim=1) for t in layered.attribute(case.x, target=classes)]
        else:
            found.append(_cam(case, method, case.layers))
    return found


def peers_by_layer(case: Case) -> list[Tensor]:
    """Captum and pytorch-grad-cam with one call a layer, which is what returns every map."""
    classes = _classes(case)
    found = _at_input(case, classes)
    for method in case.methods:
        for layer in case.layers:
            if method == "normgrad":
                layered = LayerGradientXActivation(case.net, layer)
                found.append(layered.attribute(case.x, target=classes).norm(dim=1))
            else:
                found.append(_cam(case, method, [layer]))
    return found


def _classes(case: Case) -> Tensor:
    with torch.no_grad():
        return case.net(case.x).argmax(1)


def _at_input(case: Case, classes: Tensor) -> list[Tensor]:
    x = case.x.clone().requires_grad_()
    return [
        Saliency(case.net).attribute(x, target=classes).amax(1),
        InputXGradient(case.net).attribute(x, target=classes).sum(1),
    ]


def _cam(case: Case, method: str, layers: list[nn.Module]) -> Tensor:
    kind = getattr(grad_cam(), CAMS[method])
    with warnings.catch_warnings(), kind(case.net, layers) as cam:
        warnings.simplefilter("ignore")
        return torch.as_tensor(cam(case.x, None))


@cache
def grad_cam() -> ModuleType:
    """pytorch-grad-cam, also where torchvision was built for another torch.

    It needs none of torchvision's own operators, which are all that such a build lacks.
    """
    try:
        return import_module("pytorch_grad_cam")
    except RuntimeError:
        for name in [n for n in sys.modules if n.startswith(("torchvision", "pytorch_grad_cam"))]:
            del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    _kept.append(library)
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return import_module("pytorch_grad_cam")


_kept: list[torch.library.Library] = []


def check(case: Case) -> float:
    """Count the maps, and compare with plain autograd; the largest error with a float64 pass.

    With a float64 pass both are equal, up to the float32 in which maps are made of it. With a
    float32 pass, which is what is timed, maps may be as far from that as plain autograd's own are,
    and one percent more.
    """
    maps, plain = _by_name(case, ours(case)), _plain(case)
    exact, exact_plain = _in_float64(case)
    errors = []
    for name, wanted in exact_plain.items():
        if name.startswith("gradcam") and not (maps[name].any() or wanted.any()):
            continue  # a class may have negative evidence alone at a layer
        errors.append(close(exact[name], wanted, 1e-4))
        noise = float((plain[name].double() - wanted).norm() / wanted.norm())
        close(maps[name], wanted, 1e-2 + noise)
    return max(errors)


def _by_name(case: Case, maps: ll.Maps) -> dict[str, Tensor]:
    """The maps by method and site."""
    if len(maps) != case.count * len(case.x):
        raise ValueError(f"{len(maps)} maps came back, not {case.count} x {len(case.x)}")
    for peers in (len(maps.where(method=m)) for m in case.methods):
        if peers != len(case.sites) * len(case.x):
            raise ValueError(f"a method gave {peers} maps")
    inside = {f"{m} {s}": maps.where(method=m, site=s) for m in case.methods for s in case.sites}
    at_input = {m: maps.where(method=m) for m in ("gradient", "input_x_gradient")}
    return {name: kind.stack() for name, kind in (at_input | inside).items()}


def _plain(case: Case) -> dict[str, Tensor]:
    """Some of these maps by plain autograd, in the precision of the case."""
    x, acts, grads = _differentiated(case)
    maps = {"gradient": grads[0].abs().amax(1), "input_x_gradient": (x * grads[0]).sum(1)}
    for site, act, grad in zip(case.sites, acts, grads[1:], strict=True):
        weighted = (grad.mean((2, 3), keepdim=True) * act).sum(1)
        maps[f"gradcam {site}"] = weighted.clamp(min=0)
        if "normgrad" in case.methods:
            maps[f"normgrad {site}"] = act.norm(dim=1) * grad.norm(dim=1)
    return maps


def _in_float64(case: Case) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Our maps and plain autograd's in float64."""
    wide = replace(case, net=case.net.double(), x=case.x.double())
    try:
        return _by_name(wide, ours(wide)), _plain(wide)
    finally:
        case.net.float()


def _differentiated(case: Case) -> tuple[Tensor, list[Tensor], tuple[Tensor, ...]]:
    """The input, the activations at the sites and the gradients at all of these."""
    kept: list[Tensor] = []
    hooks = [m.register_forward_hook(lambda m, a, out: kept.append(out)) for m in case.layers]
    # Ops in place would write over what the hooks keep.
    switched = [m for m in case.net.modules() if getattr(m, "inplace", False)]
    for module in switched:
        module.inplace = False
    try:
        x = case.x.clone().requires_grad_()
        output = case.net(x)
        score = output.gather(1, output.argmax(1, keepdim=True)).sum()
        grads = torch.autograd.grad(score, [x, *kept])
    finally:
        for module in switched:
            module.inplace = True
        for hook in hooks:
            hook.remove()
    return x.detach(), [t.detach() for t in kept], grads
