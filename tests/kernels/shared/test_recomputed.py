"""Results in blocks of rows: values and gradients of the whole, the memory of one block."""

from __future__ import annotations

import torch
from op_cases import draw

from limelight.kernels.shared import by_rows


def attend(q, k, v=None, unused=None):
    return (q @ k.mT).cos() @ (k if v is None else v)


def given():
    return [draw(2, 1, 7, 3, seed=n).double().requires_grad_() for n in range(3)]


def test_gradients_of_every_order():
    q, k, v = given()
    run = lambda q, k, v: by_rows(attend, q, k, v, block=2)  # noqa: E731
    torch.testing.assert_close(run(q, k, v), attend(q, k, v))
    assert torch.autograd.gradcheck(run, (q, k, v))
    assert torch.autograd.gradgradcheck(run, (q, k, v))


def test_a_tensor_given_twice_none_and_one_that_is_not_used():
    q, k, v = given()
    out = by_rows(attend, q, q, None, v, block=3)
    (found,) = torch.autograd.grad(out.sum(), q, retain_graph=True)
    (want,) = torch.autograd.grad(attend(q, q).sum(), q)
    torch.testing.assert_close(found, want)
    assert torch.autograd.grad(out.sum(), v, allow_unused=True) == (None,)
    fixed = by_rows(attend, q.detach(), k, block=3)
    torch.testing.assert_close(
        torch.autograd.grad(fixed.sum(), k)[0], torch.autograd.grad(attend(q, k).sum(), k)[0]
    )


def test_blocks_keep_nothing_between_passes():
    q, k, v = given()
    kept = []

    def pack(x):
        kept.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        by_rows(attend, q, k, v, block=2)
    assert max(kept) <= q.numel()  # never the 7 x 7 of all blocks
