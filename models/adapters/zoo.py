"""How to read limelight's own models; the readers of foreign families stand beside this file."""

from __future__ import annotations

from torch import nn

from ...probe.sites import Adapter, adapter, expand, first_norm
from ..card import Card
from ..inputs import labels
from . import declared as adapter_declared
from . import huggingface as adapter_huggingface
from . import timm as adapter_timm
from . import torchvision as adapter_torchvision
from . import transformerlens as adapter_transformerlens

__all__ = [
    "adapter_declared",
    "adapter_huggingface",
    "adapter_timm",
    "adapter_torchvision",
    "adapter_transformerlens",
    "zoo",
]


@adapter
def zoo(model: nn.Module) -> Adapter | None:
    """A model that carries a card."""
    card = getattr(model, "card", None)
    if not isinstance(card, Card):
        return None
    hidden = expand(model, card.hidden)
    return Adapter(
        "limelight",
        hidden=hidden,
        heads=expand(model, card.heads),
        prefix=card.prefix,
        final=first_norm(model, hidden) if card.prefix else (),
        labels=labels(model),
        axes=card.axes,
        shapes=card.shapes,
    )
