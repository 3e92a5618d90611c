"""What travels down the graph in a relevance pass, and how single nodes and ops hand it on."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node

from ..ops import Edge

if TYPE_CHECKING:
    from ..ops import OpRecord

Arrived = Mapping[int, Tensor]


class Message(NamedTuple):
    """What a rule sends to the value at an edge: a gradient, or relevance that has none."""

    edge: Edge | None
    x: Tensor
    relevance: bool = False


@dataclass(eq=False)
class Messages:
    """Gradients `g`, and relevance `r` that has no gradient form, on their way down the graph."""

    g: dict[Node, dict[int, Tensor]] = field(default_factory=lambda: defaultdict(dict))
    r: dict[Node, dict[int, Tensor]] = field(default_factory=lambda: defaultdict(dict))

    def send(self, message: Message) -> None:
        """Leave something for the value at an edge; what several consumers leave adds up."""
        edge, x, relevance = message
        if edge is None:
            return
        node, nr = edge
        waiting = (self.r if relevance else self.g)[node]
        waiting[nr] = waiting[nr] + x if nr in waiting else x

    def take(self, node: Node) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """What has arrived at a node's results: gradients, relevance."""
        return self.g.pop(node, {}), self.r.pop(node, {})


def backward_of(node: Node, arrived: Arrived) -> list[tuple[Edge, Tensor]]:
    """One autograd node as it is; sums over what was broadcast, as torch's own engine does."""
    backward: Any = node
    call = backward.apply if isinstance(node, BackwardCFunction) else backward
    out = call(*(arrived.get(i) for i in range(len(backward._input_metadata))))
    grads = out if isinstance(out, tuple) else (out,)
    edges = zip(node.next_functions, grads, strict=False)
    return [((n, nr), _fitted(x, n, nr)) for (n, nr), x in edges if n is not None and x is not None]


def _fitted(x: Tensor, node: Any, nr: int) -> Tensor:
    shape = node._input_metadata[nr].shape
    return x if x.shape == shape else x.sum_to_size(shape)


def backward_of_op(op: OpRecord, arrived: Arrived) -> dict[Edge, Tensor]:
    """The plain vector-Jacobian product of one op, by input edge."""
    inside = set(op.nodes)
    waits = Counter(n for node in inside for n, _ in node.next_functions if n in inside)
    pending: dict[Node, dict[int, Tensor]] = defaultdict(dict)
    pending[op.nodes[0]].update(arrived)
    grads: dict[Edge, Tensor] = {}
    ready = [node for node in inside if not waits[node]]
    while ready:
        node = ready.pop()
        here = pending.pop(node, {})
        for (n, nr), x in backward_of(node, here) if here else ():
            if n in inside:
                pending[n][nr] = pending[n][nr] + x if nr in pending[n] else x
            else:
                grads[n, nr] = grads[n, nr] + x if (n, nr) in grads else x
        for parent, _ in node.next_functions:
            if parent is not None and parent in inside:
                waits[parent] -= 1
                if not waits[parent]:
                    ready.append(parent)
    return grads


def inputs_of(op: OpRecord) -> list[Edge]:
    """The edges that lead out of an op's nodes, in order, each once."""
    inside = set(op.nodes)
    edges: dict[Edge, None] = {}
    for node in op.nodes:
        for n, nr in node.next_functions:
            if n is not None and n not in inside and not ends(n):
                edges[n, nr] = None
    return list(edges)


def ends(node: Node) -> bool:
    """Whether a node is where a gradient would be stored."""
    return node.name() == "torch::autograd::AccumulateGrad"
