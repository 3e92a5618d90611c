"""Targets that know how to read a model's outputs, also those that come without a graph."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..capture import input_tensors
from ..errors import ProbeError
from ..probe import Probe
from ..sites import Adapter
from ..targets import Given, Target
from .batch import Batch


def given_to(batch: Batch) -> Given:
    """What a model is given with a batch."""
    x = input_tensors(batch.args, batch.kwargs)[batch.explained]
    return Given(len(batch), x.shape[1] if batch.ids and x.ndim == 2 else 0)


def settled(
    model: nn.Module, batch: Batch, wanted: Sequence[Target], adapter: Adapter | None = None
) -> list[Target]:
    """The targets settled on one more forward, of one sample with a graph, where one needs it.

    The graph says whether the model ends in a softmax or a sigmoid. Where a model can build none,
    its outputs must tell.
    """
    if not any(t.reading is not None and t.reading.open for t in wanted):
        return list(wanted)
    one = batch if batch.doubtful else batch.take([0])
    try:
        with Probe(model, adapter=adapter) as probe:
            output = probe(*one.args, **one.kwargs)
            return [t.settle(output, given_to(one)) for t in wanted]
    except ProbeError:
        return list(wanted)
