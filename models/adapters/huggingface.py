"""How to read Hugging Face's vision and text models, by the structure that they share."""

from __future__ import annotations

from torch import nn

from ...probe.sites import (
    Adapter,
    adapter,
    attention,
    first_norm,
    layers,
    prefix_tokens,
    without_map,
)
from ..inputs import labels

without_map("Additive", "Bloom", "CvtSelf", "Disentangled", "HieraMaskUnit", "RwkvSelf")
without_map("XLNetRelative")


@adapter
def huggingface(model: nn.Module) -> Adapter | None:
    """A model of transformers or a class derived from one."""
    if not any(c.__module__.startswith("transformers.") for c in type(model).__mro__):
        return None
    hidden, kind = layers(model)
    prefix = prefix_tokens(model) or 0
    return Adapter(
        "huggingface",
        hidden=hidden,
        heads=attention(model),
        prefix=prefix,
        final=first_norm(model, hidden) if prefix else (),
        labels=labels(model),
        notes=() if kind == "the outermost blocks" else (f"layers guessed: {kind}",),
    )
