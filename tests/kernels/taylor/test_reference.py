"""Taylor attention against its formula, its states, its gradients, its memory and its errors."""

from __future__ import annotations

import math

import pytest
import torch
from naive_ops import taylor_attention as formula
from op_cases import draw

from limelight.kernels.errors import KernelError
from limelight.kernels.taylor import taylor_attention, taylor_denominator, taylor_state
from limelight.kernels.taylor.reference import taylor_map
from limelight.kernels.taylor.scan import CHUNK, features

LENGTHS = (1, 5, CHUNK, CHUNK + 1, 2 * CHUNK + 44)


def arguments(n, b=2, h=3, d=5, e=4, grad=False):
    q, k, v = (draw(b, h, n, c, seed=s).double() for s, c in enumerate((d, d, e)))
    return [x.requires_grad_(grad) for x in (q, k, v)]


@pytest.mark.parametrize("n", LENGTHS)
def test_chunks_equal_the_formula_in_result_and_gradients(n):
    given = arguments(n, grad=True)
    out, want = taylor_attention(*given), formula(*given)
    torch.testing.assert_close(out, want)
    g = torch.randn_like(out)
    found = torch.autograd.grad(out, given, g)
    for a, b in zip(found, torch.autograd.grad(want, given, g), strict=True):
        torch.testing.assert_close(a, b)
    low = taylor_attention(*(x.float() for x in given))
    torch.testing.assert_close(low.double(), want, rtol=1e-5, atol=1e-5)


def test_features_multiply_to_the_series():
    x, y = draw(7, 5).double(), draw(9, 5, seed=1).double()
    s = x @ y.mT
    torch.testing.assert_close(features(x) @ features(y).mT, 1 + s + s**2 / 2)
    assert features(x).shape[-1] == 6 * 7 // 2


def test_scores_near_zero_give_softmax():
    q, k, v = arguments(40)
    scores = 1e-3 * q @ k.mT * 5**-0.5
    hidden = torch.ones(40, 40, dtype=torch.bool).triu(1)
    want = scores.masked_fill(hidden, -math.inf).softmax(-1)
    torch.testing.assert_close(taylor_map(slice(None), 1e-3 * q, k, v), want, rtol=1e-7, atol=1e-9)


def test_the_map_is_a_causal_distribution_and_times_v_the_result():
    q, k, v = arguments(CHUNK + 30)
    whole = taylor_map(slice(None), q, k, v)
    torch.testing.assert_close(whole @ v, taylor_attention(q, k, v))
    torch.testing.assert_close(taylor_map(slice(9, 150), q, k, v), whole[:, :, 9:150])
    assert not whole.triu(1).any()
    assert (whole.tril().diagonal(0, -2, -1) > 0).all()
    torch.testing.assert_close(whole.sum(-1), torch.ones_like(whole[..., 0]))


def test_no_gradient_reaches_later_tokens():
    given = arguments(CHUNK + 20, grad=True)
    grads = torch.autograd.grad(taylor_attention(*given)[:, :, :140].sum(), given)
    assert all(not g[:, :, 140:].any() and g[:, :, :140].any() for g in grads)


def test_the_denominator_is_the_sum_of_weights():
    q, k, _ = arguments(CHUNK + 30)
    scores = (q @ k.mT * 5**-0.5).double()
    want = (1 + scores + scores**2 / 2).tril().sum(-1)
    found = taylor_denominator(q, k)
    torch.testing.assert_close(found, want)
    assert (found >= torch.arange(1, CHUNK + 31) / 2).all()


@pytest.mark.parametrize("cut", [1, 40, CHUNK, 199])
def test_a_state_continues_the_scan(cut):
    q, k, v = arguments(200)
    parts, state = [], None
    for span in (slice(0, cut), slice(cut, cut + 1), slice(cut + 1, 200)):
        own = [x[:, :, span] for x in (q, k, v)]
        if own[0].shape[2]:
            out, state = taylor_state(*own, state)
            parts.append(out)
    torch.testing.assert_close(torch.cat(parts, 2), formula(q, k, v))
    assert state.shape == (2, 3, 21, 5)
    torch.testing.assert_close(state[..., 0, -1], torch.full((2, 3), 200.0).double())


def test_gradients_to_the_second_order():
    for n in (7, CHUNK + 2):
        given = arguments(n, b=1, h=1, d=2, e=1, grad=True)
        assert torch.autograd.gradcheck(taylor_attention, given, fast_mode=True)
        assert torch.autograd.gradgradcheck(taylor_attention, given, fast_mode=True)


def test_one_tensor_may_be_all_three():
    x = draw(1, 1, CHUNK + 20, 4).double().requires_grad_()
    found = torch.autograd.grad(taylor_attention(x, x, x).square().sum(), x)
    want = torch.autograd.grad(formula(x, x, x).square().sum(), x)
    torch.testing.assert_close(found, want)


def test_a_graph_holds_the_features_of_no_more_than_one_chunk():
    """What autograd saves of many tokens is less than one number for each of their features."""
    given = [draw(1, 1, 8 * CHUNK, c, seed=c).requires_grad_() for c in (16, 16, 8)]
    saved: dict[int, int] = {}

    def pack(x):
        saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes() // x.itemsize
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        taylor_attention(*given)
    assert 0 < sum(saved.values()) < 8 * CHUNK * features(given[0]).shape[-1] / 2


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_under_torch_func():
    q, k, v = (x[0] for x in arguments(CHUNK + 5))
    each = torch.func.vmap(lambda *x: taylor_attention(*(y[None] for y in x))[0])
    torch.testing.assert_close(
        each(*(torch.stack([x, 2 * x]) for x in (q, k, v)))[1],
        taylor_attention(2 * q[None], 2 * k[None], 2 * v[None])[0],
    )
    x = v[None]
    _, moved = torch.func.jvp(lambda v: taylor_attention(q[None], k[None], v), (x,), (x,))
    torch.testing.assert_close(moved, taylor_attention(q[None], k[None], x))  # linear in v


def test_shapes_that_do_not_fit_are_told():
    q, k, v = arguments(5)
    with pytest.raises(KernelError, match="takes q and k b h n d and v b h n e"):
        taylor_attention(q, k[..., :3], v)
    with pytest.raises(KernelError, match=r"state of .* does not fit q and v"):
        taylor_state(q, k, v, torch.zeros(2, 3, 5, 5))
