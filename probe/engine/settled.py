"""Targets that know how to read a model's outputs, also those that come without a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..capture import input_tensors
from ..errors import ProbeError
from ..probe import Probe
from ..sites import Adapter
from ..targets import Given, Target
from .batch import Batch


def given_to(batch: Batch, probe: Probe | None = None) -> Given:
    """What a model is given with a batch.

    probe  that ran it last, and knows the axes of what came out
    """
    x = input_tensors(batch.args, batch.kwargs)[batch.explained]
    tokens = x.shape[1] if batch.ids and x.ndim == 2 else 0
    return Given(len(batch), tokens, None if probe is None else probe.given.axes)


def settled(
    model: nn.Module,
    batch: Batch,
    wanted: Sequence[Target],
    output: Any = None,
    adapter: Adapter | None = None,
) -> list[Target]:
    """The targets settled on one more forward, of one sample with a graph, where one needs it.

    The graph says whether the model ends in a softmax or a sigmoid, and what the dimensions of its
    output are. Where a model can build none, its outputs must tell.

    output  of the batch, without a graph, where it is at hand
    """
    readings = [t.reading for t in wanted if t.reading is not None]
    ran = output is not None
    if not any(reading.open or (ran and reading.wants_axes(output)) for reading in readings):
        return list(wanted)
    one = batch if batch.doubtful else batch.take([0])
    try:
        with Probe(model, adapter=adapter) as probe:
            output = probe(*one.args, **one.kwargs)
            return [t.settle(output, given_to(one, probe)) for t in wanted]
    except ProbeError:
        return list(wanted)
