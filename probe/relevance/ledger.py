"""The ledger of one relevance pass: what each op received, handed on, and where the rest went.

Booked by edge of the autograd graph, in float64: received is the sum of y g over an op's results,
handed the sum of x g over its inputs, each with the values that they had at the time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, overload

import torch
from torch import Tensor
from torch.autograd.graph import Node

from ..ops import spec_of
from .messages import Arrived, Message, ends

if TYPE_CHECKING:
    from pandas import DataFrame

    from ..backward import Tape
    from ..ops import Edge, OpRecord
    from ..results.figure import Figure
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


@dataclass(frozen=True, repr=False)
class Ledger(Sequence[Entry]):
    """Entries in the order in which the forward ran, and what reached the input.

    start   relevance at the output
    arrived relevance at the inputs

    Example:
        >>> books = ll.ledger(net, x, "lrp:epsilon", target=1)
        >>> [entry.op for entry in books][:2]
        ['conv2d.0', 'relu.0']
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

    def figure(self, most: int = 25) -> Figure:
        """Where the relevance ends, as a plotly figure: at the input, or in an op's biases,
        stabiliser or leak; the `most` ops that take most of it.

        `figure.save("ledger.pdf")` prints it. Raises LimelightError without plotly.
        """
        from ..results.figure import figure
        from ..results.panels import Bars

        def taken(entry: Entry) -> float:
            return max(abs(entry.bias), abs(entry.stabiliser), abs(entry.leak))

        shown = sorted(sorted(self, key=taken, reverse=True)[:most], key=self.entries.index)
        names = ["at the input", *(f"{e.op} {e.place}".strip() for e in shown)]
        series = {
            "arrives": [self.arrived, *(0.0 for _ in shown)],
            "biases": [0.0, *(e.bias for e in shown)],
            "stabiliser": [0.0, *(e.stabiliser for e in shown)],
            "leak": [0.0, *(e.leak for e in shown)],
        }
        title = f"{self.kept:.1%} of the relevance {self.start:.4g} arrives at the input"
        note = "" if len(shown) == len(self) else f"{len(shown)} of {len(self)} ops, the largest"
        return figure([Bars(title, names, series, "relevance", note)])

    def __repr__(self) -> str:
        return f"Ledger({len(self)} ops, {self.kept:.1%} of {self.start:.4g} kept)"

    def _repr_html_(self) -> str:
        table: str = self.to_pandas().to_html(index=False, float_format="{:.4g}".format)
        return f"<p>{self.kept:.1%} of {self.start:.4g} is kept.</p>{table}"

    def __str__(self) -> str:
        table: str = self.to_pandas().to_string(index=False, float_format=lambda v: f"{v:.4g}")
        return table


@dataclass(eq=False)
class LedgerRecorder:
    """What a relevance pass writes its ledger into; values by edge were held by the forward.

    place    the op at work, which what is sent and absorbed belongs to
    amounts  by place, how much was received, handed on, absorbed
    start    relevance at the output
    """

    values: dict[Edge, Value]
    place: str = ""
    amounts: dict[str, dict[str, float]] = field(default_factory=dict)
    start: float = 0.0

    def begin(self, edge: Edge, g: Tensor) -> None:
        """What the pass starts with at an output."""
        relevance = self._relevance(edge, g, None)
        self.start += 0.0 if relevance is None else relevance.sum().item()

    def enter(self, place: str, node: Node, g: Arrived, r: Arrived) -> None:
        """The op at `place` goes to work: its results have received all that was sent to them."""
        self.place = place
        for nr in {**g, **r}:
            relevance = self._relevance((node, nr), g.get(nr), r.get(nr))
            if relevance is not None:
                self._add("received", relevance.sum().item())
                self._add("absolute", relevance.abs().sum().item())

    def sent(self, message: Message) -> None:
        """The op at work hands something to one of its inputs."""
        edge, x, is_relevance = message
        if edge is None or not self.place:
            return
        g, r = (None, x) if is_relevance else (x, None)
        relevance = self._relevance(edge, g, r)
        if relevance is not None:
            self._add("handed", relevance.sum().item())

    def absorb(self, what: str, amount: Tensor) -> None:
        """The op at work leaves relevance in its bias or its stabiliser."""
        self._add(what, amount.double().sum().item())

    def close(self, tape: Tape) -> Ledger:
        """The ledger, entries in the order in which the ops ran."""
        entries = []
        for op in tape.ops:
            amounts = self.amounts.pop(op.place, None)
            if amounts:
                entries.append(_entry(op, amounts))
        arrived = sum(amounts.get("received", 0.0) for amounts in self.amounts.values())
        return Ledger(tuple(entries), self.start, arrived)

    def _add(self, what: str, amount: float) -> None:
        amounts = self.amounts.setdefault(self.place, {})
        amounts[what] = amounts.get(what, 0.0) + amount

    def _relevance(self, edge: Edge, g: Tensor | None, r: Tensor | None) -> Tensor | None:
        """Relevance at an edge, element by element; None where no value is known there."""
        value = self.values.get(edge)
        if value is None:
            return None
        total = torch.zeros(value.act.shape, dtype=torch.float64, device=value.act.device)
        if g is not None:
            total = total + _booked(value.act, g)
        return total if r is None else total + r.double()


def _booked(x: Tensor, g: Tensor) -> Tensor:
    """x g in float64; of complex numbers re(conj(x) g), what x changes per its own length."""
    if not x.is_complex():
        return x.double() * g.double()
    product: Tensor = x.to(torch.complex128).conj() * g.to(torch.complex128)
    return product.real


def _entry(op: OpRecord, amounts: dict[str, float]) -> Entry:
    name, _, path = op.place.partition(" in ")
    entry = Entry(name, path, **{key: amounts.get(key, 0.0) for key in _AMOUNTS})
    return replace(entry, bias=entry.bias + entry.leak) if _adds_a_constant(op) else entry


def _adds_a_constant(op: OpRecord) -> bool:
    """Whether what an op does not hand on is the share of something constant that it adds."""
    constant = spec_of(op.name).constant
    if constant == "input":  # a bias, or a learned token in front of the others
        return any(node is None or ends(node) for node, _ in op.nodes[0].next_functions)
    return constant == "own"


_AMOUNTS = ("received", "handed", "bias", "stabiliser", "absolute")
