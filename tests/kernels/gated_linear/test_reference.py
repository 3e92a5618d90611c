"""Gated linear attention against its recurrence, its maps, its gradients and its errors."""

from __future__ import annotations

import pickle

import pytest
import torch
from naive_ops import gated_linear_attention as recurrence

from limelight.kernels.errors import KernelError
from limelight.kernels.gated_linear.reference import (
    bidirectional_gla,
    both_map,
    gated_linear_attention,
    gla_map,
    gla_state,
)

LENGTHS = (1, 5, 16, 63, 100, 200)


def arguments(n, strength=0.5, b=2, h=3, d=8, e=5, dtype=torch.float64, grad=False):
    draw = torch.Generator().manual_seed(n)
    q, k, v = (torch.randn(b, h, n, c, generator=draw, dtype=torch.float64) for c in (d, d, e))
    gate, back = (-strength * torch.rand(q.shape, generator=draw).double() for _ in range(2))
    return [x.to(dtype).requires_grad_(grad) for x in (q, k, v, gate, back)]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("strength", [0.0, 0.1, 5.0, 50.0])
@pytest.mark.parametrize("n", LENGTHS)
def test_chunks_equal_the_recurrence(n, strength, reverse):
    q, k, v, gate, _ = arguments(n, strength)
    want = recurrence(q, k, v, gate, reverse=reverse)
    torch.testing.assert_close(gated_linear_attention(q, k, v, gate, reverse=reverse), want)
    low = gated_linear_attention(*(x.float() for x in (q, k, v, gate)), reverse=reverse)
    torch.testing.assert_close(low.double(), want, rtol=1e-4, atol=1e-4)
    half = gated_linear_attention(*(x.bfloat16() for x in (q, k, v, gate)), reverse=reverse)
    assert half.dtype == torch.bfloat16
    assert (half - want).abs().max() < 0.1 * max(1, float(want.abs().max()))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("n", LENGTHS)
def test_the_map_times_v_is_the_result(n, reverse):
    q, k, v, gate, back = arguments(n)
    whole = gla_map(slice(None), q, k, v, gate, reverse=reverse)
    torch.testing.assert_close(whole @ v, gated_linear_attention(q, k, v, gate, reverse=reverse))
    part = gla_map(slice(n // 3, n), q, k, v, gate, reverse=reverse)
    torch.testing.assert_close(part, whole[:, :, n // 3 :])
    triangle = whole.triu(1) if not reverse else whole.tril(-1)
    assert not triangle.any()
    both = both_map(slice(None), q, k, v, gate, back)
    torch.testing.assert_close(both @ v, bidirectional_gla(q, k, v, gate, back))


def test_both_ways_are_the_mean_of_two_scans():
    q, k, v, gate, back = arguments(63)
    want = (recurrence(q, k, v, gate) + recurrence(q, k, v, back, reverse=True)) / 2
    torch.testing.assert_close(bidirectional_gla(q, k, v, gate, back), want)


@pytest.mark.parametrize("cut", [0, 1, 40, 99])
def test_a_state_continues_the_scan(cut):
    q, k, v, gate, _ = arguments(100)
    parts, state = [], None
    for span in (slice(0, cut), slice(cut, cut + 1), slice(cut + 1, 100)):
        own = [x[:, :, span] for x in (q, k, v, gate)]
        if own[0].shape[2]:
            out, state = gla_state(*own, state)
            parts.append(out)
    torch.testing.assert_close(torch.cat(parts, 2), recurrence(q, k, v, gate))
    assert state.shape == (2, 3, 8, 5)


def test_gradients_to_the_second_order():
    given = arguments(18, b=1, h=1, d=2, e=2, grad=True)  # more than one part of a chunk
    assert torch.autograd.gradcheck(gated_linear_attention, given[:4], fast_mode=True)
    assert torch.autograd.gradcheck(bidirectional_gla, given, fast_mode=True)
    tiny = arguments(3, b=1, h=1, d=2, e=1, grad=True)
    assert torch.autograd.gradcheck(bidirectional_gla, tiny)
    assert torch.autograd.gradgradcheck(gated_linear_attention, tiny[:4])


def test_strong_decays_have_finite_gradients():
    given = arguments(100, strength=80.0, dtype=torch.float32, grad=True)
    grads = torch.autograd.grad(bidirectional_gla(*given).sum(), given)
    assert all(g.isfinite().all() for g in grads)


def test_it_is_linear_in_q_k_and_v():
    given = arguments(30, grad=True)
    out = bidirectional_gla(*given)
    g = torch.ones_like(out)
    whole = (out * g).sum()
    grads = torch.autograd.grad(out, given, g)
    for x, grad in zip(given[:3], grads, strict=False):
        torch.testing.assert_close((x * grad).sum(), whole)
    assert bidirectional_gla.face.share == ("q", "k", "v")


def test_it_compiles_and_pickles():
    given = arguments(40)[:4]
    torch.compiler.reset()
    compiled = torch.compile(gated_linear_attention, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*given), gated_linear_attention(*given))
    assert pickle.loads(pickle.dumps(bidirectional_gla)) is bidirectional_gla


def test_shapes_that_do_not_fit_are_told():
    q, k, v, gate, _ = arguments(5)
    with pytest.raises(KernelError, match="takes q, k and gate b h n d"):
        gated_linear_attention(q, k[..., :3], v, gate)
    with pytest.raises(KernelError, match="b h n e"):
        gla_state(q, k, v[:, :, :2], gate)
