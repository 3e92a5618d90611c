"""How to read torchvision's models: their blocks by family, recognised without importing it."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from ...probe.sites import (
    Adapter,
    adapter,
    attention,
    blocks,
    detections,
    expand,
    first_norm,
    layers,
    prefix_tokens,
    without_map,
)
from ..inputs import labels

without_map("RelativePositionalMultiHead")  # MaxViT's, by einsum over windows

_FEATURES = ("features.*",)
_STAGED = ("features.*.*",)
_HIDDEN = {
    "AlexNet": tuple(f"features.{n}" for n in (1, 4, 7, 9, 11)),
    "DenseNet": ("features.denseblock*", "features.norm5"),
    "GoogLeNet": ("inception*",),
    "Inception3": ("Mixed_*",),
    "MNASNet": ("layers.*",),
    "MobileNetV2": _FEATURES,
    "MobileNetV3": _FEATURES,
    "RegNet": ("trunk_output.*.*",),
    "LRASPP": ("backbone.*",),
    "ShuffleNetV2": ("stage?.*", "conv5"),
}


@adapter
def torchvision(model: nn.Module) -> Adapter | None:
    """A model of torchvision or a class derived from one."""
    names = [c.__name__ for c in type(model).__mro__ if c.__module__.startswith("torchvision.")]
    if not names:
        return None
    hidden, notes = _hidden(model, names)
    prefix = prefix_tokens(model) or (0 if "SwinTransformer" in names else None)
    return Adapter(
        "torchvision",
        hidden=hidden,
        heads=() if "MaxVit" in names else attention(model),  # einsum over windows
        prefix=prefix,
        final=first_norm(model, hidden) if prefix else (),
        labels=labels(model),
        axes=_axes(model, hidden),
        notes=notes,
        shapes=detections if _detects(model) else None,
    )


def _axes(model: nn.Module, hidden: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """A detector writes its pictures one by one into a batch, which no op tells."""
    return tuple((path, "b c y x") for path in hidden) if _detects(model) else ()


def _detects(model: nn.Module) -> bool:
    return type(getattr(model, "transform", None)).__name__ == "GeneralizedRCNNTransform"


def _hidden(model: nn.Module, names: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if "VGG" in names:
        return _before_pools(model), ()
    if "SqueezeNet" in names:
        return tuple(blocks(model.get_submodule("features"), "features")), ()
    paths = expand(model, next((_HIDDEN[n] for n in names if n in _HIDDEN), ()))
    if paths:
        return paths, ()
    paths, kind = layers(model)
    return paths, () if kind == "the outermost blocks" else (f"layers guessed: {kind}",)


def _before_pools(model: nn.Module) -> tuple[str, ...]:
    """The last activation of each stage of a plain chain."""
    parts = model.get_submodule("features").named_children()
    pairs = pairwise(parts)
    return tuple(f"features.{n}" for (n, _), (_, m) in pairs if isinstance(m, nn.MaxPool2d))
