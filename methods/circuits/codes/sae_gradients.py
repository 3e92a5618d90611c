"""Loss and gradients of the shared autoencoder in closed form, dense or over active codes only.

With c = x - b, s = 2 / (n m) and r = z D - c (D = W_d', `k m`), for rows n and code size m:
dz = s r D' + l1 / rows, da = dz [a > 0], dD = s z' r, dW = da' c, db_e = sum da,
db = s sum r - W' sum da. Inactive codes add nothing to any of them, exactly, so after some steps
only the few active (row, code) entries are visited.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from .sae_active_codes import Screen, dots

if TYPE_CHECKING:
    from .sae_options import Options

_SPARSE = 0.15  # share of active entries below which they are visited one by one


@dataclass(frozen=True, eq=False)
class Parts:
    """Views of one flat tensor: encoder `k m`, decoder `k m` (transposed), code_bias, bias."""

    encoder: Tensor
    decoder: Tensor
    code_bias: Tensor
    bias: Tensor

    @classmethod
    def of(cls, flat: Tensor, k: int, m: int) -> Parts:
        encoder, decoder, code_bias, bias = flat.split([k * m, k * m, k, m])
        return cls(encoder.view(k, m), decoder.view(k, m), code_bias, bias)


@dataclass(frozen=True, eq=False)
class SaeState(Parts):
    """Parameters, their gradients `slope`, and the flat tensor that the optimiser sees."""

    flat: Tensor = field(repr=False)
    slope: Parts = field(repr=False)

    @classmethod
    def drawn(cls, k: int, m: int, draw: torch.Generator, like: Tensor) -> SaeState:
        """Normal weights, code biases uniform within 1 / sqrt(m), bias 0; drawn on the CPU."""
        first = [torch.randn(k, m, generator=draw), torch.randn(m, k, generator=draw).T]
        shift = (torch.rand(k, generator=draw) * 2 - 1) / m**0.5
        flat = torch.cat([*(f.flatten() for f in first), shift, torch.zeros(m)]).to(like)
        parts = Parts.of(flat, k, m)
        flat = flat.detach().requires_grad_(True)  # one memory, views without a graph
        flat.grad = torch.zeros_like(flat)
        slope = Parts.of(flat.grad, k, m)
        return cls(parts.encoder, parts.decoder, parts.code_bias, parts.bias, flat, slope)


@dataclass(eq=False)
class Rows:
    """Training rows `n m`, what never changes about them, and the last count of active codes."""

    x: Tensor
    shape: torch.Size
    total: Tensor
    square: Tensor
    screen: Screen
    labels: Tensor | None
    active: int = -1

    @classmethod
    def of(cls, x: Tensor, labels: Tensor | None) -> Rows:
        rows = x.flatten(0, 1).contiguous()
        square = rows.double().square().sum().to(rows.dtype)
        return cls(rows, x.shape, rows.sum(0), square, Screen.of(rows), labels)


def gradients(state: SaeState, rows: Rows, options: Options) -> Tensor:
    """Fill `state.slope`; return the loss."""
    n, k = len(rows.x), len(state.encoder)
    few = 0 <= rows.active <= _SPARSE * n * k and not options.alpha
    return (sparse if few else dense)(state, rows, options)


def dense(state: SaeState, rows: Rows, options: Options) -> Tensor:
    """All codes by matrix products on x alone: z D is never formed, its products with D are.

    x [W' D'] gives activations and c D'; z (D D') and (z' z) D stand for the reconstruction, and
    [da z]' x for both weight gradients.
    """
    k, m, n = *state.encoder.shape, len(rows.x)
    product = _product(options.dtype)
    weights = torch.cat([state.encoder, state.decoder])
    offset = torch.cat([_offset(state, options), -(state.decoder @ state.bias)])
    active, target = (product(rows.x, weights.T) + offset).split([k, k], 1)
    z, on = active.relu(), active > 0
    rows.active = int(on.sum())
    slope = product(z, state.decoder @ state.decoder.T) - target
    fit = ((slope - target) * z).sum() + _spread(state, rows)
    slope = slope.mul_(2 / (n * m)).add_(options.l1 / n)
    extra = fit.new_zeros(())
    if options.alpha:
        extra, more = _contrast(z.view(*rows.shape[:2], k), rows.labels, options.alpha)
        slope += more.view_as(slope)
    slope = slope * on
    sums = product(torch.cat([slope, z], 1).T, rows.x)
    used = z.sum(0)
    read = product(z.T, z) @ state.decoder - sums[k:] + used[:, None] * state.bias
    _fill(state, rows, options, sums[:k], read, slope.sum(0), used)
    return fit / (n * m) + options.l1 * used.sum() / n + extra


def sparse(state: SaeState, rows: Rows, options: Options) -> Tensor:
    """Only active entries, found by a screening product and computed again in full precision."""
    k, m, n = *state.encoder.shape, len(rows.x)
    offset = _offset(state, options)
    row, code, value = rows.screen.entries(state.encoder, offset)
    rows.active = len(row)
    active_rows, place, count = torch.unique_consecutive(
        row, return_inverse=True, return_counts=True
    )
    plain = rows.x.index_select(0, active_rows) - state.bias
    error = _weighted(code, state.decoder, count, value) - plain
    slope = dots(error, state.decoder, place, code).mul_(2 / (n * m)).add_(options.l1 / n)
    order = code.argsort(stable=True)
    count = torch.bincount(code, minlength=k)
    push, used = _sums(code, slope, k), _sums(code, value, k)
    sums = _weighted(row[order], rows.x, count, slope[order])
    read = _weighted(place[order], error, count, value[order])
    _fill(state, rows, options, sums, read, push, used)
    fit = error.square().sum() - plain.square().sum() + _spread(state, rows)
    return fit / (n * m) + options.l1 * used.sum() / n


def _product(dtype: torch.dtype) -> Callable[[Tensor, Tensor], Tensor]:
    """Matrix product with factors rounded to `dtype`."""
    if dtype == torch.bfloat16:
        return lambda a, b: (a.to(dtype) @ b.to(dtype)).to(a.dtype)
    return torch.matmul


def _offset(state: SaeState, options: Options) -> Tensor:
    """What is added to W x: b_e - W b, or b_e where the bias is not tied."""
    if not options.tied:
        return state.code_bias.clone()
    return state.code_bias - state.encoder @ state.bias


def _spread(state: SaeState, rows: Rows) -> Tensor:
    """Sum of |x - b|^2 over all rows."""
    return rows.square - 2 * state.bias @ rows.total + len(rows.x) * state.bias @ state.bias


def _weighted(which: Tensor, table: Tensor, count: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums of rows of `table`, one per run of `count` entries."""
    start = count.cumsum(0) - count
    return F.embedding_bag(which, table, start, mode="sum", per_sample_weights=weight)


def _sums(code: Tensor, value: Tensor, k: int) -> Tensor:
    return value.new_zeros(k).index_add_(0, code, value)


def _fill(
    state: SaeState,
    rows: Rows,
    options: Options,
    sums: Tensor,
    read: Tensor,
    push: Tensor,
    used: Tensor,
) -> None:
    """Write the gradients: sums = da' x, read = z' r (both `k m`), push = sum da, used = sum z."""
    n, m = rows.x.shape
    tied, slope = options.tied, state.slope
    torch.sub(sums, push[:, None] * state.bias * tied, out=slope.encoder)
    torch.mul(read, 2 / (n * m), out=slope.decoder)
    slope.code_bias.copy_(push)
    slope.bias.copy_((used @ state.decoder - rows.total + n * state.bias) * (2 / (n * m)))
    if tied:
        slope.bias.sub_(push @ state.encoder)


def _contrast(z: Tensor, labels: Tensor | None, alpha: float) -> tuple[Tensor, Tensor]:
    """alpha (cos(pos, neg) + 1 - cos(pos, pos)) of z `e h k`, and its gradient."""
    assert labels is not None
    with torch.enable_grad():
        z = z.detach().requires_grad_(True)
        unit = F.normalize(z, dim=-1)
        good, bad = unit[labels], unit[~labels]
        across = (good.sum(0) * bad.sum(0)).sum(-1) / max(1, len(good) * len(bad))
        pairs = max(1, len(good) * (len(good) - 1))
        within = (good.sum(0).square().sum(-1) - good.square().sum((0, 2))) / pairs
        term = alpha * (across + 1 - within).mean()
        return term.detach(), torch.autograd.grad(term, z)[0]
