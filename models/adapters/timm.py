"""How to read timm's models, by the structure that they share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ...probe.sites import (
    Adapter,
    adapter,
    attention,
    blocks,
    first_norm,
    layers,
    prefix_tokens,
    without_map,
)
from ..inputs import labels

without_map("Additive", "Bilinear", "Bottleneck", "Cascaded", "Coord", "Factor", "Halo")
without_map("MultiQuery", "NonLocal", "Selective", "Split", "Strip")

_ROOTS = ("blocks", "stages", "layers", "transformers", "network", "body")
_STAGES = (("layer1", "layer2", "layer3", "layer4"), ("s1", "s2", "s3", "s4"))


@adapter
def timm(model: nn.Module) -> Adapter | None:
    """A model of timm or a class derived from one."""
    if not any(c.__module__.startswith("timm.") for c in type(model).__mro__):
        return None
    hidden, notes = _hidden(model)
    declared: Any = getattr(model, "num_prefix_tokens", None)
    prefix = declared if isinstance(declared, int) else prefix_tokens(model) or 0
    return Adapter(
        "timm",
        hidden=hidden,
        heads=attention(model),
        prefix=prefix,
        final=first_norm(model, hidden) if prefix else (),
        labels=labels(model),
        notes=notes,
    )


def _hidden(model: nn.Module) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Blocks under timm's usual names; else the stages that `feature_info` lists."""
    for name in _ROOTS:
        root = getattr(model, name, None)
        if isinstance(root, nn.Module) and (paths := blocks(root, name)):
            return tuple(paths), ()
    for stages in _STAGES:
        if all(isinstance(getattr(model, name, None), nn.Module) for name in stages):
            return _children(model, stages), ()
    listed = _features(model)
    if listed:
        return listed, ()
    guessed, kind = layers(model)
    return guessed, (f"layers guessed: {kind}",)


def _features(model: nn.Module) -> tuple[str, ...]:
    """The modules of `feature_info`; lists are opened, as they have no output."""
    info = getattr(model, "feature_info", None) or ()
    listed = getattr(info, "info", info)
    names = tuple(str(row.get("module", "")) for row in listed if isinstance(row, Mapping))
    modules = dict(model.named_modules())
    paths: list[str] = []
    for name in names:
        if name and name in modules:
            inner = isinstance(modules[name], nn.ModuleList)
            paths += _children(model, (name,)) if inner else (name,)
    return tuple(paths)


def _children(model: nn.Module, names: tuple[str, ...]) -> tuple[str, ...]:
    """The parts of some modules, in order."""
    parts = ((name, model.get_submodule(name)) for name in names)
    return tuple(f"{name}.{n}" for name, part in parts for n, _ in part.named_children())
