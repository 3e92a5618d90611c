"""The circuit as a graph: heads by layer, the largest edges between them and to the output."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from torch import Tensor

from ...methods.circuits.circuit import Circuit
from ...probe.errors import MethodError
from ..html import three
from .text import head_name

if TYPE_CHECKING:
    from plotly.graph_objects import Figure, Scatter

_HELPS, _AGAINST, _OUTSIDE = "#4b7a0a", "#c2620c", "#9a9ea6"
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
    known = [name for name, score in circuit.scores.items() if score.edges is not None]
    best = [name for name in known if name.partition(",")[0] == "edge_attribution"]
    return next(iter([*best, *known]), "")


def links(circuit: Circuit, method: str, count: int = EDGES) -> list[Link]:
    """The largest edges, those to the output included where the method gives them."""
    score = circuit.score(method)
    signed: Tensor = score.facts.get("signed edges", score.edges)
    found = [(u, v, float(signed[u, v])) for u, v in (signed != 0).nonzero().tolist()]
    out = score.facts.get("to output")
    if out is not None:
        found += [(u, -1, float(value)) for u, value in enumerate(out) if value]
    return sorted(found, key=lambda link: -abs(link[2]))[:count]


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
            f"{nodes[u].name} → {nodes[v].name}: {three(abs(value))}",
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
    used = dict.fromkeys(place for u, v, _ in kept for place in (u, v))
    layers = sorted({circuit.names[p][0] for p in used if p >= 0})
    columns = {
        layer: [p for p in sorted(used) if p >= 0 and circuit.names[p][0] == layer]
        for layer in layers
    }
    if -1 in used:
        columns[-1] = [-1]
    rank: dict[int, float] = {}
    for heads in columns.values():
        heads.sort(key=lambda p: _heard(p, kept, rank))
        rank |= {p: i - (len(heads) - 1) / 2 for i, p in enumerate(heads)}
    return columns


def _heard(place: int, kept: list[Link], rank: dict[int, float]) -> float:
    own = [(abs(value), rank[u]) for u, v, value in kept if v == place and u in rank]
    total = sum(weight for weight, _ in own)
    return sum(weight * at for weight, at in own) / total if total else float(place)


def _nodes(
    circuit: Circuit, columns: dict[int, list[int]], method: str, height: float
) -> dict[int, Node]:
    values = circuit.score(method).values
    largest = float(values.abs().max()) or 1.0
    inside = circuit.truth.inside.tolist() if circuit.truth is not None else None
    found: dict[int, Node] = {}
    for column, heads in enumerate(columns.values()):
        for i, place in enumerate(heads):
            x = _MARGIN + column * _gap(columns)
            y = height / 2 + (i - (len(heads) - 1) / 2) * _ROW
            if place < 0:
                found[place] = Node(-1, "output", x, y, 12, False, "the metric")
                continue
            size = round(9 + 7 * (max(float(values[place]), 0) / largest) ** 0.5, 1)
            name = head_name(circuit.names[place])
            title = f"head {name}: {method} {three(float(values[place]))}"
            title += ", in the circuit" if inside and inside[place] else ""
            found[place] = Node(place, name, x, y, size, bool(inside and inside[place]), title)
    return found


def graph_figure(circuit: Circuit, method: str = "", count: int = EDGES) -> Figure:
    """The graph as a Plotly figure, for notebooks. Raises MethodError where no score has edges."""
    from plotly.graph_objects import Figure

    found = graph(circuit, method, count)
    if found is None:
        raise MethodError(
            "a graph was asked for, but no method here gives edges: run edge_attribution"
        )
    figure = Figure([*map(_drawn, found.edges), _heads(found)])
    figure.update_layout(showlegend=False).update_yaxes(visible=False)
    return figure.update_xaxes(
        tickvals=[x for x, _ in found.layers], ticktext=[name for _, name in found.layers]
    )


def _drawn(edge: Edge) -> Scatter:
    """An edge with its words in the middle."""
    from plotly.graph_objects import Scatter

    a, b = edge.start, edge.end
    line = {"width": edge.width, "color": _HELPS if edge.helps else _AGAINST}
    return Scatter(
        x=[a.x, (a.x + b.x) / 2, b.x],
        y=[-a.y, -(a.y + b.y) / 2, -b.y],
        mode="lines",
        line=line,
        opacity=0.6,
        text=escape(edge.title),
        hoverinfo="text",
    )


def _heads(found: Graph) -> Scatter:
    from plotly.graph_objects import Scatter

    marker = {
        "size": [2 * n.size for n in found.nodes],
        "color": [_HELPS if n.inside else _OUTSIDE for n in found.nodes],
    }
    return Scatter(
        x=[n.x for n in found.nodes],
        y=[-n.y for n in found.nodes],
        mode="markers+text",
        marker=marker,
        text=[n.name for n in found.nodes],
        textposition="top center",
        hovertext=[escape(n.title) for n in found.nodes],
        hoverinfo="text",
    )
