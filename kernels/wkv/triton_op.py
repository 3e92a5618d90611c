"""WKV by chunks, on Triton: the order of launches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import isqrt

import torch
from torch import Tensor

from ..shared.triton_launch import ceil_div, options, power_of_2
from . import triton_kernels as kernels
from .triton_kernels import Queries, Sizes, Terms

CHUNKS = 16, 256  # the fewest and the most tokens of one program
CHANNELS = 32  # a warp of them
MOST = 65535  # programs on the second and third axis


def can_run(k: Tensor, v: Tensor, decay: Tensor, bonus: Tensor) -> str | None:
    """None where the kernels take the call, else the reason against them."""
    if k.numel() == 0:
        return "there is nothing to compute"
    if k.ndim != 4 or k.shape != v.shape or k.shape[3] != 1:
        return "shapes do not fit each other"
    if decay.shape != k.shape[1:2] or bonus.shape != k.shape[1:2]:
        return "shapes do not fit each other"
    if k.dtype != v.dtype:
        return "k and v are of several dtypes"
    if len(k) > MOST or ceil_div(k.shape[1], CHANNELS) > MOST:
        return f"a batch of more than {MOST}, or more than {MOST * CHANNELS} channels"
    return None


@dataclass(frozen=True)
class ChannelOperands:
    """The arguments of one call as kernels take them."""

    k: Tensor
    v: Tensor
    terms: Terms

    @cached_property
    def sizes(self) -> Sizes:
        b, c, n, _ = self.k.shape
        fewest, most = CHUNKS  # as many tokens of a chunk as chunks: both are walked over
        return Sizes(b, c, n, max(fewest, min(most, power_of_2(isqrt(n)))))

    @property
    def chunks(self) -> int:
        return ceil_div(self.sizes.n, self.sizes.chunk)

    @property
    def block(self) -> int:
        return min(CHANNELS, power_of_2(self.sizes.channels))

    def grid(self, chunks: int) -> tuple[int, int, int]:
        """Programs: chunks, blocks of channels, pictures."""
        return chunks, ceil_div(self.sizes.channels, self.block), self.sizes.batch

    def sums(self, parts: int) -> Tensor:
        """Memory for sums of each chunk, `parts b chunks c`."""
        b, c, _, _ = self.sizes
        return self.k.new_empty(parts, b, self.chunks, c, dtype=torch.float32)


def forward(
    k: Tensor, v: Tensor, decay: Tensor, bonus: Tensor
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The result, and for the backward the logarithm of each query's whole weight."""
    x = _prepare(k, v, decay, bonus)
    sums, out, lse = x.sums(3), _like(v), _like(v, torch.float32)
    both = k, _strides(k), v, _strides(v), x.terms, sums
    with_options = options(1, 1)
    kernels.chunk_sums[x.grid(x.chunks)](*both, x.sizes, x.block, **with_options)
    kernels.carry_sums[x.grid(1)](x.terms, sums, x.sizes, x.block, **with_options)
    kernels.results[x.grid(x.chunks)](
        *both, out, _strides(out), lse, _strides(lse), x.sizes, x.block, **with_options
    )
    return out, (lse,)


def backward(
    g: Tensor,
    out: Tensor,
    saved: tuple[Tensor, ...],
    needs: set[str],
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    bonus: Tensor,
) -> dict[str, Tensor]:
    """All gradients by one walk from the last token; see the kernels."""
    x, (lse,) = _prepare(k, v, decay, bonus), saved
    slopes, terms = x.sums(5), x.sums(2)
    dk, dv = _like(k), _like(v)
    queries = Queries(g, out, lse), _strides(g), _strides(out), _strides(lse)
    with_options = options(1, 1)
    kernels.chunk_slopes[x.grid(x.chunks)](
        *queries, x.terms, slopes, x.sizes, x.block, **with_options
    )
    kernels.carry_slopes[x.grid(1)](x.terms, slopes, x.sizes, x.block, **with_options)
    kernels.gradients[x.grid(x.chunks)](
        k, _strides(k), v, _strides(v), *queries, x.terms, slopes,
        dk, _strides(dk), dv, _strides(dv), terms, x.sizes, x.block, **with_options,
    )  # fmt: skip
    to_decay, to_bonus = terms.sum((1, 2))
    grads = {"k": dk, "v": dv, "decay": to_decay.to(decay), "bonus": to_bonus.to(bonus)}
    return {name: x for name, x in grads.items() if name in needs}


def _prepare(k: Tensor, v: Tensor, decay: Tensor, bonus: Tensor) -> ChannelOperands:
    return ChannelOperands(k, v, Terms(*(x.float().contiguous() for x in (decay, bonus))))


def _like(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Memory for `b c n 1` that lies as `b n c`, as the layers around the op read it."""
    b, c, n, _ = x.shape
    return x.new_empty(b, n, c, dtype=dtype or x.dtype).mT[..., None]


def _strides(x: Tensor) -> tuple[int, int, int]:
    """Of picture, channel and token."""
    return x.stride(0), x.stride(1), x.stride(2)
