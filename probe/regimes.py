"""Every backward of a forward has one form, whichever regime it follows; two makers of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from torch import Tensor

from .backward import ModifiedBackward, modified_backward
from .capture import Recording
from .relevance import Ledger, Preset, propagate
from .targets import Target
from .trace import Value

Receive = Callable[[Value, Tensor], None]
Regime = str | ModifiedBackward | Preset


class Backward(Protocol):
    """One backward over the graph of a forward.

    score    what the target makes of the output, `b`, with its graph
    receive  is handed each value and what arrives there: its gradient, or its relevance
    retain   keep the graph for more backwards
    Returns the ledger of a relevance pass, where the forward held values for one.
    """

    def __call__(
        self,
        recording: Recording,
        target: Target,
        score: Tensor,
        values: Sequence[Value],
        receive: Receive,
        *,
        retain: bool,
    ) -> Ledger | None: ...


def backward_of(regime: Regime) -> Backward:
    """The backward of a regime: "plain", "guided", "deconv", or a preset of relevance rules."""
    if isinstance(regime, Preset):
        return relevance_backward(regime)
    return gradient_backward(modified_backward(regime) if isinstance(regime, str) else regime)


def gradient_backward(regime: ModifiedBackward) -> Backward:
    """Autograd's backward, its gradients changed at some ops."""

    def run(
        recording: Recording,
        target: Target,
        score: Tensor,
        values: Sequence[Value],
        receive: Receive,
        *,
        retain: bool,
    ) -> None:
        recording.tape.backward(score, values, receive, regime, retain=retain)

    return run


def relevance_backward(preset: Preset) -> Backward:
    """Relevance from the target down, op by op; the graph stays for more."""

    def run(
        recording: Recording,
        target: Target,
        score: Tensor,
        values: Sequence[Value],
        receive: Receive,
        *,
        retain: bool,
    ) -> Ledger | None:
        scores = partial(target, samples=recording.given.samples)
        return propagate(recording, scores, values, receive, preset)

    return run
