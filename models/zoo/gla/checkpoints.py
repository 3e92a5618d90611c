"""Gated linear attention models from hub folders: config.json, weights in shards, the tokenizer."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ....probe.errors import ModelError, OptionError, WeightsError
from ...card import Source, State
from ...registry import hyper_parameters, list_models
from ...weights import Chosen, fetch, fit, no_init, read_state
from .model import VARIANTS, GlaLanguageModel, gla

CONFIG = "config.json"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
OLD_KEYS = {"rms_norm_eps": "norm_eps"}


def read_config(source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """The builder's hyper-parameters in a config: a mapping, a file, a folder or a hub repository.

    What does not change the arithmetic is left out. Raises ModelError for another model type.
    """
    if isinstance(source, Mapping):
        config: Mapping[str, Any] = source
    else:
        path = Path(source).expanduser()
        path = path if path.is_file() else _file(source, CONFIG)
        config = json.loads(path.read_text(encoding="utf-8"))
    kind = config.get("model_type", "gla")
    if kind != "gla":
        raise ModelError(f"a config of model type {kind!r} is no gla model: give one of type 'gla'")
    named = {OLD_KEYS.get(key, key): value for key, value in config.items()}
    parameters = inspect.signature(gla).parameters
    return {key: value for key, value in named.items() if key in parameters}


def from_config(config: str | Path | Mapping[str, Any], **changes: Any) -> GlaLanguageModel:
    """A model with random weights as a config describes it. Raises ModelError or OptionError."""
    return gla(**{**read_config(config), **changes}).eval()


def from_checkpoint(
    source: str | Path, *, device: str | torch.device | None = None
) -> GlaLanguageModel:
    """The trained model in a folder, or in a hub repository such as 'fla-hub/gla-1.3B-100B'.

    Weights lie in one file or in shards with an index. Raises ModelError or WeightsError.
    """
    with no_init():
        built = from_config(source)
    built.card = next(iter(list_models(_nearest(built))))  # type: ignore[assignment]
    fit(built, Chosen(str(source), None, _state(source)))
    return built if device is None else built.to(device)


def tokenizer(source: str | Path) -> Any:
    """The tokenizer beside a model, by transformers' AutoTokenizer. Raises OptionError."""
    if find_spec("transformers") is None:
        raise OptionError(
            "tokenizers of gla models are read by transformers, which is not installed: "
            "run pip install 'limelight[foreign]'"
        )
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(source))


def _nearest(built: GlaLanguageModel) -> str:
    """The registered model whose card fits: that of the nearest width."""
    width = built.model.table.embedding_dim
    names = [variant.name for variant in VARIANTS]
    return min(names, key=lambda n: abs(int(str(hyper_parameters(n)["hidden_size"])) - width))


def _state(source: str | Path) -> State:
    """All tensors of a folder or repository, from its shards where it has an index."""
    folder = Path(source).expanduser()
    if (folder / SINGLE).is_file() or (not folder.is_dir() and not _has_index(source)):
        return read_state(_file(source, SINGLE))
    table = json.loads(_file(source, INDEX).read_text(encoding="utf-8"))["weight_map"]
    state: State = {}
    for shard in sorted(set(table.values())):
        for name, value in read_state(_file(source, shard)).items():
            state[name if name in table else f"model.{name}"] = value
    return state


def _has_index(source: str | Path) -> bool:
    try:
        return _file(source, INDEX).is_file()
    except WeightsError:
        return False


def _file(source: str | Path, name: str) -> Path:
    """A file of a folder on this machine, else of a hub repository."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / name).is_file():
            raise WeightsError(
                f"folder {str(source)!r} has no {name}: give the folder of a gla checkpoint"
            )
        return folder / name
    if isinstance(source, Path) or str(source).count("/") != 1:
        raise WeightsError(
            f"checkpoint {str(source)!r} is no folder here, and no hub repository: "
            "write 'owner/name' or a folder that exists"
        )
    return fetch(str(source), name, Source(hub=str(source), file=name))
