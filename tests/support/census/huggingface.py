"""The census's cases of transformers: every model type, from a configuration made small."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from foreign import import_foreign, import_torchvision
from torch import nn

from .case import Case, Skipped, shapes
from .examples import example
from .shrink import shrunk

HEADS = (
    "IMAGE_CLASSIFICATION", "VIDEO_CLASSIFICATION", "SEMANTIC_SEGMENTATION", "DEPTH_ESTIMATION",
    "OBJECT_DETECTION", "UNIVERSAL_SEGMENTATION", "AUDIO_CLASSIFICATION", "CTC",
    "SPEECH_SEQ_2_SEQ", "CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "SEQUENCE_CLASSIFICATION",
    "MASKED_LM", "IMAGE_TEXT_TO_TEXT", "ZERO_SHOT_IMAGE_CLASSIFICATION",
)  # fmt: skip
WIDTHS = (32, 256, 0)


def huggingface_cases() -> list[Case]:
    """Every model type of transformers' automatic classes."""
    import_torchvision()
    auto = import_foreign("transformers").models.auto.modeling_auto
    return [_case(model_type) for model_type in auto.MODEL_MAPPING_NAMES]


def _case(model_type: str) -> Case:
    def attempts() -> Iterator[tuple[str, nn.Module, Any]]:
        failure: Exception | None = None
        done = False
        for width in WIDTHS:
            for maker in _classes(model_type):
                try:
                    model = _build(maker, model_type, width)
                    inputs = list(example(model))
                except Exception as error:
                    failure = failure or error
                    continue
                for x in inputs:
                    done = True
                    yield f"{type(model).__name__}: {shapes(x)}", model, x
        if not done:
            raise failure or Skipped("no class builds it")

    return Case("transformers", model_type, model_type, attempts)


def _classes(model_type: str) -> list[type]:
    """The classes of a model type: those with a head first."""
    transformers = import_foreign("transformers")
    auto = transformers.models.auto.modeling_auto
    names: list[str] = []
    for table in (*(f"MODEL_FOR_{head}_MAPPING_NAMES" for head in HEADS), "MODEL_MAPPING_NAMES"):
        name = getattr(auto, table, {}).get(model_type)
        names += [name] if isinstance(name, str) else list(name or ())
    found = [getattr(transformers, name, None) for name in dict.fromkeys(names)]
    return [c for c in found if c is not None]


def _build(maker: type, model_type: str, width: int) -> nn.Module:
    transformers = import_foreign("transformers")
    config = shrunk(transformers.CONFIG_MAPPING[model_type](), width)
    with torch.device("meta"):
        size = sum(p.numel() for p in maker._from_config(config).parameters())
    if size > 60_000_000:
        raise Skipped(f"{size / 1e6:.0f} million parameters, however few its layers")
    torch.manual_seed(0)
    return maker._from_config(config)
