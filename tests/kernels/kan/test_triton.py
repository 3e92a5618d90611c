"""What is special to learned maps on Triton: large scores, wide parameters, blocks, refusals."""

from __future__ import annotations

import pytest
import torch
from op_cases import learned, on_triton

from limelight.kernels.errors import KernelError
from limelight.kernels.kan import kan_attention
from limelight.kernels.kan import reference as module

pytestmark = pytest.mark.usefixtures("on_triton")


def test_large_scores_turn_as_those_of_the_reference():
    named = learned(20, h=1)
    on_triton(kan_attention, {**named, "scale": 20.0}, 2e-4)  # cos(60 x) at rounded x


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 4e-3), (torch.bfloat16, 2e-2)])
def test_parameters_of_halves_may_be_wide(dtype, tolerance):
    named = learned(17, base="gelu", scales=True)
    halves = {n: x.to(dtype) if n in ("q", "k", "v") else x for n, x in named.items()}
    found = kan_attention(**halves)
    assert found.dtype == dtype
    moving = {n: x.clone().requires_grad_() for n, x in halves.items() if n != "base"}
    kan_attention(**{**halves, **moving}).float().square().sum().backward()
    assert {n: x.grad.dtype for n, x in moving.items()} == {n: x.dtype for n, x in moving.items()}
    want = kan_attention.reference(
        **{n: x.double() if isinstance(x, torch.Tensor) else x for n, x in halves.items()}
    )
    assert (found - want).abs().max() <= tolerance * want.abs().max()


def test_rows_on_the_simplex_in_blocks(monkeypatch):
    named = learned(21, simplex=True, base="silu")
    monkeypatch.setattr(module, "BLOCK_NUMBERS", 200)
    on_triton(kan_attention, named, 2e-5)


REFUSED = {
    "basis 'morlet' in order 'w_phi'": learned(5, basis="morlet"),
    "basis 'fourier' in order 'phi'": learned(5, order="phi"),
    "more than 64 numbers": learned(5, r=65),
    "wider than 256": learned(5, d=257),
}


@pytest.mark.parametrize("told", REFUSED)
def test_what_the_kernels_refuse_is_told(told, monkeypatch):
    with pytest.raises(KernelError, match=told):
        kan_attention(**REFUSED[told])
    monkeypatch.setenv("LIMELIGHT_KERNELS", "auto")
    assert kan_attention(**REFUSED[told]).isfinite().all()


def test_what_does_not_fit_is_told_before_pointers_run_past_the_end():
    named = learned(9)
    with pytest.raises(KernelError, match="the number of tokens is fixed"):
        kan_attention(**{**named, "k": named["k"][:, :, 1:], "v": named["v"][:, :, 1:]})
