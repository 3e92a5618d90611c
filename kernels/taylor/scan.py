"""A scan over chunks of tokens by Taylor features, with the features of one chunk at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..shared import transformed

CHUNK = 128


def taylor(scores: Tensor) -> Tensor:
    """1 + s + s^2/2."""
    return 1 + scores + scores.square() / 2


def features(x: Tensor) -> Tensor:
    """phi(x) with phi(q) . phi(k) = 1 + s + s^2/2 for s = q . k: 1, x_i, then x_i x_j of i <= j."""
    d = x.shape[-1]
    i, j = torch.triu_indices(d, d, device=x.device)
    share = x.new_ones(len(i)).masked_fill(i == j, 0.5**0.5)
    return torch.cat([torch.ones_like(x[..., :1]), x, x[..., i] * x[..., j] * share], -1)


def initial_state(k: Tensor, v: Tensor) -> Tensor:
    """No token: zeros for every feature, value and the sum of weights, `b h f e+1`."""
    d = k.shape[-1]
    return k.new_zeros(*k.shape[:2], (d + 1) * (d + 2) // 2, v.shape[-1] + 1)


@dataclass(frozen=True)
class Scan:
    """One step of the scan; q is scaled.

    from_state   whether states count: False where all tokens are of one chunk
    """

    eps: float
    from_state: bool = True

    def step(self, q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The result of a chunk, and the state behind it."""
        sums, state = self.sums(q, k, v, state)
        return sums[..., :-1] / (sums[..., -1:] + self.eps), state

    def sums(self, q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """sum a v and last sum a, `b h n e+1`; and the state behind the chunk."""
        values = F.pad(v, (0, 1), value=1.0)
        seen = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
        out = taylor(q @ k.mT).masked_fill(~seen, 0.0) @ values
        if not self.from_state:
            return out, state
        return out + features(q) @ state, state + features(k).mT @ values


def scanned(scan: Scan, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The scan over all chunks.

    The backward forms the features of each chunk again, so that no graph holds those of all; a
    second derivative, torch.func and torch.compile take the graph as it is.
    """
    moves = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    plain = torch.compiler.is_compiling() or transformed() or not moves or not scan.from_state
    if plain:
        return _whole(scan, q, k, v)
    return cast(Callable[..., Tensor], _Scanned.apply)(scan, q, k, v)


def _chunks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(x.split(CHUNK, 2) for x in tensors), strict=True)


def _whole(scan: Scan, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    state, parts = initial_state(k, v), []
    for q_c, k_c, v_c in _chunks(q, k, v):
        out, state = scan.step(q_c, k_c, v_c, state)
        parts.append(out)
    return torch.cat(parts, 2)


class _Scanned(torch.autograd.Function):
    """Chunks without a graph; the backward makes that of each chunk in turn, from the last one."""

    @staticmethod
    def forward(ctx: Any, scan: Scan, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.scan = scan
        ctx.save_for_backward(q, k, v)
        return _whole(scan, q, k, v)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scan, tensors = ctx.scan, ctx.saved_tensors
        if torch.is_grad_enabled():  # views, so that a tensor given twice has a gradient as each
            views = [x.view_as(x) for x in tensors]
            wanted = [x for x in views if x.requires_grad]
            found = torch.autograd.grad(_whole(scan, *views), wanted, grads[0], create_graph=True)
            slopes = iter(found)
            return (None, *(next(slopes) if x.requires_grad else None for x in views))
        parts, slope = [], torch.zeros_like(initial_state(*tensors[1:]))
        chunks = list(_chunks(*tensors, grads[0]))
        for state, (*chunk, g) in zip(
            reversed(_states(chunks, slope)), reversed(chunks), strict=True
        ):
            with torch.enable_grad():
                leaves = [x.detach().requires_grad_() for x in (*chunk, state)]
                out = scan.step(*leaves)
            *own, slope = torch.autograd.grad(out, leaves, (g, slope))
            parts.append(own)
        return (None, *(torch.cat(x[::-1], 2) for x in zip(*parts, strict=True)))


def _states(chunks: list[tuple[Tensor, ...]], zeros: Tensor) -> list[Tensor]:
    """The state that each chunk meets."""
    states = [zeros]
    for _, k, v, _ in chunks[:-1]:
        states.append(states[-1] + features(k).mT @ F.pad(v, (0, 1), value=1.0))
    return states
