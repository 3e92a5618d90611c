"""The pages of single heads: their scores, their edges, what codes they use, what they do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...methods.circuits.circuit import Circuit
from ..html import or_dash, percent, significant_or_zero, three_digits
from .attention_maps import Seen, roles, seen
from .graph import edge_method
from .text import head_name

_CODES, _EDGES, _TABLES = 20, 6, 2


@dataclass(frozen=True)
class Usage:
    """How often a head's codes stand for clean and for corrupt inputs: (code, share, share)."""

    method: str
    used: int
    bars: tuple[tuple[str, float, float], ...]
    rest: tuple[float, float] | None

    @property
    def all(self) -> tuple[tuple[str, float, float], ...]:
        """The bars, and one more for all other codes where there are any."""
        return self.bars if self.rest is None else (*self.bars, ("rest", *self.rest))

    @property
    def most(self) -> float:
        """The largest share."""
        return max(max(a, b) for _, a, b in self.all)


@dataclass(frozen=True)
class Link:
    """An edge to or from another head: its place, name, score, and width in percent."""

    place: int
    name: str
    score: str
    width: float


@dataclass(frozen=True)
class HeadPage:
    """All that is said of one head.

    rows   for each method: rank, score, null, p, q
    roles  (name, what it means, value)
    summary  the head in words
    """

    place: int
    name: str
    inside: bool
    summary: str
    rows: tuple[tuple[str, str, str, str, str, str], ...]
    roles: tuple[tuple[str, str, str, float], ...]
    usage: tuple[Usage, ...]
    incoming: tuple[Link, ...]
    outgoing: tuple[Link, ...]
    reason: str
    drawn: bool


def head_pages(circuit: Circuit, heads: int, prompts: int) -> tuple[list[HeadPage], Seen]:
    """One for each of the heads that the first method ranks first, and their maps."""
    places = [circuit.names.index(head) for head in circuit.top(heads)]
    maps = seen(circuit, places, prompts)
    by_place = roles(circuit, places)
    return [_page(circuit, place, maps, by_place.get(place, [])) for place in places], maps


def _page(
    circuit: Circuit, place: int, maps: Seen, head_roles: Sequence[tuple[str, str, float]]
) -> HeadPage:
    inside = circuit.truth is not None and bool(circuit.truth.inside[place])
    incoming, outgoing = _edges(circuit, place)
    return HeadPage(
        place,
        head_name(circuit.names[place]),
        inside,
        _summary(circuit, place),
        tuple(_row(circuit, name, place) for name in circuit.scores),
        tuple(
            (n, meaning, three_digits(v), round(100 * min(max(v, 0), 1), 1))
            for n, meaning, v in head_roles
        ),
        tuple(_usages(circuit, place)),
        incoming,
        outgoing,
        maps.reasons.get(place, ""),
        place in maps.maps,
    )


def _summary(circuit: Circuit, place: int) -> str:
    """What the truth says of a head, and which way it works."""
    sentences = []
    truth = circuit.truth
    if truth is not None:
        name = circuit.names[place]
        groups = [group for group, heads in truth.groups.items() if name in heads]
        where = f", as {' and '.join(groups)}" if groups and groups != ["heads"] else ""
        sentences.append(
            f"In the circuit{where}." if truth.inside[place] else "Not in the circuit."
        )
        if truth.effects is not None:
            effect = float(truth.effects[place])
            does = "lowers" if effect >= 0 else "raises"
            sentences.append(
                f"Giving its output on the corrupt input, it alone {does} the metric by "
                f"{percent(abs(effect))} of the fall from clean to corrupt."
            )
    return " ".join(sentences)


def _row(circuit: Circuit, method: str, place: int) -> tuple[str, str, str, str, str, str]:
    score = circuit.scores[method]
    rank = int((score.values > score.values[place]).sum()) + 1
    null = None if score.null is None else score.null.mean(0)
    cells = (_at(values, place) for values in (score.values, null, score.p, score.q))
    return method, str(rank), *cells  # type: ignore[return-value]


def _at(values: Tensor | None, place: int) -> str:
    return or_dash(None if values is None else float(values[place]), significant_or_zero)


def _edges(circuit: Circuit, place: int) -> tuple[tuple[Link, ...], tuple[Link, ...]]:
    method = edge_method(circuit)
    if not method:
        return (), ()
    edges: Any = circuit.score(method).edges
    largest = float(edges.max()) or 1.0
    sides = []
    for row in (edges[:, place], edges[place]):
        order = row.argsort(descending=True)[:_EDGES].tolist()
        sides.append(
            tuple(
                Link(
                    i,
                    head_name(circuit.names[i]),
                    significant_or_zero(v),
                    round(100 * v / largest, 1),
                )
                for i in order
                if (v := float(row[i])) > 0
            )
        )
    return sides[0], sides[1]


def _usages(circuit: Circuit, place: int) -> list[Usage]:
    usages: list[Usage] = []
    for method, score in circuit.scores.items():
        codes = score.facts.get("codes")
        if not isinstance(codes, Tensor) or len(usages) == _TABLES:
            continue
        of_head = codes_of(codes, place, len(circuit.names), 2 * len(circuit.pairs))
        if of_head is not None:
            usages.append(_usage(method, of_head))
    return usages


def codes_of(codes: Tensor, place: int, heads: int, examples: int) -> Tensor | None:
    """One head's code of every example, from `h e`, or the first seed of `s e h`."""
    if codes.ndim == 3:
        codes = codes[0].T
    elif codes.shape == (examples, heads) and examples != heads:
        codes = codes.T
    return codes[place] if codes.shape == (heads, examples) else None


def _usage(method: str, codes: Tensor) -> Usage:
    """The commonest codes, their shares of clean and of corrupt inputs."""
    names, place = codes.unique(return_inverse=True)
    half = len(codes) // 2
    clean, corrupt = (
        torch.bincount(side, minlength=len(names)).double() / half for side in place.split(half)
    )
    order = (clean + corrupt).argsort(descending=True, stable=True)
    shown, others = order[:_CODES], order[_CODES:]
    bars = tuple(
        (str(int(names[i])), round(float(clean[i]), 4), round(float(corrupt[i]), 4))
        for i in shown.tolist()
    )
    rest = None
    if len(others):
        rest = round(float(clean[others].sum()), 4), round(float(corrupt[others].sum()), 4)
    return Usage(method, len(names), bars, rest)
