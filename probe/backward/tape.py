"""The graph of one forward: who made which node, what nobody made, and its backwards."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge, Node

from ..errors import ProbeError
from ..ops import OpCall, OpRecord, tensors
from ..trace import Hole, Value
from .regimes import BackwardRule, ModifiedBackward

Wanted = dict[Node, list[tuple[int, Value]]]
Arrive = Callable[[Value, Tensor | None], None]


class Tape:
    """The autograd graph of one forward; lives until its probe is left or runs again."""

    def __init__(self) -> None:
        self.ops: list[OpRecord] = []
        self.claimed: dict[Node, str] = {}
        self.values: dict[tuple[Node, int], Value] = {}
        self.roots: list[Node] = []
        self._order: list[Node] = []
        self._plain = False  # known: all nodes pass gradients on, none writes into a part

    def claim(self, outputs: Iterable[Tensor], before: set[Node], place: str) -> tuple[Node, ...]:
        """Book the nodes between a call's outputs and what its inputs were before it."""
        nodes: list[Node] = []
        todo = [t.grad_fn for t in outputs if t.grad_fn is not None]
        while todo:
            node = todo.pop()
            if node in before or node in self.claimed:
                continue
            self.claimed[node] = place
            nodes.append(node)
            todo += [n for n, _ in node.next_functions if n is not None]
        return tuple(nodes)

    def claim_view(self, x: Tensor, place: str) -> None:
        """Book a view's node that torch made anew because its base was written in place."""
        if x._is_view() and x.grad_fn is not None and x.grad_fn not in self.claimed:
            base = x._base.grad_fn if x._base is not None else None
            if base in self.claimed and not isinstance(x.grad_fn, BackwardCFunction):
                self.claim([x], {base}, place)

    def record(
        self,
        name: str,
        place: str,
        nodes: tuple[Node, ...],
        rectifies: bool,
        call: OpCall | None = None,
    ) -> None:
        """Keep an op and its nodes, for the rules of a regime."""
        if nodes:
            self.ops.append(OpRecord(name, place, nodes, rectifies, call))

    def close(self, output: Any) -> list[Hole]:
        """The audit, once the forward has ended: every node that nobody claimed."""
        for t in tensors_of(output):
            self.claim_view(t, "the output")
        self.begin_at(output)
        holes: dict[Node, Hole] = {}
        for node in self.order():
            for parent, _ in node.next_functions:
                if parent is None or parent in self.claimed or parent in holes:
                    continue
                if parent.name() != "torch::autograd::AccumulateGrad":
                    holes[parent] = Hole(
                        parent.name(), self.claimed.get(node, "another unseen node")
                    )
        for root in self.roots:
            if root not in self.claimed and root not in holes:
                holes[root] = Hole(root.name(), "the output")
        return list(holes.values())

    def begin_at(self, output: Any, *, plain: bool = False) -> None:
        """Backwards start at this output.

        plain  all nodes pass gradients on and none writes into a part of a tensor, as is known
        """
        self.roots = [t.grad_fn for t in tensors_of(output) if t.grad_fn is not None]
        self._plain = plain

    def drop(self) -> None:
        """Let go of the graph."""
        self.ops, self.claimed, self.roots, self._order = [], {}, [], []
        self.values = {}

    def order(self) -> list[Node]:
        """All nodes, each after those it leads back to."""
        if not self._order:
            done: set[Node] = set()
            todo: list[tuple[Node, bool]] = [(root, False) for root in self.roots]
            while todo:
                node, ready = todo.pop()
                if ready:
                    self._order.append(node)
                elif node not in done:
                    done.add(node)
                    todo.append((node, True))
                    todo += [(n, False) for n, _ in node.next_functions if n is not None]
        return self._order

    def backward(
        self,
        score: Tensor,
        values: Sequence[Value],
        receive: Callable[[Value, Tensor], None],
        regime: ModifiedBackward,
        *,
        retain: bool,
    ) -> None:
        """Run one backward of sum(score); hand each value its gradient the moment it arrives.

        It goes back only as far as the values lie. A value that the score does not depend on
        receives zeros. Raises ProbeError where no gradient can come.
        """
        _check(score)
        self._check_gradients(score)
        waiting = {id(v): v for v in values}

        def arrive(value: Value, grad: Tensor | None) -> None:
            if grad is not None and waiting.pop(id(value), None) is not None:
                receive(value, grad.transpose(-1, -2) if value.flipped else grad)

        with ExitStack() as hooks:
            self._flow(score, _by_node(values), arrive, regime, hooks, retain)
        for value in waiting.values():
            receive(value, torch.zeros_like(value.act))

    def _check_gradients(self, score: Tensor) -> None:
        """Raise ProbeError for an op on the way that has no gradient, and would pass on zeros."""
        if self._plain:
            return
        dead = {n for n in self.order() if n.name().endswith("NotImplemented")}
        todo, seen = [score.grad_fn] if dead else [], set[Node]()
        while todo:
            node = todo.pop()
            if node in dead:
                raise ProbeError(
                    f"{self.claimed.get(node, 'an unseen op')} has no gradient, as quantised ops "
                    "have none: load the float model, or use occlusion or rise"
                )
            if node is not None and node not in seen:
                seen.add(node)
                todo += [n for n, _ in node.next_functions]

    def _flow(
        self,
        score: Tensor,
        wanted: Wanted,
        arrive: Arrive,
        regime: ModifiedBackward,
        hooks: ExitStack,
        retain: bool,
    ) -> None:
        """Differentiate to the frontier; hooks tell what arrives on the way there."""
        frontier, waiting, more = self._frontier(wanted)
        for node in waiting:
            hooks.callback(node.register_prehook(_deliver(wanted[node], arrive)).remove)
        self._rule(regime, hooks)  # after them: a site reads what arrives at it, unruled
        ends = [(node, nr, value) for node in frontier for nr, value in wanted[node]]
        places = [GradientEdge(node, nr) for node, nr, _ in ends] + more
        if not places:
            return
        grads = torch.autograd.grad(score.sum(), places, retain_graph=retain, allow_unused=True)
        for (_, _, value), grad in zip(ends, grads, strict=False):
            arrive(value, grad)

    def _frontier(self, wanted: Wanted) -> tuple[list[Node], list[Node], list[GradientEdge]]:
        """Nodes to differentiate to (no wanted one lies behind them), and those on the way.

        And what else autograd must compute: a write into a part of a tensor (CopySlices) fails in
        torch when the gradient of what is written is wanted but that of the tensor is not.
        """
        if self._plain and len(wanted) == 1:
            return list(wanted), [], []
        behind: set[Node] = set()
        frontier: list[Node] = []
        waiting: list[Node] = []
        writes: list[tuple[Node | None, int]] = []
        for node in self.order():
            further = any(n in behind for n, _ in node.next_functions)
            if node in wanted:
                (waiting if further else frontier).append(node)
            if further and node.name().endswith("CopySlices"):
                writes.append(node.next_functions[0])
            if further or node in wanted:
                behind.add(node)
        more = [GradientEdge(n, nr) for n, nr in writes if n is not None and n not in behind]
        return frontier, waiting, more

    def _rule(self, regime: ModifiedBackward, hooks: ExitStack) -> None:
        if not regime.rules:
            return
        ruled = [(op, rule) for op in self.ops if (rule := regime.rule(op)) is not None]
        if not ruled:
            warnings.warn(
                f"regime {regime.name!r} changes ReLU-like ops, but this network has none: "
                "the maps equal the plain gradient",
                stacklevel=8,
            )
        for op, rule in ruled:
            _install(op, rule, regime, hooks)


