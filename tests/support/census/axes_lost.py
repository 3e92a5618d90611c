"""Where in a graph the reading of axes lost them."""

from __future__ import annotations

import re
from typing import Any

import limelight as ll
from limelight.probe.axes.graph_rules import RULES
from limelight.probe.axes.reading import named
from limelight.probe.trace import Value

_STEM = re.compile(r"Backwards?\d*$")


def stem(node: Any) -> str:
    return _STEM.sub("", node.name())


def without_rule(probe: ll.Probe) -> list[str]:
    """Nodes of the last graph that no rule speaks of."""
    found = {stem(node) for node in probe._last.tape.order()}  # type: ignore[union-attr]
    return sorted(n for n in found if n not in RULES and "AccumulateGrad" not in n)


def lost_at(probe: ll.Probe, value: Value) -> list[str]:
    """The nodes that were given axes with names and returned nameless ones, seen from a value.

    A node may be given nameless axes as well, of another value that it takes.
    """
    reading = probe._last.axes.reading  # type: ignore[union-attr]
    if value.edge is None:
        return ["no graph"]
    found: set[str] = set()
    done = set()
    todo = [value.edge]
    while todo:
        place = todo.pop()
        if place in done or named(reading.of(place)):
            continue
        done.add(place)
        inner = [p for p in place[0].next_functions if p[0] is not None and not _is_leaf(p[0])]
        lost = [p for p in inner if not named(reading.of(p))]
        if not inner:
            found.add(f"start {stem(place[0])}")
        elif len(lost) < len(inner):
            found.add(stem(place[0]))
        todo += lost
    return sorted(found) or ["nothing names them"]


def _is_leaf(node: Any) -> bool:
    return "AccumulateGrad" in node.name()
