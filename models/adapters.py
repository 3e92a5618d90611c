"""How to read limelight's own models; the readers of foreign families stand beside this file."""

from __future__ import annotations

from torch import nn

from ..probe.adapter import Adapter, adapter
from ..probe.guess import expand, first_norm
from . import adapter_huggingface, adapter_timm, adapter_torchvision, adapter_transformerlens
from .card import Card
from .labels import labels

__all__ = [
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
        last=card.last,
        final=first_norm(model, hidden) if card.prefix else (),
        labels=labels(model),
    )