def _check(score: Tensor) -> None:
    if score.grad_fn is None:
        raise ProbeError(
            "the target does not depend on anything differentiable; it was computed under "
            "no_grad or cut off by detach()"
        )


def _by_node(values: Sequence[Value]) -> Wanted:
    wanted: Wanted = defaultdict(list)
    for value in values:
        if value.edge is None:
            raise ProbeError(
                f"no gradient reaches {value.site}: its value does not depend on the input, or "
                "the model computes it under no_grad or behind detach()"
            )
        wanted[value.edge[0]].append((value.edge[1], value))
    return wanted


def tensors_of(output: Any) -> list[Tensor]:
    """The tensors of an output, however it is packed."""
    from ..trace.pytree import leaves

    return [t for _, t in leaves(output)] or tensors(output)


def _install(op: OpRecord, rule: BackwardRule, regime: ModifiedBackward, hooks: ExitStack) -> None:
    if rule.before is not None:
        hooks.callback(op.nodes[0].register_prehook(rule.before).remove)
    if rule.after is not None:
        if len(op.nodes) != 1:
            raise ProbeError(
                f"regime {regime.name!r} cannot act on op {op.name!r} at {op.place}: it is made of "
                f"{len(op.nodes)} autograd nodes; use its one-step form"
            )
        hooks.callback(op.nodes[0].register_hook(rule.after).remove)


def _deliver(
    wanted: list[tuple[int, Value]], arrive: Arrive
) -> Callable[[tuple[Tensor, ...]], None]:
    def hook(grads: tuple[Tensor, ...]) -> None:
        for nr, value in wanted:
            arrive(value, grads[nr])

    return hook
