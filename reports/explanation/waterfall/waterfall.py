"""Where relevance goes: a ledger as words, bars and a table, ready for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import isfinite
from operator import sub

from ....probe.relevance import Entry, Ledger
from ...html import percent, significant
from .ledger_steps import REASONS, SHARE, Step, steps

ROW, BAR_TOP, BAR, BASE = 34, 19, 9, 13
_WORDS = {"bias": "biases", "stabiliser": "stabilisers", "leak": "no account"}
_SHOWN = 5e-4
_LONGEST = 34
_ROUNDING, _DUST = 1e-9, 1e-5


@dataclass(frozen=True)
class Span:
    """A piece of a bar, from left to right in percent of the width, and its reason."""

    kind: str
    left: float
    width: float


@dataclass(frozen=True)
class Bar:
    """A row of the picture: what it is, what it takes, and its pieces.

    after  where the relevance stands below the row, in percent of the width
    """

    label: str
    op: str
    title: str
    amount: str
    spans: tuple[Span, ...]
    after: float
    y: int

    @property
    def base(self) -> int:
        """Where its words stand."""
        return self.y + BASE

    @property
    def top(self) -> int:
        """Where its pieces begin; they are `BAR` high."""
        return self.y + BAR_TOP

    @property
    def next(self) -> int:
        """Where the pieces of the row below end."""
        return self.top + ROW + BAR


@dataclass(frozen=True)
class Waterfall:
    """All that the page says of one ledger."""

    name: str
    words: str
    summary: str
    bars: tuple[Bar, ...]
    zero: float
    reasons: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def height(self) -> int:
        return ROW * len(self.bars)


def waterfalls(ledgers: Mapping[str, Ledger]) -> list[Waterfall]:
    """One for each ledger."""
    return [waterfall(name, ledger) for name, ledger in ledgers.items()]


def waterfall(name: str, ledger: Ledger) -> Waterfall:
    """A ledger in words, in bars where its numbers allow, and op by op."""
    entries = [*reversed(ledger), ledger.total]
    drawn = _drawn(ledger)
    bars, zero = _bars(ledger, steps(ledger)) if drawn else ((), 0.0)
    kinds = {span.kind for bar in bars for span in bar.spans}
    text = words(ledger)
    top = f" Largest: {_largest(ledger)}." if drawn and _largest(ledger) else ""
    summary = f"Waterfall of the relevance of {name}, from output to input. {text}{top}"
    reasons = tuple(reason for reason in (*REASONS, "small") if reason in kinds)
    return Waterfall(
        name, text, summary, bars, zero, reasons, tuple(_row(e, abs(ledger.start)) for e in entries)
    )


def words(ledger: Ledger) -> str:
    """What arrives and what does not, in one sentence."""
    if not isfinite(ledger.start) or not isfinite(ledger.arrived):
        return "The relevance is no finite number."
    if not ledger.start:
        return f"The score is 0; {significant(ledger.arrived)} reaches the input."
    clauses = [f"{percent(ledger.kept)} of the score reaches the input"]
    total = {reason: sum(getattr(s, reason) for s in steps(ledger)) for reason in REASONS}
    for reason, amount in total.items():
        share = amount / ledger.start
        if abs(share) >= _SHOWN:
            clauses.append(_ends(_WORDS[reason], share))
    return "; ".join(clauses) + "."


def _ends(where: str, share: float) -> str:
    if where == "no account":
        return f"{percent(abs(share))} is {'lost' if share > 0 else 'gained'} unaccounted for"
    return f"{percent(share)} ends in {where}" if share > 0 else f"{where} add {percent(-share)}"


def _drawn(ledger: Ledger) -> bool:
    amounts = [getattr(step, reason) for step in steps(ledger) for reason in REASONS]
    return bool(ledger.start) and all(map(isfinite, (ledger.start, ledger.arrived, *amounts)))


def _largest(ledger: Ledger) -> str:
    losses = sorted((s for s in steps(ledger) if s.ops == 1), key=lambda s: -abs(s.loss))
    taken = [s for s in losses[:3] if abs(s.loss) >= SHARE * abs(ledger.start)]
    return ", ".join(f"{s.name} {percent(-s.loss / ledger.start)}" for s in taken)


def _bars(ledger: Ledger, middle: Sequence[Step]) -> tuple[tuple[Bar, ...], float]:
    """Bars on one axis that holds zero and every level; and where zero is."""
    pieces = [_pieces(step, ledger.start) for step in middle]
    walks = _walks([[share for _, share in shares] for shares in pieces])
    axis = _Axis.over(0.0, 1.0, ledger.kept, *(level for walk in walks for level in walk))
    start = f"{significant(ledger.start)} = 100 %"
    end = f"{significant(ledger.arrived)} = {percent(ledger.kept)}"
    bars = [Bar("output", "", "output", start, (axis.span("end", 0, 1),), axis.at(1), 0)]
    for step, shares, walk in zip(middle, pieces, walks, strict=True):
        levels = zip(shares, pairwise(walk), strict=True)
        spans = tuple(axis.span(kind, *pair) for (kind, _), pair in levels)
        label, op = (_cut(step.place or step.op), step.op) if step.ops == 1 else (step.name, "")
        amount, y = _amount(step, ledger.start), ROW * len(bars)
        bars.append(Bar(label, op, step.name, amount, spans, axis.at(walk[-1]), y))
    kept, y = ledger.kept, ROW * len(bars)
    bars.append(Bar("input", "", "input", end, (axis.span("end", 0, kept),), axis.at(kept), y))
    return tuple(bars), axis.at(0)


@dataclass(frozen=True)
class _Axis:
    """From shares of the start to percent of the width."""

    low: float
    high: float

    @classmethod
    def over(cls, *levels: float) -> _Axis:
        return cls(min(levels), max(levels))

    def at(self, level: float) -> float:
        return round(100 * (level - self.low) / (self.high - self.low), 3)

    def span(self, kind: str, start: float, end: float) -> Span:
        left, right = sorted((self.at(start), self.at(end)))
        return Span(kind, left, round(right - left, 3))


def _walks(losses: Sequence[Sequence[float]]) -> list[list[float]]:
    """The levels that each row passes, from the one above it; the first stands at 1."""
    walks, at = [], 1.0
    for shares in losses:
        walk = list(accumulate(shares, sub, initial=at))
        at = walk[-1]
        walks.append(walk)
    return walks


def _pieces(step: Step, start: float) -> list[tuple[str, float]]:
    """What each reason takes of the start; joined ops and small losses are one neutral piece."""
    if step.ops > 1 or _size(step) < SHARE * abs(start):
        return [("small", step.loss / start)]
    shares = [(reason, getattr(step, reason) / start) for reason in REASONS]
    large = [(reason, share) for reason, share in shares if abs(share) >= _DUST]
    dust = step.loss / start - sum(share for _, share in large)
    return [*large[:-1], (large[-1][0], large[-1][1] + dust)]


def _size(step: Step) -> float:
    return max(abs(getattr(step, reason)) for reason in REASONS)


def _amount(step: Step, start: float) -> str:
    """The change in percent, and why where one op makes it."""
    why = [r for r in REASONS if step.ops < 2 and abs(getattr(step, r)) >= SHARE * abs(start)]
    change = -step.loss / start
    sign = "+" if change >= _SHOWN else ""
    return " ".join(filter(None, (", ".join(why), f"{sign}{percent(change)}")))


def _cut(text: str) -> str:
    """A long place without its middle."""
    if len(text) <= _LONGEST:
        return text
    half = (_LONGEST - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def _row(e: Entry, size: float) -> tuple[str, ...]:
    """An op in the table; what only rounding leaves is said to be about nothing."""
    amounts = (e.received, e.handed, e.bias, e.stabiliser, e.leak)
    cells = ("≈ 0" if 0 < abs(v) < _ROUNDING * size else significant(v) for v in amounts)
    return (e.op, e.place, *cells)
