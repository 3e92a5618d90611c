"""How to read TransformerLens' bridges, whose parts stand around those of another library."""

from __future__ import annotations

from torch import nn

from ...probe.sites import Adapter, adapter, attention, first_norm, layers, prefix_tokens
from ..inputs import labels

PACKAGE = "transformer_lens."
WRAPPED = "_original_component"


@adapter
def transformerlens(model: nn.Module) -> Adapter | None:
    """A TransformerBridge, or a class derived from it."""
    if not _is_a(model, "TransformerBridge"):
        return None
    hidden, kind = layers(model)
    prefix = prefix_tokens(model) or 0
    return Adapter(
        "transformerlens",
        hidden=hidden,
        heads=_heads(model),
        prefix=prefix,
        final=first_norm(model, hidden) if prefix else (),
        labels=labels(model),
        notes=() if kind == "the outermost blocks" else (f"layers guessed: {kind}",),
    )


def _heads(model: nn.Module) -> tuple[str, ...]:
    """Where attention is computed: in the bridge itself, or in what a plain bridge wraps."""
    paths: list[str] = []
    for path, module in model.named_modules():
        if not _is_a(module, "AttentionBridge"):
            continue
        inner = module._modules.get(WRAPPED)
        if inner is None or type(module).forward.__qualname__ != "AttentionBridge.forward":
            paths.append(path)
        else:
            place = f"{path}.{WRAPPED}"
            paths += [f"{place}.{name}".rstrip(".") for name in attention(inner)] or [place]
    return tuple(paths)


def _is_a(module: nn.Module, name: str) -> bool:
    """Whether a class of TransformerLens by this name is among those a module derives from."""
    return any(
        c.__name__ == name and c.__module__.startswith(PACKAGE) for c in type(module).__mro__
    )
