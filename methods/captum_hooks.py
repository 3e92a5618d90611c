"""What captum's hooks do not see: it hooks modules of some classes, and no function of torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from torch import nn
from torch.autograd.graph import Node

from ..probe.engine import Runner
from ..probe.ops import OpRecord, kind_of

_CURVED = frozenset(("pass", "statistic", "softmax", "gate", "glu", "norm", "max_pool", "attention",
                     "mixer", "none"))  # fmt: skip
_PRODUCTS = ("product", "quotient")
_CHOICES = frozenset((
    "max", "min", "amax", "amin", "topk", "sort", "median", "maximum", "minimum", "fmax", "fmin",
    "max_pool1d", "max_pool3d", "max_pool1d_with_indices", "max_pool2d_with_indices",
    "max_pool3d_with_indices", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "fractional_max_pool2d", "log_softmax", "logsumexp",
))  # fmt: skip


def note_unhooked(runner: Runner, name: str) -> None:
    """Say of an algorithm of captum that hooks activations which of those that ran it passed by.

    DeepLift hands on what it does not hook by its slope, as if it were linear: where nothing is
    hooked it is input x gradient. Guided backpropagation and deconvolution change nn.ReLU alone.
    """
    if name in ("DeepLift", "DeepLiftShap"):
        from captum.attr._core.deep_lift import SUPPORTED_NON_LINEAR

        hooked: tuple[type, ...] = tuple(SUPPORTED_NON_LINEAR)
        meant, fate = _curves, "took for linear, as input x gradient does"
    else:
        hooked, meant, fate = (nn.ReLU,), _rectifies, "left to their plain gradient"
    passed_by = _passed_by(runner, hooked, meant)
    if passed_by:
        runner.note(f"captum's {name} {fate}: {_words(passed_by)}")


def _passed_by(
    runner: Runner, hooked: Sequence[type], meant: Callable[[OpRecord, set[Node]], bool]
) -> list[tuple[str, str]]:
    """The ops of one forward that are meant and lie in no hooked module: their names and places."""
    sites = [one.site for one in runner.moving]
    with runner.probe() as probe:
        probe.watch(*sites)
        probe(*runner.batch.args, **runner.batch.kwargs)
        edges = [probe.trace[site].edge for site in sites]
        starts = {edge[0] for edge in edges if edge is not None}
        moving = _behind(starts, probe.ops)
        places = [
            (op.name, op.place.partition(" in ")[2])
            for op in probe.ops
            if not moving.isdisjoint(op.nodes) and meant(op, moving)
        ]
        return [
            (name, path) for name, path in places if type(probe.modules.get(path)) not in hooked
        ]


def _behind(starts: set[Node], ops: Iterable[OpRecord]) -> set[Node]:
    """The nodes whose results depend on what the starts give, with the starts."""
    users: dict[Node, list[Node]] = defaultdict(list)
    todo, seen = [node for op in ops for node in op.nodes], set[Node]()
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            for before, _ in node.next_functions:
                if before is not None:
                    users[before].append(node)
                    todo.append(before)
    moving, reached = set(starts), list(starts)
    while reached:
        new = [node for node in users[reached.pop()] if node not in moving]
        moving.update(new)
        reached += new
    return moving


def _rectifies(op: OpRecord, moving: set[Node]) -> bool:
    return op.rectifies


def _curves(op: OpRecord, moving: set[Node]) -> bool:
    """Whether an op is no linear map of what depends on the inputs that move."""
    kind = kind_of(op.name)
    if kind in _PRODUCTS:
        inside = set(op.nodes)
        given = [n for node in inside for n, _ in node.next_functions if n not in inside]
        inverted = any("Reciprocal" in node.name() for node in inside & moving)
        return inverted or sum(n in moving for n in given) > 1
    return kind in _CURVED or op.rectifies or op.name in _CHOICES


def _words(ops: Iterable[tuple[str, str]]) -> str:
    """The ops by name, with their number and the first place of each."""
    counts: dict[str, list[str]] = {}
    for name, path in ops:
        counts.setdefault(name, []).append(path)
    return ", ".join(
        f"{name} in {places[0]}" + (f" and {len(places) - 1} more" if len(places) > 1 else "")
        for name, places in counts.items()
    )
