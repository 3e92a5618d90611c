"""Weight files as state dicts; reading one never runs code."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ...probe.errors import WeightsError, near
from ..card import State
from .tensorflow_checkpoint import INDEX, TARS, read_checkpoint

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", INDEX, *TARS)
WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "model_ema", "weights")
PREFIXES = ("module.", "_orig_mod.", "model.")


def read_state(path: Path, key: str = "") -> State:
    """The state dict in a .safetensors or torch file or a TensorFlow checkpoint, unwrapped.

    key   where it lies; without one the usual wrappers and prefixes are looked through
    Raises WeightsError for a file that is unreadable, needs code or holds no tensors.
    """
    if path.stat().st_size == 0:
        raise WeightsError(f"weights file {str(path)!r} is empty: fetch it again")
    content = _content(path)
    if key:
        if not isinstance(content, Mapping) or key not in content:
            hint = near(key, map(str, content)) if isinstance(content, Mapping) else ""
            raise WeightsError(f"weights file {str(path)!r} has no entry {key!r}{hint}")
        content = content[key]
    return _strip(_unwrap(content, path))


def _content(path: Path) -> object:
    if path.suffix in (INDEX, *TARS):
        return read_checkpoint(path)
    return _safetensors(path) if path.suffix == ".safetensors" else _torch(path)


def _safetensors(path: Path) -> State:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{str(path)!r} is no readable safetensors file: {error}") from error


def _torch(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refusal(path, str(error)) from None
    except Exception as error:
        if "TorchScript" in str(error):
            raise _refusal(path, "it is a TorchScript archive") from None
        raise WeightsError(
            f"weights file {str(path)!r} cannot be read ({_sentence(error)}): "
            "fetch it again or save it anew with torch.save(model.state_dict(), file)"
        ) from error


def _refusal(path: Path, reason: str) -> WeightsError:
    if "Weights only load failed" in reason:
        reason = next((x for x in reason.splitlines() if "Unsupported" in x), "unknown objects")
        reason = reason.rsplit("WeightsUnpickler error:", 1)[-1].strip().split(".  ")[0]
    return WeightsError(
        f"weights file {str(path)!r} is refused since reading it would run code ({reason}): "
        "save plain tensors with torch.save(model.state_dict(), file) or as safetensors"
    )


def _sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:120] if lines else type(error).__name__


def _unwrap(content: object, path: Path) -> State:
    while isinstance(content, Mapping) and not _is_state(content):
        inner = next((content[k] for k in WRAPPERS if isinstance(content.get(k), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not _is_state(content):
        kind = type(content).__name__
        keys = (
            f" with {', '.join(map(repr, list(content)[:3]))}"
            if isinstance(content, Mapping)
            else ""
        )
        raise WeightsError(
            f"weights file {str(path)!r} holds a {kind}{keys} and no state dict: "
            "save one with torch.save(model.state_dict(), file)"
        )
    return dict(content)


def _is_state(content: Mapping[object, object]) -> bool:
    return bool(content) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )


def _strip(state: State) -> State:
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name[len(prefix) :]: value for name, value in state.items()}
    return state
