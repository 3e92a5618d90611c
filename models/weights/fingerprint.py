"""A short hash of a model's weights, so that a result can say which weights made it."""

from __future__ import annotations

import hashlib
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

_fingerprints: WeakKeyDictionary[nn.Module, tuple[object, str]] = WeakKeyDictionary()


def fingerprint(model: nn.Module) -> str:
    """The first 16 hex digits of the sha256 over all parameters and buffers.

    Names, dtypes, shapes and bytes count. The answer is kept per model until a tensor's version,
    place or content changes; on other devices than the CPU the content is only sampled.
    """
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    state = tuple((name, _state(t)) for name, t in tensors.items())
    kept = _fingerprints.get(model)
    if kept is not None and kept[0] == state:
        return kept[1]
    digest = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name]
        digest.update(f"{name} {t.dtype} {tuple(t.shape)}\n".encode())
        digest.update(_bytes(t).data)
    short = digest.hexdigest()[:16]
    _fingerprints[model] = (state, short)
    return short


def _bytes(t: Tensor) -> np.ndarray:
    flat = t.detach().to("cpu").contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0, np.uint8)


def _state(t: Tensor) -> tuple[object, ...]:
    """What tells cheaply that a tensor changed; `.data` edits leave the version alone."""
    version = -1 if t.is_inference() else t._version
    return t.data_ptr(), version, t.dtype, tuple(t.shape), _mix(t)


def _mix(t: Tensor) -> int:
    if not t.is_cpu:
        flat = t.detach().reshape(-1)
        t = flat[:: max(1, flat.numel() // 64)]
    raw = _bytes(t)
    whole = raw[: raw.size // 8 * 8].view(np.int64)
    tail = int.from_bytes(raw[whole.size * 8 :].tobytes(), "little")
    return int(np.bitwise_xor.reduce(whole, initial=np.int64(0))) ^ tail
