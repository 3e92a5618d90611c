"""Inputs for models of transformers, by what their forward takes and their configuration says."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

WORDS = 7
_MAIN = (
    "input_ids", "pixel_values", "input_values", "input_features", "pixel_values_videos",
    "past_values", "flattened_patches", "inputs",
)  # fmt: skip


def example(model: nn.Module) -> Iterator[dict[str, Any]]:
    """Ways to feed a model, the likeliest first."""
    taken = inspect.signature(model.forward).parameters
    needed = [
        n for n, p in taken.items() if p.default is p.empty and p.kind == p.POSITIONAL_OR_KEYWORD
    ]
    main = getattr(model, "main_input_name", "")
    first = main if main in taken else next((n for n in _MAIN if n in taken), "")
    names = [first, *(n for n in needed if n != first)] if first else needed
    names += [n for n in _ALSO if n in taken and n not in names and _ALSO[n](model, names)]
    for variant in range(_VARIANTS.get(first, 1)):
        yield {n: _made(n, model, variant) for n in names if n in MAKERS}


def _made(name: str, model: nn.Module, variant: int) -> Any:
    return MAKERS[name](model, variant)


def field(config: Any, *names: str, default: Any = None) -> Any:
    """A field of a configuration or of its parts for pictures, sounds and words."""
    parts = (
        "vision_config",
        "audio_config",
        "text_config",
        "encoder",
        "backbone_config",
        "image_encoder",
        "encoder_config",
    )
    for part in (config, *(getattr(config, p, None) for p in parts)):
        for name in names:
            value = getattr(part, name, None)
            if value is not None:
                return value
    return default


def _draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def words(model: nn.Module, variant: int = 0, length: int = WORDS) -> Tensor:
    most = min(field(model.config, "vocab_size", default=50), 100)
    return torch.randint(3, most, (2, length), generator=_draw(length))


def sides(config: Any, variant: int) -> tuple[int, int]:
    size = field(
        config, "image_size", "img_size", "input_size", "pretrain_image_size", default=None
    )
    if isinstance(size, dict):
        size = (size.get("height", 64), size.get("width", 64))
    if isinstance(size, (list, tuple)):
        size = (int(size[-2]), int(size[-1])) if len(size) > 1 else int(size[0])
    told = size if isinstance(size, tuple) else (size, size) if size else None
    rest = [(s, s) for s in (64, 128, 224)]
    ladder = ([told] if told is not None else []) + [s for s in rest if s != told]
    return ladder[min(variant, len(ladder) - 1)]


def channels(config: Any) -> int:
    count = field(
        config, "num_channels", "in_channels", "in_chans", "num_input_channels", default=3
    )
    return count if isinstance(count, int) else 3


def pixels(model: nn.Module, variant: int = 0) -> Tensor:
    height, width = sides(model.config, variant)
    shape = [2, channels(model.config), height, width]
    frames = field(model.config, "num_frames", default=None)
    if isinstance(frames, int) and variant % 2 == 0 and hasattr(model.config, "num_frames"):
        shape.insert(1, frames)
    return torch.randn(shape, generator=_draw(height))


def videos(model: nn.Module, variant: int = 0) -> Tensor:
    height, width = sides(model.config, variant)
    frames = field(model.config, "frames_per_clip", "num_frames", default=4)
    return torch.randn(2, frames, channels(model.config), height, width, generator=_draw(height))


def sound(model: nn.Module, variant: int = 0) -> Tensor:
    """A raw wave, or a spectrogram where the configuration speaks of its bins."""
    bins, length = (
        field(model.config, "num_mel_bins"),
        field(model.config, "max_length", "spec_size"),
    )
    if bins is not None and variant == 0:
        return torch.randn(2, length or 64, bins, generator=_draw(7))
    shape = ((2, 4000), (2, 1, 4000), (2, 16000), (2, 1, 16000), (1, 1, 8000))[variant]
    return torch.randn(shape, generator=_draw(7))


def spectrogram(model: nn.Module, variant: int = 0) -> Tensor:
    config = model.config
    bins = field(
        config,
        "num_mel_bins",
        "feature_size",
        "n_mels",
        "input_feat_per_channel",
        "input_dim",
        "feature_projection_input_dim",
        "input_feat_size",
        default=80,
    )
    longest = field(config, "max_source_positions", default=64)
    shapes = ((2, bins, 2 * longest), (2, 64, bins), (2, bins, 64), (2, 1, 64, bins))
    return torch.randn(shapes[variant], generator=_draw(8))


def series(model: nn.Module, variant: int = 0) -> Tensor:
    config = model.config
    length = field(config, "context_length", default=32)
    lags = max(field(config, "lags_sequence", default=[0]) or [0])
    size = field(config, "num_input_channels", "input_size", default=1)
    shape = (2, length + lags) if size == 1 and variant == 0 and lags else (2, length + lags, size)
    return torch.randn(shape, generator=_draw(9))


def boxes(model: nn.Module, variant: int = 0) -> Tensor:
    return torch.randint(0, 30, (2, WORDS, 4), generator=_draw(10)).sort(-1).values


def prompt_points(model: nn.Module, variant: int = 0) -> Tensor:
    return torch.full((2, 1, 1, 2), 20.0)


def future(model: nn.Module, variant: int = 0) -> Tensor:
    return torch.randn(2, field(model.config, "prediction_length", default=8), generator=_draw(11))


def time_features(length_of: Callable[[Any], int]) -> Callable[..., Tensor]:
    def made(model: nn.Module, variant: int = 0) -> Tensor:
        count = field(model.config, "num_time_features", default=0)
        return torch.randn(2, length_of(model.config), count, generator=_draw(12))

    return made


def _past(config: Any) -> int:
    return field(config, "context_length", default=32) + max(
        field(config, "lags_sequence", default=[0])
    )


def _decodes(model: nn.Module, names: list[str]) -> bool:
    return bool(getattr(model.config, "is_encoder_decoder", False)) or model.config.model_type in (
        "speech-encoder-decoder", "vision-encoder-decoder",
    )  # fmt: skip


def _two_towers(model: nn.Module, names: list[str]) -> bool:
    """Whether a model of words also wants pictures: contrastive ones."""
    return hasattr(model.config, "projection_dim") and "input_ids" in names


_ALSO: dict[str, Callable[[nn.Module, list[str]], bool]] = {
    "decoder_input_ids": _decodes,
    "bbox": lambda model, names: "input_ids" in names,
    "pixel_values": _two_towers,
    "input_ids": lambda model, names: (
        "pixel_values" in names and hasattr(model.config, "projection_dim")
    ),
}
_VARIANTS = {
    "pixel_values": 4, "input_values": 5, "input_features": 4, "past_values": 2,
    "pixel_values_videos": 2,
}  # fmt: skip
MAKERS: dict[str, Callable[..., Any]] = {
    "input_ids": words,
    "decoder_input_ids": lambda model, variant: words(model, length=5),
    "pixel_values": pixels,
    "pixel_values_videos": videos,
    "input_values": sound,
    "input_features": spectrogram,
    "past_values": series,
    "bbox": boxes,
    "input_points": prompt_points,
    "future_values": future,
    "past_time_features": time_features(_past),
    "future_time_features": time_features(lambda c: field(c, "prediction_length", default=8)),
    "past_observed_mask": lambda model, variant: torch.ones_like(series(model, variant)),
}
