"""What is special to context convolution on Triton: borders that meet, layouts, refusals."""

from __future__ import annotations

import pytest
from op_cases import kernels_of_pixels, on_triton

from limelight.kernels.context_convolution.reference import context_convolution
from limelight.kernels.errors import KernelError

pytestmark = pytest.mark.usefixtures("on_triton")


@pytest.mark.parametrize("grid", [(5, 5), (9, 10), (5, 14), (11, 6)])
def test_pixels_that_all_windows_or_few_hold(grid):
    """Sides below, at and beyond twice the kernel of 5: borders apart, touching, overlapping."""
    on_triton(context_convolution, kernels_of_pixels(grid, 5, 3, b=1, g=1, e=2), 1e-5)


def test_weights_with_taps_side_by_side_are_read_where_they_lie():
    named = kernels_of_pixels((6, 7), 3, 5, b=1, e=3)
    named |= {name: named[name].contiguous() for name in ("small", "large")}
    on_triton(context_convolution, named, 1e-5)


def test_what_the_kernels_refuse_is_told(monkeypatch):
    named = kernels_of_pixels((33, 33), 33, b=1, g=1, e=1)
    with pytest.raises(KernelError, match="a kernel of 33 is larger than 31"):
        context_convolution(**named)
    monkeypatch.setenv("LIMELIGHT_KERNELS", "auto")
    assert context_convolution(**named).shape == named["v"].shape
    monkeypatch.setenv("LIMELIGHT_KERNELS", "triton")
    with pytest.raises(KernelError, match="does not lie in a picture"):
        context_convolution(**{**kernels_of_pixels((6, 7), 5), "grid": (42, 1)})
