"""Long convolutions between gates (Hyena 2302.10866, H3 2212.14052, BaseConv 2312.04927)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import KernelError
from ..kernel import kernel
from ..shared import wide

SHORT = 32  # taps up to which the direct form is used


def convolution_map(
    rows: slice,
    v: Tensor,
    filter: Tensor,
    gate_in: Tensor | None = None,
    gate_out: Tensor | None = None,
    skip: Tensor | None = None,
    circular: bool = False,
) -> Tensor:
    """A[i, j] = gate_out_i (filter[i - j] + skip [i = j]) gate_in_j by head, `b h r m`."""
    n = v.shape[2]
    taps = kernel_taps(filter, n, circular)
    keys = torch.arange(n, device=v.device)
    lag = keys[rows][:, None] - keys
    place = lag % taps.shape[-1] if circular or filter.is_complex() else lag
    inside = (place >= 0) & (place < taps.shape[-1])
    spread = torch.where(inside, taps[..., place.clamp(0, taps.shape[-1] - 1)], 0.0)
    if skip is not None:
        spread = spread + wide(skip)[:, None, None] * (lag == 0)
    if gate_in is not None:
        spread = spread * wide(gate_in)[:, :, None]
    if gate_out is not None:
        spread = spread * wide(gate_out)[:, :, rows, None]
    return spread.expand(len(v), -1, -1, -1)


def kernel_taps(filter: Tensor, n: int, circular: bool = False) -> Tensor:
    """The filter over lags, `(b) h l`; lags of a spectrum count modulo its length.

    A circular filter has n, behind its own taps zeros; a spectrum over 2 n has negative lags at
    its end.
    """
    if filter.is_complex():
        taps: Tensor = torch.fft.irfft(filter, n=n if circular else 2 * n)
        return taps
    taps = wide(filter)
    return F.pad(taps, (0, n - taps.shape[-1])) if circular else taps[..., :n]


@kernel(
    "long_convolution",
    share=("v", "filter", "gate_in", "gate_out"),
    hold=("skip",),
    mixing=convolution_map,
    fast="triton_op",
)
def long_convolution(
    v: Tensor,
    filter: Tensor,
    *,
    gate_in: Tensor | None = None,
    gate_out: Tensor | None = None,
    skip: Tensor | None = None,
    circular: bool = False,
) -> Tensor:
    """out_i = gate_out_i (sum_j filter[i - j] u_j + skip u_i) with u = gate_in v.

    v        `b h n e`: e values under one filter; channels that have one each are heads of e = 1
    filter   `h l`, or `b h l` where each sample has its own; of more than n taps the first n count.
             Complex, it is the half spectrum: of n with `circular`, else of 2 n points, where
             v is followed by n zeros: taps after the first n then look ahead
    gate_in, gate_out   `b h n`
    skip     `h`, as if added to the first tap
    circular  the past of the first token is the end of the sequence; at most n taps
    In float32, or float64 where v is. Linear in v, each gate and, without skip, the filter: what
    depends on the network's input takes an equal part of relevance.
    Raises KernelError for shapes that do not fit.
    """
    _check(v, filter, gate_in, gate_out, skip, circular)
    u = wide(v) if gate_in is None else wide(v) * wide(gate_in)[..., None]
    out = _convolved(u, filter, circular)
    if skip is not None:
        out = out + wide(skip)[:, None, None] * u
    if gate_out is not None:
        out = out * wide(gate_out)[..., None]
    return out.to(v.dtype)


def _convolved(u: Tensor, filter: Tensor, circular: bool) -> Tensor:
    n = u.shape[2]
    if filter.is_complex():
        return _by_spectrum(u, filter, n if circular else 2 * n)
    taps = wide(filter) if circular else wide(filter)[..., :n]
    if taps.shape[-1] <= SHORT and not circular:
        return _direct(u, taps)
    size = n if circular else fast_length(n + taps.shape[-1] - 1)
    return _by_spectrum(u, torch.fft.rfft(taps, n=size), size)


def _by_spectrum(u: Tensor, spectrum: Tensor, size: int) -> Tensor:
    wide_spectrum = spectrum[..., None, :]  # the waves have no name: memory is free for the inverse
    out: Tensor = torch.fft.irfft(torch.fft.rfft(u.mT, n=size) * wide_spectrum, n=size)
    return out[..., : u.shape[2]].mT


def _direct(u: Tensor, taps: Tensor) -> Tensor:
    """The sum over taps, as a depthwise convolution of all heads, or of all samples and heads."""
    b, h, n, e = u.shape
    padded = F.pad(u, (0, 0, taps.shape[-1] - 1, 0)).permute(3, 0, 1, 2)
    weight = taps.flip(-1).reshape(-1, 1, taps.shape[-1])
    line = padded.reshape(-1, len(weight), padded.shape[-1])
    out = F.conv1d(line, weight, groups=len(weight))
    return out.reshape(e, b, h, n).permute(1, 2, 3, 0)


def fast_length(size: int) -> int:
    """The next length whose transform is fast: at most 1/16 more, a small number times a power."""
    step = 1 << max(0, size.bit_length() - 5)
    return -(-size // step) * step


def _check(
    v: Tensor,
    filter: Tensor,
    gate_in: Tensor | None,
    gate_out: Tensor | None,
    skip: Tensor | None,
    circular: bool,
) -> None:
    if v.ndim != 4:
        raise KernelError(f"a long convolution takes v as `b h n e`, not {tuple(v.shape)}")
    b, h, n, _ = v.shape
    if filter.ndim not in (2, 3) or tuple(filter.shape[:-1]) not in ((h,), (b, h)):
        raise KernelError(
            f"a filter of {tuple(filter.shape)} does not fit {b} samples of {h} heads: "
            f"give ({h}, l) or ({b}, {h}, l)"
        )
    for name, gate in (("gate_in", gate_in), ("gate_out", gate_out)):
        if gate is not None and gate.shape != v.shape[:3]:
            raise KernelError(
                f"{name} of {tuple(gate.shape)} does not fit v {tuple(v.shape)}: "
                f"give ({b}, {h}, {n})"
            )
    if skip is not None and (skip.shape != (h,) or filter.ndim == 3):
        raise KernelError(
            f"a skip of {tuple(skip.shape)} does not fit a filter {tuple(filter.shape)}: give "
            f"({h},) beside one filter for all samples, or add it to the first tap of each"
        )
    _check_length(filter, n, circular)


def _check_length(filter: Tensor, n: int, circular: bool) -> None:
    points = n if circular else 2 * n
    if filter.is_complex() and filter.shape[-1] != points // 2 + 1:
        raise KernelError(
            f"a spectrum of {filter.shape[-1]} frequencies does not fit {n} tokens: "
            f"give {points // 2 + 1}, rfft of {points} points"
        )
    if not filter.is_complex() and ((circular and filter.shape[-1] > n) or filter.shape[-1] < 1):
        raise KernelError(
            f"a circular filter of {filter.shape[-1]} taps does not fit {n} tokens: give 1 to {n}"
            if circular
            else "a filter without taps was given: give at least one"
        )
