"""WKV against its recurrence, its map, its states, its gradients and its errors."""

from __future__ import annotations

import pytest
import torch
from naive_ops import wkv as recurrence
from op_cases import decaying

from limelight.kernels.errors import KernelError
from limelight.kernels.wkv import wkv, wkv_state
from limelight.kernels.wkv.reference import wkv_map

LENGTHS = (1, 2, 3, 5, 64, 101)


def arguments(n, grad=False, **how):
    return [x.double().requires_grad_(grad) for x in decaying(n, b=2, **how).values()]


@pytest.mark.parametrize("strength", [0.0, 0.3, 50.0])
@pytest.mark.parametrize("n", LENGTHS)
def test_pairs_of_runs_equal_the_recurrence(n, strength):
    given = arguments(n, grad=True, strength=strength)
    out, want = wkv(*given), recurrence(*given)
    torch.testing.assert_close(out, want)
    g = torch.randn_like(out)
    found = torch.autograd.grad(out, given, g)
    for a, b in zip(found, torch.autograd.grad(want, given, g), strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-7)
    low = wkv(*(x.float() for x in given))
    torch.testing.assert_close(low.double(), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shift", [-1e4, 1e4])
def test_keys_may_be_as_large_as_they_like(shift):
    """A number that all keys share changes nothing, though its exponential overflows."""
    k, v, decay, bonus = arguments(70)
    want = wkv(k, v, decay, bonus)
    torch.testing.assert_close(wkv(k + shift, v, decay, bonus), want)
    low = [x.float().requires_grad_() for x in (20 * k + shift, v, decay, bonus)]
    out = wkv(*low)
    grads = torch.autograd.grad(out.square().sum(), low)
    assert all(x.isfinite().all() for x in (out, *grads))


def test_no_decay_and_no_bonus_is_a_causal_softmax():
    k, v, decay, _ = arguments(50)
    none = torch.zeros_like(decay)
    weights = k.exp()
    want = (weights * v).cumsum(2) / weights.cumsum(2)
    torch.testing.assert_close(wkv(k, v, none, none), want)


def test_the_map_is_a_causal_distribution_and_times_v_the_result():
    given = arguments(70)
    whole = wkv_map(slice(None), *given)
    torch.testing.assert_close(whole @ given[1], wkv(*given))
    torch.testing.assert_close(wkv_map(slice(9, 60), *given), whole[:, :, 9:60])
    assert not whole.triu(1).any()
    torch.testing.assert_close(whole.sum(-1), torch.ones_like(whole[..., 0]))


def test_no_gradient_reaches_later_tokens():
    given = arguments(60, grad=True)[:2]
    out = wkv(*given, *arguments(60)[2:])
    grads = torch.autograd.grad(out[:, :, :41].sum(), given)
    assert all(not g[:, :, 41:].any() and g[:, :, :41].any() for g in grads)


@pytest.mark.parametrize("cut", [1, 40, 99])
def test_a_state_continues_the_scan(cut):
    k, v, decay, bonus = arguments(100)
    parts, state = [], None
    for span in (slice(0, cut), slice(cut, cut + 1), slice(cut + 1, 100)):
        if k[:, :, span].shape[2]:
            out, state = wkv_state(k[:, :, span], v[:, :, span], decay, bonus, state)
            parts.append(out)
    torch.testing.assert_close(torch.cat(parts, 2), recurrence(k, v, decay, bonus))
    assert state.shape == (2, 5, 3)
    powers = torch.arange(100).flip(0)[:, None] * decay  # of what each token keeps at the end
    whole = (k[..., 0] + powers.T).exp().sum(-1)
    torch.testing.assert_close(state[..., 1] * state[..., 2].exp(), whole)


def test_gradients_to_the_second_order():
    given = arguments(7, grad=True, c=2)
    assert torch.autograd.gradcheck(wkv, given)
    assert torch.autograd.gradgradcheck(wkv, given, fast_mode=True)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_under_torch_func():
    k, v, decay, bonus = arguments(21)
    each = torch.func.vmap(lambda k, v: wkv(k[None], v[None], decay, bonus)[0])
    torch.testing.assert_close(each(k, v), wkv(k, v, decay, bonus))
    _, moved = torch.func.jvp(lambda v: wkv(k, v, decay, bonus), (v,), (v,))
    torch.testing.assert_close(moved, wkv(k, v, decay, bonus))  # linear in v


def test_steps_grow_with_the_logarithm_of_tokens():
    """No loop over single tokens: 16 times the tokens, 4 runs of runs more."""
    counts = []
    for n in (64, 1024):
        with torch.profiler.profile() as profile, torch.no_grad():
            wkv(*arguments(n, c=2))
        counts.append(sum(e.count for e in profile.key_averages() if e.key == "aten::exp"))
    assert counts[1] - counts[0] == 4 * (counts[0] - 3) // 6


def test_shapes_that_do_not_fit_are_told():
    k, v, decay, bonus = arguments(5)
    with pytest.raises(KernelError, match="takes k and v b c n 1"):
        wkv(k, v[:, :, 1:], decay, bonus)
    with pytest.raises(KernelError, match="decay and bonus c"):
        wkv(k, v, decay[1:], bonus)
    with pytest.raises(KernelError, match=r"state of .* does not fit k"):
        wkv_state(k, v, decay, bonus, torch.zeros(2, 5))
