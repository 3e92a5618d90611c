"""What a recorded forward taught, so that the next one like it needs no look at its ops."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..axes import Known
from ..backward import fingerprint, tensors_of
from ..sites import ModuleTree
from ..trace import Hole
from .recording import Recording

_MOST = 64  # kinds of forwards that are remembered of one model


@dataclass
class Learnt:
    """Of the forwards of one model on inputs of one kind, with the same sites watched.

    calm     nothing that is captured is written over, and no op told axes by its arguments alone
    plain    every node passes a gradient on, and none writes into a part of a tensor
    graph    the fingerprint of its graph
    """

    axes: dict[Any, Known] = field(default_factory=dict)
    calm: bool = False
    restless: bool = False
    plain: bool = False
    holes: tuple[Hole, ...] = ()
    graph: int = 0

    def learn(self, recording: Recording, output: Any) -> None:
        """Take over what a forward showed whose ops were all seen."""
        names = {node.name() for node in recording.tape.order()}
        self.plain = not any(n.endswith(("NotImplemented", "CopySlices")) for n in names)
        self.holes = tuple(recording.trace.holes)
        self.graph, self.axes = _graph(recording, output), recording.axes.cache
        heard = recording.axes.reading.heard or recording.axes.main is None
        self.calm = not (self.restless or recording.touched or heard)

    def confirms(self, recording: Recording, output: Any) -> bool:
        """Whether a forward whose ops nobody saw made the graph of the one that was seen.

        If not, none is believed any more.
        """
        same = _graph(recording, output) == self.graph and not recording.overtaken
        self.restless = self.restless or not same
        self.calm = self.calm and same
        return same


def learnt_of(tree: ModuleTree, key: object) -> Learnt | None:
    """What is known of a kind of forward of these modules; None for a key that has no hash."""
    known: Any = tree.known("forwards", dict)
    try:
        found = known.get(key)
    except TypeError:
        return None
    if found is None:
        if len(known) >= _MOST:
            known.clear()
        found = known[key] = Learnt()
    return found  # type: ignore[no-any-return]


def _graph(recording: Recording, output: Any) -> int:
    """The graph of a forward, with the places of what was captured and of the output."""
    edges = [v.edge for v in recording.trace.values_by_site.values() if v.edge is not None]
    ends = [(t.grad_fn, t.output_nr) for t in tensors_of(output) if t.grad_fn is not None]
    return fingerprint(recording.tape.roots, [*edges, *ends])
