"""The plan of a relevance pass: which rule sits where, settled by one walk over the graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.autograd.graph import Node

from ..ops import LINEAR, Edge, kind_of
from .messages import ends, inputs_of
from .presets import Preset

if TYPE_CHECKING:
    from ..backward import Tape
    from ..ops import OpRecord


@dataclass(frozen=True)
class AssignedOp:
    """An op with a rule, perhaps with the batch norm that follows it.

    first  the input reaches it without passing another linear map
    last   the output is reached from it without passing another
    """

    op: OpRecord
    kind: str
    first: bool = False
    last: bool = False
    norm: OpRecord | None = None

    @property
    def nodes(self) -> tuple[Node, ...]:
        return self.op.nodes + (self.norm.nodes if self.norm is not None else ())


class Assignment:
    """The ops with a rule by the node they are met at, and the nodes whose values are weights.

    ops         what sits at a node: one op, or a linear map with its batch norm
    maker       the op that made a node
    weightlike  nodes whose results, in a product with another value, take no relevance
    held        values of which the preset says the same, by edge
    """

    def __init__(self, tape: Tape, preset: Preset, held: Iterable[Edge] = ()) -> None:
        self.preset, self.held = preset, frozenset(held)
        self.kinds = {op.nodes[0]: kind_in(op) for op in tape.ops}
        self.maker = {node: op for op in tape.ops for node in op.nodes}
        self.weightlike: set[Node] = set()
        self._passed: set[Node] = set()
        self._mixing: set[Node] = set()
        order = tape.order()
        for node in order:
            self._look(node)
        ahead = self._ahead(order)
        self.ops = {op.nodes[0]: self._assign(op, ahead) for op in tape.ops if op.call is not None}
        if preset.fold:
            self._fold(tape)

    def _look(self, node: Node) -> None:
        """Whether a node lies behind a linear map, and whether its value is weight-like."""
        edges = [(n, nr) for n, nr in node.next_functions if n is not None and not ends(n)]
        parents = [n for n, _ in edges]
        op = self.maker.get(node)
        kind = self.kinds.get(node, "") if op is not None and op.nodes[0] is node else ""
        if kind in LINEAR or any(n in self._passed for n in parents):
            self._passed.add(node)
        if kind == "softmax" or (parents and self._mixing.issuperset(parents)):
            self._mixing.add(node)  # maps mixed once more, as talking heads are, stay maps
        through = kind not in LINEAR or node in self._mixing
        inherits = through and bool(edges) and all(map(self.takes_none, edges))
        if inherits or kind in self.preset.weightlike or self._gates(node, kind, parents):
            self.weightlike.add(node)

    def takes_none(self, edge: Edge) -> bool:
        """Whether a value, in a product with another, takes no relevance."""
        return edge[0] in self.weightlike or edge in self.held

    def _gates(self, node: Node, kind: str, parents: list[Node]) -> bool:
        """Whether a node adds a constant to a tanh, as hand-written GELUs do."""
        if "gate" not in self.preset.weightlike or kind != "gradient" or len(parents) != 1:
            return False
        op, before = self.maker[node], self.maker.get(parents[0])
        return op.name == "add" and before is not None and before.name == "tanh"

    def _ahead(self, order: list[Node]) -> set[Node]:
        """The nodes from which a linear map lies on the way to the output."""
        ahead: set[Node] = set()
        for node in reversed(order):
            if self.kinds.get(node) in LINEAR or node in ahead:
                ahead.update(n for n, _ in node.next_functions if n is not None)
        return ahead

    def _assign(self, op: OpRecord, ahead: set[Node]) -> AssignedOp:
        kind = self.kinds[op.nodes[0]]
        if kind not in LINEAR:
            return AssignedOp(op, kind)
        first = not any(n in self._passed for n, _ in inputs_of(op))
        return AssignedOp(op, kind, first, op.nodes[0] not in ahead)

    def _fold(self, tape: Tape) -> None:
        """Join batch norms to the linear maps whose only consumers they are."""
        consumers = Counter(edge for op in tape.ops for edge in inputs_of(op))
        consumers.update((node, 0) for node in tape.roots)
        for op in tape.ops:
            edges = inputs_of(op)
            if self.kinds[op.nodes[0]] != "batch_norm" or len(edges) != 1:
                continue
            before = self.ops.get(edges[0][0])
            if before is not None and consumers[edges[0]] == 1 and _folds(before, op):
                del self.ops[before.op.nodes[0]]
                joined = AssignedOp(before.op, before.kind, before.first, before.last, op)
                self.ops[op.nodes[0]] = joined


def _folds(before: AssignedOp, norm: OpRecord) -> bool:
    """Whether a batch norm's channels are the linear map's outputs, its statistics constants."""
    out = before.op.call.out if before.op.call is not None else None
    if out is None or not uses_running_statistics(norm):
        return False
    if before.kind == "conv":
        return True
    return before.op.name == "linear" and out.act.ndim == 2


def uses_running_statistics(norm: OpRecord) -> bool:
    """Whether a batch norm reads stored statistics and not those of its batch."""
    named = norm.call.named if norm.call is not None else {}
    if norm.name == "batch_norm":
        computes = named.get("training", False)
    else:
        computes = named.get("use_input_stats", True)
    return named.get("running_mean") is not None and not computes


def kind_in(op: OpRecord) -> str:
    """The kind of one call: what its arguments say counts more than its name."""
    kind = kind_of(op.name)
    if op.call is None:
        return kind
    if kind in LINEAR and op.call.varies("weight"):
        return "product"
    if kind == "product" and op.call.value_and_weight(op.name) is not None:
        return "linear"
    if op.name == "pow":
        power = op.call.named.get("exponent")
        whole = isinstance(power, (int, float)) and power == int(power) and power > 0
        return "pass" if whole else "statistic"
    inverted = kind == "quotient" and any("Reciprocal" in n.name() for n in op.nodes)
    return "statistic" if inverted or (kind == "quotient" and not op.call.varies("input")) else kind
