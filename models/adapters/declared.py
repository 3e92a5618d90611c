"""Class names that a network of one's own declares; all else about it is guessed."""

from __future__ import annotations

from torch import nn

from ...probe.sites import Adapter, adapter
from ..inputs import labels


@adapter
def declared(model: nn.Module) -> Adapter | None:
    """A network of no known family that names its classes: `net.classes`, `net.class_names`."""
    names = labels(model)
    return Adapter("unknown", labels=names) if names else None
