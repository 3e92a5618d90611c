"""The axes of values, read off the graph of a forward from its inputs on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from torch.autograd.graph import Node

from .axis import Axis, Dimensions, dimensions
from .graph_rules import RULES
from .naming import ContradictionError, name_all
from .shape_rules import unknown

Edge = tuple[Node, int]
_STEM = re.compile(r"Backwards?\d*$")
_rules: dict[str, Any] = {}


class AxesReading:
    """What the dimensions of values are, as far as the ops that made and used them tell.

    Inputs start with a batch in front, or with the names they were declared by; ops name the rest.
    """

    def __init__(self) -> None:
        self._known: dict[Edge, Dimensions] = {}
        self._told: list[tuple[Edge, tuple[str, ...], str]] = []
        self._followed = False  # to the end
        self.heard = False  # an op has told more than its node does
        self.contradictions: dict[Axis, ContradictionError] = {}

    def start(self, edge: Edge, shape: Sequence[int], names: Iterable[str] = ("b",)) -> None:
        """A value that enters the graph here."""
        self._known[edge] = dimensions(shape, names)

    def tell(self, edge: Edge, names: Iterable[str], op: str) -> None:
        """What an op says by its arguments and not by its node: `batch_first`."""
        self.heard = True
        self._told.append((edge, tuple(names), op))

    def of(self, edge: Edge) -> Dimensions:
        """The dimensions of a value by its place in the graph."""
        known = self._known
        if edge in known:
            return known[edge]
        todo = [edge]
        while todo:
            place = todo[-1]
            given: list[Dimensions | None] = []
            for parent in place[0].next_functions:
                dims = known.get(parent)  # type: ignore[arg-type]
                if dims is None and parent[0] is not None:
                    todo.append(parent)  # type: ignore[arg-type]
                given.append(dims)
            if todo[-1] is place:
                if place not in known:
                    known[place] = self._apply(*place, given)
                todo.pop()
        return known[edge]

    def _apply(self, node: Any, nr: int, given: list[Dimensions | None]) -> Dimensions:
        title = node.name()
        try:
            rule = _rules[title]
        except KeyError:
            rule = _rules[title] = RULES.get(_STEM.sub("", title), unknown)
        try:
            return rule(node, given, nr)  # type: ignore[no-any-return]
        except ContradictionError as error:
            self.contradictions.setdefault(error.axis, error)
            return unknown(node, given, nr)

    def settle(self, dims: Dimensions, order: Iterable[Node]) -> None:
        """Follow the graph until the ops that use a value have named its axes."""
        told, self._told = self._told, []
        for edge, names, op in told:
            try:
                name_all(self.of(edge), names, op)
            except ContradictionError as error:
                self.contradictions.setdefault(error.axis, error)
        if self._followed or named(dims):
            return
        followed = False
        for node in order:
            for nr in range(len(node._input_metadata)):
                self.of((node, nr))
            if named(dims):
                return
            followed = True
        self._followed = followed


def named(dims: Dimensions) -> bool:
    """Whether every axis has a name or is made of ones that have."""
    return all(
        factor.axis.name or factor.axis.whole or factor.size == 1 for dim in dims for factor in dim
    )
