"""Fused outlook attention on Triton's interpreter, against the torch reference."""

from __future__ import annotations

import os

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is decorated

import pytest
import torch
from torch import Tensor

from limelight.kernels.errors import KernelError
from limelight.kernels.outlook.reference import outlook, windows

pytest.importorskip("triton")


@pytest.fixture(autouse=True)
def _on_triton(monkeypatch):
    """Every call takes the kernels, and memory that nobody wrote holds NaN."""
    if os.environ["TRITON_INTERPRET"] != "1":
        pytest.skip("the interpreter is switched off")
    monkeypatch.setenv("LIMELIGHT_KERNELS", "triton")
    before = torch.get_num_threads(), torch.utils.deterministic.fill_uninitialized_memory
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = before[1]
    torch.set_num_threads(before[0])


def arguments(grid, kernel=3, stride=2, padding=1, b=1, h=2, e=5) -> tuple[Tensor, Tensor, dict]:
    """v and weight as layers give them, channels of all heads side by side, and the options."""
    draw = torch.Generator().manual_seed(grid[0] * grid[1] + e)
    y, x = windows(grid, kernel, stride, padding)
    v = torch.randn(b, grid[0] * grid[1], h, e, generator=draw).transpose(1, 2)
    weight = 3 * torch.randn(b, y * x, h, kernel**2, kernel**2, generator=draw).transpose(1, 2)
    how = {"grid": grid, "kernel_size": kernel, "stride": stride, "padding": padding}
    return v, weight, how


def compare(v: Tensor, weight: Tensor, how: dict, tolerance: float = 1e-5) -> None:
    """Result and gradients of the fused path against the reference in float64."""
    own = [x.detach().requires_grad_() for x in (v, weight)]
    wide = [x.detach().double().requires_grad_() for x in (v, weight)]
    out = outlook(*own, **how)
    assert out.grad_fn.name() == "_LaunchBackward"
    want = outlook.reference(*wide, **how)
    g = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    found = torch.autograd.grad(out, own, g)
    should = torch.autograd.grad(want, wide, g.double())
    assert out.dtype == v.dtype
    for name, a, b in zip(("out", "v", "weight"), (out, *found), (want, *should), strict=True):
        assert a.shape == b.shape, name
        error = float((a.double() - b).detach().abs().max() / b.detach().abs().max())
        assert error <= tolerance, (name, error)


@pytest.mark.parametrize(
    ("grid", "kernel", "stride", "padding", "e"),
    [
        ((5, 7), 3, 2, 1, 5),
        ((9, 9), 3, 2, 1, 16),
        ((7, 9), 3, 1, 1, 3),
        ((6, 5), 5, 3, 2, 4),
        ((7, 4), 2, 2, 0, 1),
        ((5, 8), 2, 3, 0, 7),
        ((1, 3), 3, 1, 1, 4),
    ],
)
def test_result_and_gradients_equal_the_reference(grid, kernel, stride, padding, e):
    compare(*arguments(grid, kernel, stride, padding, e=e))


def test_wide_heads_go_in_parts():
    compare(*arguments((3, 2), e=150, h=1))


def test_strides_of_other_layouts():
    v, weight, how = arguments((5, 4), b=2)
    compare(v.contiguous(), weight.contiguous(), how)
    compare(v.mT.contiguous().mT, weight.mT.contiguous().mT, how)


def test_large_scores_do_not_overflow():
    v, weight, how = arguments((5, 4))
    compare(v, 100 * weight, how, 2e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_halves_are_added_up_in_float32(dtype, tolerance):
    v, weight, how = arguments((5, 7))
    compare(v.to(dtype), weight.to(dtype), how, tolerance)
    compare(v.to(dtype), weight, how, tolerance)


def test_only_the_gradients_asked_for():
    v, weight, how = arguments((4, 4))
    out = outlook(v.requires_grad_(), weight, **how)
    (grad,) = torch.autograd.grad(out.sum(), v)
    torch.testing.assert_close((grad * v).sum(), out.sum())


def test_the_second_derivative_goes_by_the_reference():
    v, weight, how = arguments((3, 3), h=1)
    found = []
    for run in (outlook, outlook.reference):
        own = [x.detach().requires_grad_() for x in (v, weight)]
        first = torch.autograd.grad(run(*own, **how).square().sum(), own, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), own))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_what_the_kernels_refuse_is_told(monkeypatch):
    v, weight, how = arguments((9, 9), kernel=9, stride=1, padding=4, h=1, e=1)
    with pytest.raises(KernelError, match="a kernel of 9 is larger than 8"):
        outlook(v, weight, **how)
    monkeypatch.setenv("LIMELIGHT_KERNELS", "auto")
    assert outlook(v, weight, **how).shape == v.shape
    monkeypatch.setenv("LIMELIGHT_KERNELS", "triton")
    with pytest.raises(KernelError, match="takes v b h 81 e"):
        outlook(v, weight[:, :, 1:], **{**how, "kernel_size": 3})
