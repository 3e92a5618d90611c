"""Meta saliency: any site method on the model after one step of learning the target."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ..probe.attribution import Count, pass_method, use
from ..probe.capture import guarded
from ..probe.engine import Batch, Runner
from ..probe.errors import MethodError, OptionError
from ..probe.targets import Reading, Target


@pass_method("meta", sites="hidden")
def meta(
    runner: Runner,
    x: Tensor,
    target: Target,
    *,
    base: str = "normgrad",
    lr: float = 1e-4,
    negate: bool = False,
    steps: Count = 1,
) -> Tensor:
    """The map of `base` after `steps` of plain gradient descent on the target's cross entropy.

    theta' = theta - lr dL/dtheta for every parameter, in eval mode, for each sample on its own;
    `negate` ascends instead. The model's weights are never written. Raises MethodError when the
    target is no class or the step leaves the finite numbers. Source: arXiv 2004.02866, section 4.
    """
    bound, classes = use(base), runner.classes(x, target)
    if bound.method.kind != "site":
        raise OptionError(f"meta: base is a site method, but {base!r} asks for passes of its own")
    weights: dict[str, Tensor] | None = None
    for _ in range(steps):
        weights = inner_step(
            runner.model, runner.batch, classes, lr, negate, weights, target.reading
        )
    (values,) = runner.maps(x, target, [bound], runner.site, weights=weights)
    _finite(f"the map of {bound.name!r}", values, lr)
    return values


def inner_step(
    model: nn.Module,
    x: Tensor | Batch,
    classes: Tensor,
    lr: float,
    negate: bool = False,
    weights: dict[str, Tensor] | None = None,
    reading: Reading | None = None,
) -> dict[str, Tensor]:
    """Parameters by name after one step of gradient descent from `weights`, or the model's own.

    reading  how a target reads the outputs; of dense ones every place counts as one sample of the
             same class
    Raises MethodError when a new value is not finite.
    """
    batch = Batch.of(x).copied()
    start = dict(model.named_parameters()) if weights is None else weights
    leaves = {n: p.detach().requires_grad_(p.is_floating_point()) for n, p in start.items()}
    asked = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    with guarded(model, grad=False, evaluate=True), torch.enable_grad():
        output = functional_call(model, leaves, batch.args, dict(batch.kwargs))
        loss = _loss(output, classes, reading or Reading())
        slopes = torch.autograd.grad(
            -loss if negate else loss, list(asked.values()), allow_unused=True
        )
    new = {name: leaf.detach() for name, leaf in leaves.items()}
    for (name, leaf), slope in zip(asked.items(), slopes, strict=True):
        if slope is not None:
            new[name] = leaf.detach() - lr * slope
            _finite(f"parameter {name!r}", new[name], lr)
    return new


def _loss(output: Any, classes: Tensor, reading: Reading) -> Tensor:
    """The cross entropy, mean over samples and places."""
    logs = replace(reading, of="log_probability").places(output, len(classes))
    places = logs.shape[2:]
    wanted = classes.to(logs.device).reshape(-1, *(1,) * len(places))
    return F.nll_loss(logs, wanted.expand(-1, *places))


def _finite(what: str, values: Tensor, lr: float) -> None:
    if not bool(torch.isfinite(values).all()):
        raise MethodError(
            f"meta with lr={lr:g} left the finite numbers: {what} holds NaN or "
            "infinity after the inner step; lower lr"
        )
