"""Gradient regimes: what a backward does at certain ops, decided while it runs.

A regime maps op names to rules. A rule sits on the autograd nodes that the op made in the
forward, so every regime runs on the same forward, and the forward itself is never altered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from ..errors import ProbeError, near

if TYPE_CHECKING:
    from ..ops import OpRecord

Grads = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class BackwardRule:
    """What happens to gradients at one op.

    before  changes the gradient of the op's output on arrival
    after   changes the gradient of the op's input: (plain input gradients, output gradients)
    """

    before: Callable[[Grads], Grads] | None = None
    after: Callable[[Grads, Grads], Grads] | None = None


@dataclass(frozen=True)
class ModifiedBackward:
    """A name and its rules; `rectifier` is the key of every ReLU-like op."""

    name: str
    rules: Mapping[str, BackwardRule] = field(default_factory=dict)

    def rule(self, op: OpRecord) -> BackwardRule | None:
        """The rule for an op, if any."""
        return self.rules.get(op.name) or (self.rules.get("rectifier") if op.rectifies else None)


def _positive(grads: Grads) -> Grads:
    return tuple(None if g is None else g.clamp(min=0) for g in grads)


REGIMES: dict[str, ModifiedBackward] = {
    "plain": ModifiedBackward("plain"),
    # p -> f'(x) max(p, 0)          Springenberg et al., arXiv 1412.6806
    "guided": ModifiedBackward("guided", {"rectifier": BackwardRule(before=_positive)}),
    # p -> max(p, 0)                Zeiler and Fergus, arXiv 1311.2901
    "deconv": ModifiedBackward(
        "deconv",
        {"rectifier": BackwardRule(after=lambda inputs, grads: _positive(grads[:1]) + inputs[1:])},
    ),
}


def modified_backward(name: str) -> ModifiedBackward:
    """The regime of that name. Raises ProbeError with near names."""
    if name not in REGIMES:
        raise ProbeError(
            f"regime {name!r} is unknown (there are: {', '.join(REGIMES)}){near(name, REGIMES)}"
        )
    return REGIMES[name]
