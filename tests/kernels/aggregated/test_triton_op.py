"""What is special to aggregated attention on Triton: statistics, large scores, refusals."""

from __future__ import annotations

import pytest
import torch
from op_cases import draw, foveal, on_triton

from limelight.kernels.aggregated import aggregated_attention, aggregated_statistics
from limelight.kernels.errors import KernelError

pytestmark = pytest.mark.usefixtures("on_triton")


def test_statistics_come_from_the_same_pass(monkeypatch):
    named = foveal((5, 7), (2, 3), h=1)
    out, found = aggregated_statistics(**named)
    monkeypatch.setenv("LIMELIGHT_KERNELS", "reference")
    want_out, want = aggregated_statistics(**named)
    torch.testing.assert_close(out, want_out)
    for name in ("foveal", "peripheral"):
        torch.testing.assert_close(found[name], want[name])


def test_statistics_let_gradients_of_the_result_through():
    named = foveal((3, 4), (1, 2), h=1)
    v = named["v"].requires_grad_()
    out, found = aggregated_statistics(**named)
    assert not found["foveal"].requires_grad
    (slope,) = torch.autograd.grad(out.sum(), v)
    torch.testing.assert_close((slope * v).sum(), out.sum())


def test_large_scores_do_not_overflow():
    named = foveal((3, 4), (2, 2), h=1)
    on_triton(aggregated_attention, {**named, "scale": 60 * named["scale"]}, 1e-3)


def test_keys_of_no_length_have_finite_gradients():
    named = foveal((3, 4), (1, 2), h=1)
    named["k"] = named["k"].clone()
    named["k"][:, :, [1, 13]] = 0.0
    on_triton(aggregated_attention, named, 1e-4)


def test_what_the_kernels_refuse_is_told(monkeypatch):
    named = foveal((2, 3), (1, 1), 9, h=1)
    with pytest.raises(KernelError, match="a window of 9 is larger than 7"):
        aggregated_attention(**named)
    with pytest.raises(KernelError, match="heads are wider than 128"):
        aggregated_attention(**foveal((2, 3), (1, 1), h=1, e=150))
    with pytest.raises(KernelError, match="several dtypes"):
        aggregated_attention(**{**foveal((2, 3), (1, 1)), "v": draw(1, 2, 7, 4).half()})
    monkeypatch.setenv("LIMELIGHT_KERNELS", "auto")
    assert aggregated_attention(**named).shape == (1, 1, 6, 4)
