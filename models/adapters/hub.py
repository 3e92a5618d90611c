"""Image classifiers of Hugging Face by name or folder, with their processor's configuration."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from ...probe.errors import ModelError

_PROCESSORS = ("preprocessor_config.json", "processor_config.json")


def from_hub(
    transformers: ModuleType, name: str, *, published: bool, hyper: Mapping[str, object]
) -> nn.Module:
    """A model as transformers loads it; code that lies beside the weights is never run.

    published  its weights, else random ones
    hyper      fields of its configuration
    The class is that for images of its kind, else the one that the configuration names. Weights
    that the files lack are random, and a warning names them. Raises ModelError.
    """
    place = _place(name)
    try:
        config = transformers.AutoConfig.from_pretrained(place, **hyper)
        kind = _class(transformers, config, name)
        if published:
            net, report = kind.from_pretrained(place, config=config, output_loading_info=True)
            _warn_of(report.get("missing_keys"), name)
        else:
            net = kind._from_config(config)
        processor = _processor(transformers, place)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(_reason(name, place, error)) from error
    if processor is not None:
        net.preprocessor_config = processor
    return net


def _place(name: str) -> str:
    """A name of the hub, or the path of a folder. Raises ModelError for a folder without one."""
    if not name:
        raise ModelError("'hf:' names no model: write hf:microsoft/resnet-50 or hf:./folder")
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"folder {name!r} holds no config.json: give one that transformers saved"
            )
        return str(folder)
    if name.startswith((".", "/", "~")):
        raise ModelError(f"folder {name!r} does not exist: check the path")
    return name


def _class(transformers: ModuleType, config: Any, name: str) -> Any:
    mapping = transformers.AutoModelForImageClassification._model_mapping
    if type(config) in mapping:
        kind = mapping[type(config)]
        return kind[0] if isinstance(kind, tuple) else kind
    for architecture in config.architectures or ():
        if (kind := getattr(transformers, architecture, None)) is not None:
            return kind
    raise ModelError(
        f"hf:{name} is a {config.model_type!r}, of which transformers has no image classifier, and "
        "its configuration names no other class: load it in Python and give module:function"
    )


def _warn_of(missing: Any, name: str) -> None:
    lacking = sorted(missing or ())
    if lacking:
        warnings.warn(
            f"the weights of hf:{name} lack {', '.join(lacking[:3])}"
            f"{' and more' if len(lacking) > 3 else ''}: these parts are random",
            stacklevel=5,
        )


def _processor(transformers: ModuleType, place: str) -> dict[str, Any] | None:
    """The configuration of the image processor, where there is one."""
    for name in _PROCESSORS:
        path = transformers.utils.cached_file(
            place,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if path is not None:
            told = json.loads(Path(path).read_text(encoding="utf-8"))
            return told.get("image_processor", told)
    return None


def _reason(name: str, place: str, error: Exception) -> str:
    words = " ".join(str(error).split())
    unreachable = ("connect", "offline", "cached files", "Max retries", "resolve host")
    if Path(place).is_dir():
        return f"model in folder {name!r} could not be loaded ({type(error).__name__}: {words})"
    if any(word in words for word in unreachable):
        return (
            f"model 'hf:{name}' is not on this machine, and the hub cannot be reached: connect to "
            "it once, or give the folder of a copy, hf:./folder"
        )
    return f"model 'hf:{name}' could not be loaded ({type(error).__name__}: {words})"
