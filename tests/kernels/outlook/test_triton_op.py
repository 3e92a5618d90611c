"""What is special to outlook attention on Triton: large scores, wide weights, refusals."""

from __future__ import annotations

import pytest
import torch
from op_cases import looks, on_triton

from limelight.kernels.errors import KernelError
from limelight.kernels.outlook.reference import outlook

pytestmark = pytest.mark.usefixtures("on_triton")


def test_large_scores_do_not_overflow():
    named = looks((5, 4))
    on_triton(outlook, {**named, "weight": 100 * named["weight"]}, 2e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_weights_of_halves_may_be_wide(dtype, tolerance):
    named = looks((5, 7))
    on_triton(outlook, {**named, "v": named["v"].to(dtype)}, tolerance)


def test_what_the_kernels_refuse_is_told(monkeypatch):
    named = looks((9, 9), kernel_size=9, stride=1, padding=4, h=1, e=1)
    with pytest.raises(KernelError, match="a kernel of 9 is larger than 8"):
        outlook(**named)
    monkeypatch.setenv("LIMELIGHT_KERNELS", "auto")
    assert outlook(**named).shape == named["v"].shape
    monkeypatch.setenv("LIMELIGHT_KERNELS", "triton")
    with pytest.raises(KernelError, match="takes v b h 81 e"):
        outlook(**{**named, "weight": named["weight"][:, :, 1:], "kernel_size": 3})
