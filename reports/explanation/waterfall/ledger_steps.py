"""A ledger read from the output down to the input: where the relevance goes, in few steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import isfinite
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ....probe.relevance import Ledger

SHARE = 1e-3
_MOST_OPS = 18  # with what lies between them and both ends at most 39 steps
REASONS = ("bias", "stabiliser", "leak")


@dataclass(frozen=True)
class Step:
    """One op, or many that lose little, with what each reason takes.

    ops    how many ops it stands for; 0 for what no op accounts for
    least  the size, as a share of the start, that none of many ops reaches
    """

    op: str
    place: str
    bias: float
    stabiliser: float
    leak: float
    ops: int = 1
    least: float = 0.0

    @property
    def loss(self) -> float:
        """What the step takes in all; negative where it adds."""
        return self.bias + self.stabiliser + self.leak

    @property
    def name(self) -> str:
        """Its place and op; how many ops it stands for; or that none accounts for it."""
        if self.ops == 1:
            return f"{self.place} {self.op}".strip()
        if not self.ops:
            return "not booked"
        return f"{self.ops} ops, each under {100 * self.least:.2g} %"


def steps(ledger: Ledger, share: float = SHARE) -> tuple[Step, ...]:
    """The losses in backward order; together they are the start less what arrived.

    Ops that each lose less than a share of the start are joined to one step between the others.
    """
    parts = [Step(e.op, e.place, e.bias, e.stabiliser, e.leak) for e in reversed(ledger)]
    least = _least(parts, share * abs(ledger.start))
    of_start = least / abs(ledger.start) if ledger.start else 0.0
    joined: list[Step] = []
    for large, run in groupby(parts, key=lambda part: _size(part) >= least):
        group = list(run)
        joined += group if large else [_joined(group, of_start)]
    rest = ledger.start - ledger.arrived - sum(step.loss for step in joined)
    if abs(rest) > share * abs(ledger.start):
        joined.append(Step("", "", 0.0, 0.0, rest, ops=0))
    elif isfinite(rest) and rest:
        joined = _with_rest(joined, rest)
    return tuple(joined)


def _size(step: Step) -> float:
    """The largest amount in a step, so that a gain does not hide a loss."""
    return max(abs(getattr(step, reason)) for reason in REASONS)


def _least(parts: Sequence[Step], least: float) -> float:
    """The size from which an op has a step of its own: few enough ops reach it."""
    sizes = sorted((_size(part) for part in parts), reverse=True)
    floor = max(least, 5e-324)
    if len(sizes) > _MOST_OPS and sizes[_MOST_OPS - 1] > floor:
        return next((s for s in reversed(sizes[:_MOST_OPS]) if s > sizes[_MOST_OPS]), float("inf"))
    return floor


def _joined(group: Sequence[Step], least: float) -> Step:
    bias, stabiliser, leak = (sum(getattr(part, reason) for part in group) for reason in REASONS)
    name, place = (group[0].op, group[0].place) if len(group) == 1 else ("", "")
    return Step(name, place, bias, stabiliser, leak, len(group), least)


def _with_rest(listed: list[Step], rest: float) -> list[Step]:
    """A rest too small to show goes with the last step."""
    if not listed:
        return [Step("", "", 0.0, 0.0, rest, ops=0)]
    return [*listed[:-1], replace(listed[-1], leak=listed[-1].leak + rest)]
