"""The circuit as a graph: heads by layer, the largest edges between them and to the output."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...methods.circuits.circuit import Circuit
from ..html import three_digits
from .text import head_name

EDGES = 30
_ROW, _MARGIN, _ACROSS = 52, 40, 1150


@dataclass(frozen=True)
class Node:
    """A head, or the output (place -1).

    size  the radius
    """

    place: int
    name: str
    x: float
    y: float
    size: float
    inside: bool
    title: str


@dataclass(frozen=True)
class Edge:
    """From one node to another.

    helps  corrupting it lowers the metric; far: it passes other columns
    """

    start: Node
    end: Node
    score: float
    width: float
    helps: bool
    far: bool
    title: str

    @property
    def path(self) -> str:
        """A curve that leaves and arrives level, above the heads of one row in between."""
        a, b = self.start, self.end
        x0, x1 = round(a.x + a.size, 1), round(b.x - b.size - 2, 1)
        bend = max(24.0, (x1 - x0) * 0.45)
        lift = 0.0 if a.y != b.y or not self.far else _ROW * 0.6
        first = f"{round(x0 + bend, 1)} {round(a.y - lift, 1)}"
        return f"M{x0} {a.y} C{first} {round(x1 - bend, 1)} {round(b.y - lift, 1)} {x1} {b.y}"


@dataclass(frozen=True)
class Graph:
    method: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    layers: tuple[tuple[float, str], ...]
    width: float
    height: float


Link = tuple[int, int, float]  # from, to (-1: output), signed


def edge_method(circuit: Circuit) -> str:
    """The method whose edges are drawn: edge attribution where it was run; "" for none."""
    with_edges = [name for name, score in circuit.scores.items() if score.edges is not None]
    best = [name for name in with_edges if name.partition(",")[0] == "edge_attribution"]
    return next(iter([*best, *with_edges]), "")


def links(circuit: Circuit, method: str, count: int = EDGES) -> list[Link]:
    """The largest edges, those to the output included where the method gives them."""
    score = circuit.score(method)
    signed: Tensor = score.facts.get("signed edges", score.edges)
    edges = [(u, v, float(signed[u, v])) for u, v in (signed != 0).nonzero().tolist()]
    out = score.facts.get("to output")
    if out is not None:
        edges += [(u, -1, float(value)) for u, value in enumerate(out) if value]
    return sorted(edges, key=lambda link: -abs(link[2]))[:count]


def graph(circuit: Circuit, method: str = "", count: int = EDGES) -> Graph | None:
    """The picture of the largest edges; None where no method gives edges."""
    chosen = method or edge_method(circuit)
    kept = links(circuit, chosen, count) if chosen else []
    if not kept:
        return None
    signed = "signed edges" in circuit.score(chosen).facts
    columns = _columns(circuit, kept)
    height = 2 * _MARGIN + _ROW * (max(len(heads) for heads in columns.values()) - 1)
    nodes = _nodes(circuit, columns, chosen, height)
    largest = abs(kept[0][2])
    order = {place: n for n, heads in enumerate(columns.values()) for place in heads}
    edges = tuple(
        Edge(
            nodes[u],
            nodes[v],
            abs(value),
            round(1 + 6 * abs(value) / largest, 2),
            value <= 0 or not signed,
            order[v] - order[u] > 1,
            f"{nodes[u].name} → {nodes[v].name}: {three_digits(abs(value))}",
        )
        for u, v, value in reversed(kept)
    )
    named = tuple((nodes[heads[0]].x, _layer(layer)) for layer, heads in columns.items())
    width = 2 * _MARGIN + _gap(columns) * (len(columns) - 1)
    return Graph(chosen, tuple(nodes.values()), edges, named, width, height)


def _gap(columns: dict[int, list[int]]) -> int:
    """Pixels from one layer to the next."""
    return max(64, min(200, _ACROSS // len(columns)))


def _layer(layer: int) -> str:
    return "output" if layer < 0 else f"layer {layer}"


def _columns(circuit: Circuit, kept: list[Link]) -> dict[int, list[int]]:
    """The heads that take part, by layer; within a layer near those that they hear from."""
    places = dict.fromkeys(place for u, v, _ in kept for place in (u, v))
    layers = sorted({circuit.names[p][0] for p in places if p >= 0})
    columns = {
        layer: [p for p in sorted(places) if p >= 0 and circuit.names[p][0] == layer]
        for layer in layers
    }
    if -1 in places:
        columns[-1] = [-1]
    rank: dict[int, float] = {}
    for heads in columns.values():
        heads.sort(key=lambda p: _heard(p, kept, rank))
        rank |= {p: i - (len(heads) - 1) / 2 for i, p in enumerate(heads)}
    return columns


def _heard(place: int, kept: list[Link], rank: dict[int, float]) -> float:
    weighted = [(abs(value), rank[u]) for u, v, value in kept if v == place and u in rank]
    total = sum(weight for weight, _ in weighted)
    return sum(weight * at for weight, at in weighted) / total if total else float(place)


def _nodes(
    circuit: Circuit, columns: dict[int, list[int]], method: str, height: float
) -> dict[int, Node]:
    values = circuit.score(method).values
    largest = float(values.abs().max()) or 1.0
    inside = circuit.truth.inside.tolist() if circuit.truth is not None else None
    nodes: dict[int, Node] = {}
    for column, heads in enumerate(columns.values()):
        for i, place in enumerate(heads):
            x = _MARGIN + column * _gap(columns)
            y = height / 2 + (i - (len(heads) - 1) / 2) * _ROW
            if place < 0:
                nodes[place] = Node(-1, "output", x, y, 12, False, "the metric")
                continue
            size = round(9 + 7 * (max(float(values[place]), 0) / largest) ** 0.5, 1)
            name = head_name(circuit.names[place])
            title = f"head {name}: {method} {three_digits(float(values[place]))}"
            title += ", in the circuit" if inside and inside[place] else ""
            nodes[place] = Node(place, name, x, y, size, bool(inside and inside[place]), title)
    return nodes
