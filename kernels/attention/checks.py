"""What the arguments of attention must be to fit each other."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import KernelError
from ..windows import Window
from .arguments import AttentionArguments


def check(x: AttentionArguments) -> None:
    """Raise KernelError for arguments that attention cannot take."""
    if x.score not in ("softmax", "sigmoid"):
        raise KernelError(f"attention scores are 'softmax' or 'sigmoid', not {x.score!r}")
    if isinstance(x.scale, Tensor):
        raise KernelError("attention takes its scale as a number: multiply q by a tensor instead")
    _heads(x.q, x.k, x.v)
    if (x.position is None) != (x.gate is None):
        raise KernelError("attention mixes position by a gate: give both or neither")
    if (x.rows is None) != (x.columns is None) or (x.rows is not None and x.window is None):
        raise KernelError("rows and columns are relative logits of a window: give all three")
    _broadcasts("row_factor", x.row_factor, tuple(x.q.shape[:3]))
    if x.position is not None and (x.window is not None or x.score != "softmax"):
        raise KernelError("gated positional attention is softmax over all tokens: give no window")
    if x.window is not None:
        _of_windows(x)
        _window(x, x.window)
        return
    (b, h, n), m = x.q.shape[:3], x.k.shape[2]
    _band(x)
    _is("slopes", x.slopes, (h,))
    _broadcasts("bias", x.bias, (b, h, n, m))
    _is("position", x.position, (h, n, m))
    _is("gate", x.gate, (h,))
    _is("keep", x.keep, (b, m))
    _broadcasts("mask", x.mask, (b, h, n, m))
    for name, seen in (("keep", x.keep), ("mask", x.mask)):
        if seen is not None and seen.dtype != torch.bool:
            raise KernelError(
                f"{name} is False where a key is hidden, not {seen.dtype}: give booleans"
            )


def _heads(q: Tensor, k: Tensor, v: Tensor) -> None:
    fits = (
        q.ndim == k.ndim == v.ndim == 4
        and len(q) == len(k) == len(v)
        and q.shape[-1] == k.shape[-1]
        and k.shape[2] == v.shape[2]
        and all(x.shape[1] and q.shape[1] % x.shape[1] == 0 for x in (k, v))
    )
    if not fits:
        raise KernelError(
            "attention takes q b h n d, k b g m d and v b f m e with h a multiple of g and f, not "
            f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
        )
    if not q.dtype == k.dtype == v.dtype:
        raise KernelError(
            f"q, k and v must be of one dtype, not {q.dtype}, {k.dtype} and {v.dtype}: cast them"
        )


def _of_windows(x: AttentionArguments) -> None:
    hidden = x.causal, x.keep is not None, x.mask is not None, x.left is not None
    if any(hidden) or x.right is not None or x.slopes is not None:
        raise KernelError(
            "windows are neither causal nor padded nor masked: leave out causal, keep, mask, left, "
            "right and slopes"
        )


def _band(x: AttentionArguments) -> None:
    for name, far in (("left", x.left), ("right", x.right)):
        if far is not None and (not isinstance(far, int) or far < 0):
            raise KernelError(
                f"{name} counts the keys that a query sees beside its own place, not {far!r}: give "
                "0 or more, or None for all"
            )
    if x.causal and x.right:
        raise KernelError(
            f"a causal query sees nothing to its right, but right is {x.right}: give one of them"
        )


def _window(x: AttentionArguments, window: object) -> None:
    if not isinstance(window, Window):
        raise KernelError(f"a window is a Window(kind, size, grid), not {window!r}")
    (b, h, n), m = x.q.shape[:3], x.k.shape[2]
    tokens = (math.prod(window.query_grid), math.prod(window.grid))
    if (n, m) != tokens:
        raise KernelError(
            f"{window} has {tokens[0]} queries and {tokens[1]} keys, but attention got {n} and {m}"
        )
    size, seen = math.prod(window.query_size), math.prod(window.key_size)
    if x.bias is not None and x.bias.ndim == 5:
        _broadcasts("bias", x.bias, (b, h, n // size, size, seen))
    elif x.bias is not None:
        _broadcasts("bias", x.bias, (1, h, size, seen))
    _is("rows", x.rows, (b, h, n, window.key_size[0]))
    _is("columns", x.columns, (b, h, n, window.key_size[1]))


def _broadcasts(name: str, x: Tensor | None, shape: tuple[int, ...]) -> None:
    if x is None:
        return
    fits = x.ndim <= len(shape) and all(
        side == 1 or side == want for side, want in zip(x.shape[::-1], shape[::-1], strict=False)
    )
    if not fits:
        raise KernelError(f"{name} {tuple(x.shape)} does not broadcast to the scores, {shape}")


def _is(name: str, x: Tensor | None, shape: tuple[int, ...]) -> None:
    if x is not None and tuple(x.shape) != shape:
        raise KernelError(f"{name} must be of shape {shape} here, not {tuple(x.shape)}")
