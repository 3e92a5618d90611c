"""What must hold of limelight on any architecture, stage by stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from sweep import calibrate, call, check_restored, liven, snapshot
from torch import Tensor, nn

import limelight as ll
from limelight.probe.errors import LimelightError, SiteError
from limelight.probe.sites import parse
from limelight.probe.targets import targets
from limelight.probe.trace import Value, leaves
from limelight.probe.trace.pytree import first_tensor

from .axes_lost import lost_at, without_rule
from .case import sentence
from .row import Row

MOST = 1e-6  # relative change of an output under the probe
LEAK = 1e-3  # of the relevance that passes through an op
Tell = Callable[[str], None]


def examine(row: Row, model: nn.Module, x: Any, tell: Tell) -> None:
    """Fill the row; faults are written into it, and only what is unforeseen is raised."""
    row.parameters = sum(p.numel() for p in model.parameters())
    liven(model)
    try:
        calibrate(model, x)
    except Exception:
        model.eval()  # a model that trains on other inputs keeps the statistics it has
    tell("a plain run")
    model.train()
    before = snapshot(model)
    model.eval()
    with torch.no_grad(), running(model) as ran:
        reference = call(model, x)
    with torch.no_grad():
        again = call(model, x)
    if _difference(reference, again) > MOST:
        row.reason = "it gives other outputs each time"
        tell("skipped")
        return
    model.train()
    tell("a probed run")
    _probed(row, model, x, reference, ran, tell)
    _relevance(row, model, x)
    _restored(row, model, before, x, reference)
    tell("done")


@contextmanager
def running(model: nn.Module) -> Iterator[set[str]]:
    """The modules that a run reaches: a model of words and pictures may be given words alone."""
    ran: set[str] = set()
    hooks = [
        module.register_forward_hook(lambda *_, path=path: ran.add(path))
        for path, module in model.named_modules()
    ]
    yield ran
    for hook in hooks:
        hook.remove()


def _probed(row: Row, model: nn.Module, x: Any, reference: Any, ran: set[str], tell: Tell) -> None:
    with ll.Probe(model) as probe:
        hidden = [site for site in probe.adapter.hidden if parse(site).path in ran]
        row.unreached = len(probe.adapter.hidden) - len(hidden)
        probe.watch("input", *hidden)
        output = probe(**x) if isinstance(x, Mapping) else probe(x)
        row.difference = _difference(reference, output)
        if row.difference > MOST:
            row.faults.append(f"the output moved by {row.difference:.1e}")
        row.holes = sorted({hole.node for hole in probe.trace.holes})
        score = mixture(output)
        if score is None:
            row.reason = "no output depends on its input by a gradient"
            tell("skipped")
            return
        tell("axes")
        sites = _axes(row, probe, hidden)
        tell("maps")
        _maps(row, probe, score, sites)
        expected = _plain_gradient(model, x, score)
        _gradient(row, probe, score, expected)


def mixture(output: Any) -> Callable[[Any], Tensor] | None:
    """A score a sample: a fixed mixture of the main output, or of all that has a gradient."""
    found = [path for path, t in leaves(output) if t.requires_grad and t.is_floating_point()]
    if not found:
        return None

    rows = [p for p in found if dict(leaves(output))[p].shape[:1] == (2,)]
    chosen = next((p for p in rows if p == "logits"), rows[0] if rows else "")

    def score(output: Any) -> Tensor:
        tensors = dict(leaves(output))
        if rows:
            return _mixed(tensors[chosen].reshape(len(tensors[chosen]), -1))
        return torch.stack([_mixed(tensors[p].reshape(1, -1)).sum() for p in found]).sum().expand(2)

    return score


def _mixed(flat: Tensor) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    weights = torch.randn(flat.shape[1], generator=draw).to(flat.dtype)
    return flat @ weights / max(flat.shape[1], 1) ** 0.5


def _axes(row: Row, probe: ll.Probe, hidden: Sequence[str]) -> list[Value]:
    """The hidden values that have places; the others are counted, known or refused by name."""
    placed: list[Value] = []
    lost: Counter[str] = Counter()
    for value in probe.values(hidden):
        try:
            plan = probe.layout(value)
        except SiteError as error:
            if "no positions" in str(error):
                row.known += 1
                continue
            row.refused += 1
            row.refusal = row.refusal or sentence(error)
            lost.update(lost_at(probe, value))
            if str(value.site) not in str(error) and "input" not in str(error):
                row.faults.append(f"a refusal does not name its site: {sentence(error)}")
        else:
            row.known += 1
            if plan.axes != "c":
                placed.append(value)
    row.unsaid = dict(lost)
    row.unruled = without_rule(probe)
    return placed


def _maps(row: Row, probe: ll.Probe, score: Callable[[Any], Tensor], placed: list[Value]) -> None:
    """hirescam and normgrad at an early and a late hidden site."""
    if not placed:
        row.maps = "no hidden site with places"
        return
    chosen = {len(placed) // 3, max(len(placed) - 2, 0)}
    sites = [str(placed[i].site) for i in sorted(chosen)]
    try:
        found = probe.maps(["hirescam", "normgrad"], target=score, sites=sites)
    except LimelightError as error:
        row.maps = sentence(error)
        row.faults.append(f"maps: {row.maps}")
        return
    wrong = [f"{m.method} at {m.site}" for m in found if not m.values.isfinite().all()]
    row.faults += [f"{name} is not finite" for name in wrong]
    row.maps = f"{len(found)} of {'|'.join(sorted({m.axes for m in found}))}"


def _plain_gradient(model: nn.Module, x: Any, score: Callable[[Any], Tensor]) -> Tensor | None:
    """The gradient of the score at the input by autograd alone; None where ids went in."""
    key = next(iter(x)) if isinstance(x, Mapping) else None
    main = x if key is None else x[key]
    if not main.is_floating_point():
        return None
    leaf = main.clone().requires_grad_()
    with torch.enable_grad():
        output = call(model, leaf if key is None else {**x, key: leaf})
        total = score(output).sum()
        return torch.autograd.grad(total, leaf, allow_unused=True)[0]


def _gradient(
    row: Row, probe: ll.Probe, score: Callable[[Any], Tensor], expected: Tensor | None
) -> None:
    """The gradient at the input is finite, and what autograd gives without a probe."""
    try:
        probe.backward(score, sites=["input"])
        grads = [v.grad for v in probe.values(["input"]) if v.grad is not None]
    except LimelightError as error:
        row.gradient = sentence(error)
        row.faults += [f"gradient: {row.gradient}"] if expected is not None else []
        return
    if not grads:
        row.gradient = "none"
        row.faults += ["no gradient at the input, and autograd has one"] * (expected is not None)
        return
    if not all(g.isfinite().all() for g in grads):
        row.faults.append("the gradient at the input is not finite")
        return
    if expected is None:
        row.gradient = "finite"
        return
    found = next((g for g in grads if g.shape == expected.shape), None)
    if found is None:
        row.faults.append(f"the gradient has shape {tuple(grads[0].shape)}, not the input's")
        return
    error = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
    row.gradient = "as autograd" if error < 1e-4 else f"off by {error:.0e}"
    row.gradient += _told_at_input(row, probe, score)
    row.faults += [] if error < 1e-4 else [f"the gradient at the input is off by {error:.0e}"]


def _told_at_input(row: Row, probe: ll.Probe, score: Callable[[Any], Tensor]) -> str:
    """The map of `gradient` at the input: what it lies over, or why there is none."""
    try:
        maps = probe.maps("gradient", target=score, sites="input")
    except LimelightError as error:
        return f"; {sentence(error)}"
    row.faults += ["the map at the input is not finite"] * (
        not all(m.values.isfinite().all() for m in maps)
    )
    return f" over {maps[0].axes}"


def _relevance(row: Row, model: nn.Module, x: Any) -> None:
    """LRP closes, or the refusal names the op."""
    if row.stage == "skipped":
        return
    row.stage = "relevance"
    try:
        with ll.Probe(model, ledger=True) as probe:
            probe.watch("input")
            score = mixture(probe(**x) if isinstance(x, Mapping) else probe(x))
            target = targets(score)[0]
            found: list[Tensor] = []
            probe.differentiate(
                target,
                probe.values(["input"]),
                lambda v, r: found.append(r),
                regime=ll.use("lrp").regime,
            )
            leaks = probe.ledger().leaks(LEAK)
    except LimelightError as error:
        row.relevance = f"refused: {sentence(error)}"
        return
    if not all(r.isfinite().all() for r in found):
        row.relevance = "not finite"
        row.faults.append("relevance is not finite")
        return
    names = sorted({entry.op for entry in leaks})
    row.relevance = "closes" if not names else f"leaks at {', '.join(names)}"


def _restored(row: Row, model: nn.Module, before: dict[str, Any], x: Any, reference: Any) -> None:
    model.train()
    try:
        check_restored(model, before, x, first_tensor(reference))
    except AssertionError as error:
        row.faults.append(f"the model is not as it was: {sentence(error)}")


def _difference(one: Any, other: Any) -> float:
    """The largest change of a tensor, relative to its largest value; infinite for other shapes."""
    worst = 0.0
    others = dict(leaves(other))
    for path, t in leaves(one):
        twin = others.get(path)
        if twin is None or twin.shape != t.shape:
            return float("inf")
        if not t.numel() or torch.equal(t, twin):
            continue
        a, b = t.detach().double(), twin.detach().double()
        if not torch.equal(a.isfinite(), b.isfinite()):
            return float("inf")
        a, b = a[a.isfinite()], b[b.isfinite()]
        worst = max(worst, float((a - b).abs().max() / a.abs().max().clamp(min=1e-30)))
    return worst
