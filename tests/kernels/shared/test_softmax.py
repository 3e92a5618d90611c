"""The fused softmax attention: equal to the formula, its graph kept once, then freed."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend
from torch.utils.checkpoint import checkpoint

from limelight.kernels.shared import fused, normal, written


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def qkv(n: int = 9, m: int = 11) -> list[Tensor]:
    shapes = (2, 3, n, 4), (2, 3, m, 4), (2, 3, m, 5)
    return [draw(*shape, seed=place).requires_grad_() for place, shape in enumerate(shapes)]


OPTIONS = [
    {},
    {"scale": 0.2},
    {"mask": draw(1, 3, 9, 11)},
    {"mask": draw(1, 1, 9, 11).requires_grad_()},
]


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "scale", "mask", "moving mask"])
def test_result_and_gradients_are_those_of_the_formula(options):
    given = qkv()
    mask = options.get("mask")
    wanted = [*given, mask] if mask is not None and mask.requires_grad else given
    out = fused(*given, **options)
    want = written(*given, mask, options.get("scale"), False)
    torch.testing.assert_close(out, want)
    g = draw(*out.shape, seed=7)
    torch.testing.assert_close(
        torch.autograd.grad(out, wanted, g), torch.autograd.grad(want, wanted, g)
    )


@pytest.mark.parametrize(("d", "e"), [(1, 5), (4, 4), (7, 3)])
@pytest.mark.parametrize("options", [{}, {"causal": True}, {"mask": draw(9, 9).double()}], ids=str)
@pytest.mark.parametrize("moving", [False, True])
def test_heads_of_unequal_width_take_the_op_that_holds_no_map(d, e, options, moving, monkeypatch):
    """The scale is that of d channels, whatever zeros stand beside them."""
    q, k, v = (draw(2, 3, 9, width, seed=width).double() for width in (d, d, e))
    mask, causal = options.get("mask"), options.get("causal", False)
    whole = F.scaled_dot_product_attention
    want = whole(q, k, v, mask, is_causal=causal)
    paths = []

    def noted(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, **more: Any) -> Tensor:
        more_of_it = {"attn_mask": mask, "is_causal": more["is_causal"]}
        paths.append(torch._fused_sdp_choice(q, k, v, **more_of_it))
        return whole(q, k, v, mask, **more)

    monkeypatch.setattr(F, "scaled_dot_product_attention", noted)
    found = fused(*(x.requires_grad_(moving) for x in (q, k, v)), **options)
    torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)
    assert paths == [SDPBackend.FLASH_ATTENTION.value]


def test_a_second_backward_finds_the_same():
    given = qkv(9, 9)
    out = fused(*given, causal=True)
    first = torch.autograd.grad(out.sum(), given, retain_graph=True)
    again = torch.autograd.grad(out.sum(), given, retain_graph=True)
    with_graph = torch.autograd.grad(out.sum(), given, create_graph=True)
    torch.testing.assert_close(again, first)
    torch.testing.assert_close(with_graph, first)
    assert all(x.requires_grad for x in with_graph)


def test_gradients_of_some_arguments():
    q, k, v = qkv()
    want = torch.autograd.grad(fused(q, k, v).sum(), (q, k, v))
    for place in range(3):
        given = [x.detach().requires_grad_(place == n) for n, x in enumerate((q, k, v))]
        (found,) = torch.autograd.grad(fused(*given).sum(), given[place])
        torch.testing.assert_close(found, want[place])


def test_checkpointing_and_moved_tensors():
    given = qkv()
    want = torch.autograd.grad(fused(*given).pow(2).sum(), given)
    out = checkpoint(lambda *x: fused(*x).pow(2), *given, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(out.sum(), given), want)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x.double(), lambda x: x.float()):
        out = fused(*given).pow(2).sum()
    torch.testing.assert_close(torch.autograd.grad(out, given), want)


def test_nothing_is_left_behind():
    gc.disable()
    try:
        given = qkv()
        keys = given[1] * 1.0
        out = fused(given[0], keys, given[2])
        kept = weakref.ref(keys)
        del keys
        out.sum().backward()
        del out
        assert kept() is None
    finally:
        gc.enable()


def test_a_row_of_minus_infinities_is_zeros_without_a_gradient():
    scores = torch.tensor([[0.0, 1.0], [-torch.inf, -torch.inf]], requires_grad=True)
    found = normal(scores)
    assert found[1].tolist() == [0, 0]
    (grad,) = torch.autograd.grad(found[:, 0].sum(), scores)
    assert grad.isfinite().all()
    assert not grad[1].any()


def test_half_precision_is_summed_in_float32():
    given = [x.detach().bfloat16() for x in qkv(64, 64)]
    want = written(*(x.double() for x in given), None, None, False)
    for found in (fused(*given), written(*given, None, None, False)):
        assert found.dtype == torch.bfloat16
        assert float((found - want).abs().max()) < 0.01
