"""What is special to gated products on Triton: layouts of pictures, formed gates, recursion."""

from __future__ import annotations

import pytest
import torch
from op_cases import on_triton, pictures

from limelight.kernels.errors import KernelError
from limelight.kernels.gated_convolution.reference import (
    gated_convolution,
    recursive_gated_convolution,
)

pytestmark = pytest.mark.usefixtures("on_triton")


def test_channels_last_and_slices_of_channels_are_read_where_they_lie():
    given = pictures(c=6, k=(3, 3))
    whole = torch.cat([given["context"], given["first"]], 1)
    whole = whole.to(memory_format=torch.channels_last)
    slices = {"context": whole[:, :6], "first": whole[:, 6:]}
    on_triton(gated_convolution, {**given, **slices}, 2e-5)


def test_a_formed_gate_is_multiplied():
    given = pictures(k=(3, 3))
    first, gate = given["first"].requires_grad_(), given["context"].clone().requires_grad_()
    out = gated_convolution(**given, gate=gate)
    torch.testing.assert_close(out, first * gate)
    found = torch.autograd.grad(out.sum(), (first, gate))
    torch.testing.assert_close(found, (gate.detach(), first.detach()))


def test_reasons_against_the_kernels():
    given = pictures(k=(3, 3))
    assert gated_convolution.why(**given).path == "triton"
    with pytest.raises(KernelError, match="several dtypes"):
        gated_convolution(**{**given, "weight": given["weight"].half()})


def test_a_recursion_runs_order_by_order(monkeypatch):
    make = torch.Generator().manual_seed(0)
    sizes = ((1, 2, 5, 6), (1, 6, 5, 6), (6, 1, 7, 7), (6,))
    given = [torch.randn(size, generator=make).requires_grad_() for size in sizes]
    mixer = torch.nn.Conv2d(2, 4, 1)
    found = []
    for path in ("triton", "reference"):
        monkeypatch.setenv("LIMELIGHT_KERNELS", path)
        out = recursive_gated_convolution(*given, [mixer], widths=(2, 4), scale=0.3)
        grads = torch.autograd.grad(out.square().sum(), [*given, mixer.weight])
        found.append([out, *grads])
    torch.testing.assert_close(found[0], found[1], atol=2e-5, rtol=2e-5)
