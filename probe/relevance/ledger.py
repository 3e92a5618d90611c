"""The books of one relevance pass: what each op received, handed on, and where the rest went.

Booked by edge of the autograd graph, in float64: received is the sum of y g over an op's results,
handed the sum of x g over its inputs, each with the values that they had at the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, overload

import torch
from torch import Tensor

from ..ops import kind_of

if TYPE_CHECKING:
    from pandas import DataFrame

    from ..backward import Tape
    from ..ops import Edge, OpRecord
    from ..trace import Value

COLUMNS = ("op", "place", "received", "handed", "bias", "stabiliser", "leak", "absolute")


@dataclass(frozen=True)
class Entry:
    """One op: relevance in, out, into biases, into the stabiliser; sum of absolute values in."""

    op: str
    place: str
    received: float
    handed: float
    bias: float
    stabiliser: float
    absolute: float

    @property
    def leak(self) -> float:
        """What is received and not accounted for."""
        return self.received - self.handed - self.bias - self.stabiliser

    def row(self) -> tuple[str | float, ...]:
        return tuple(getattr(self, name) for name in COLUMNS)


@dataclass(frozen=True)
class Ledger(Sequence[Entry]):
    """Entries in the order in which the forward ran, and what reached the input.

    start   relevance at the output
    arrived relevance at the inputs
    """

    entries: tuple[Entry, ...]
    start: float
    arrived: float

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Entry, ...]: ...
    def __getitem__(self, index: int | slice) -> Entry | tuple[Entry, ...]:
        return self.entries[index]

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries)

    @property
    def kept(self) -> float:
        """The share of the starting relevance that arrives at the input."""
        return self.arrived / self.start if self.start else float("nan")

    @property
    def total(self) -> Entry:
        """All ops as one: what the start loses on its way, by reason."""
        bias, stabiliser = (sum(getattr(e, n) for e in self) for n in ("bias", "stabiliser"))
        absolute = max((e.absolute for e in self), default=0.0)
        return Entry("total", "", self.start, self.arrived, bias, stabiliser, absolute)

    def leaks(self, share: float = 1e-4) -> tuple[Entry, ...]:
        """The ops whose leak exceeds a share of the relevance that passes through them."""
        return tuple(e for e in self if abs(e.leak) > share * max(e.absolute, abs(self.start)))

    def to_pandas(self) -> DataFrame:
        """A table, a row an op and a last one for the total."""
        import pandas

        return pandas.DataFrame([e.row() for e in (*self, self.total)], columns=list(COLUMNS))

    def __str__(self) -> str:
        return self.to_pandas().to_string(index=False, float_format=lambda v: f"{v:.4g}")


@dataclass(eq=False)
class Books:
    """Where a relevance pass writes while it runs; values by edge were held by the forward."""

    values: dict[Edge, Value]
    amounts: dict[str, dict[str, float]] = field(default_factory=dict)
    giver: str = ""
    start: float = 0.0

    def _add(self, place: str, what: str, amount: float) -> None:
        entry = self.amounts.setdefault(place, {})
        entry[what] = entry.get(what, 0.0) + amount

    def relevance(self, edge: Edge, g: Tensor | None, r: Tensor | None) -> Tensor | None:
        """Relevance at an edge, element by element; None where no value is known there."""
        value = self.values.get(edge)
        if value is None:
            return None
        total = torch.zeros_like(value.act, dtype=torch.float64)
        if g is not None:
            total = total + value.act.double() * g.double()
        return total if r is None else total + r.double()

    def receive(self, place: str, edge: Edge, g: Tensor | None, r: Tensor | None) -> None:
        """An op's result receives all that its consumers have handed it."""
        found = self.relevance(edge, g, r)
        if found is not None:
            self._add(place, "received", found.sum().item())
            self._add(place, "absolute", found.abs().sum().item())

    def hand(self, edge: Edge, x: Tensor, *, relevance: bool) -> None:
        """The op at work hands something to one of its inputs."""
        g, r = (None, x) if relevance else (x, None)
        found = self.relevance(edge, g, r)
        if found is not None and self.giver:
            self._add(self.giver, "handed", found.sum().item())

    def absorb(self, what: str, amount: Tensor) -> None:
        """The op at work leaves relevance in its bias or its stabiliser."""
        self._add(self.giver, what, amount.double().sum().item())

    def opened(self, seeds: Iterable[tuple[Edge, Tensor]]) -> Books:
        """The books with what starts at the output."""
        for edge, g in seeds:
            found = self.relevance(edge, g, None)
            self.start += 0.0 if found is None else found.sum().item()
        return self

    def close(self, tape: Tape) -> Ledger:
        """The ledger, entries in the order in which the ops ran."""
        entries = []
        for op in tape.ops:
            found = self.amounts.pop(op.place, None)
            if found:
                entries.append(_entry(op, found))
        arrived = sum(found.get("received", 0.0) for found in self.amounts.values())
        return Ledger(tuple(entries), self.start, arrived)


def _entry(op: OpRecord, found: dict[str, float]) -> Entry:
    name, _, path = op.place.partition(" in ")
    given = {key: found.get(key, 0.0) for key in _KEYS}
    entry = Entry(name, path, **given)
    return replace(entry, bias=entry.bias + entry.leak) if _adds_a_constant(op) else entry


def _adds_a_constant(op: OpRecord) -> bool:
    """Whether what an op does not hand on is the share of something constant that it adds."""
    if kind_of(op.name) in ("norm", "batch_norm"):
        return True
    if op.name in ("cat", "stack"):  # a learned token in front of the others
        return any(node is None for node, _ in op.nodes[0].next_functions)
    return (
        op.name in ("add", "sub")
        and op.call is not None
        and sum(o.edge is not None for o in op.call.operands) < 2
    )


_KEYS = ("received", "handed", "bias", "stabiliser", "absolute")
