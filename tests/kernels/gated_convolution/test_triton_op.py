"""The fused gated product on Triton's interpreter, against the torch reference."""

from __future__ import annotations

import os

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is decorated

import pytest
import torch
from torch import Tensor

from limelight.kernels.errors import KernelError
from limelight.kernels.gated_convolution.reference import (
    gated_convolution,
    recursive_gated_convolution,
)

pytest.importorskip("triton")

NAMES = ("first", "context", "weight", "bias")


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


def arguments(
    b: int = 2, c: int = 5, y: int = 5, x: int = 7, k: tuple[int, int] = (7, 7), bias: bool = True
) -> dict[str, Tensor | None]:
    make = torch.Generator().manual_seed(y * x + c)
    sizes = ((b, c, y, x), (b, c, y, x), (c, 1, *k), (c,))
    given: dict[str, Tensor | None] = {
        name: torch.randn(size, generator=make) for name, size in zip(NAMES, sizes, strict=True)
    }
    return given if bias else {**given, "bias": None}


def compare(given: dict[str, Tensor | None], tolerance: float = 2e-5) -> None:
    """Result and gradients of the fused path against the reference in float64."""
    own = {n: None if x is None else x.detach().requires_grad_() for n, x in given.items()}
    wide = {
        n: None if x is None else x.detach().double().requires_grad_() for n, x in given.items()
    }
    out = gated_convolution(**own, scale=1 / 3)
    assert out.grad_fn.name() == "_LaunchBackward"
    want = gated_convolution.reference(**wide, scale=1 / 3)
    g = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    names = [n for n, x in own.items() if x is not None]
    found = torch.autograd.grad(out, [own[n] for n in names], g.to(out))
    should = torch.autograd.grad(want, [wide[n] for n in names], g.to(out).double())
    assert out.dtype == own["first"].dtype
    for name, a, b in zip(["out", *names], [out, *found], [want, *should], strict=True):
        assert a.shape == b.shape, name
        error = float((a.double() - b).detach().abs().max() / b.detach().abs().max())
        assert error <= tolerance, (name, error)


@pytest.mark.parametrize(
    ("y", "x", "k", "bias"),
    [
        (5, 7, (7, 7), True),
        (1, 63, (3, 3), False),
        (10, 10, (3, 5), True),
        (2, 1, (7, 7), True),
        (27, 23, (3, 3), True),
    ],
)
def test_result_and_gradients_equal_the_reference(y, x, k, bias):
    compare(arguments(y=y, x=x, k=k, bias=bias))


def test_many_channels_fill_more_than_one_program():
    compare(arguments(b=1, c=70, y=4, x=4, k=(3, 3)))


def test_channels_last_and_slices_of_channels_are_read_where_they_lie():
    given = arguments(c=6, k=(3, 3))
    whole = torch.cat([given["context"], given["first"]], 1)
    whole = whole.to(memory_format=torch.channels_last)
    compare({**given, "context": whole[:, :6], "first": whole[:, 6:]})


def test_transposed_images_are_copied_first():
    given = arguments(y=5, x=5, k=(3, 3))
    compare({**given, "context": given["context"].mT, "first": given["first"].mT})


def test_half_precision_accumulates_in_float32():
    given = {n: x.half() for n, x in arguments(k=(3, 3)).items()}
    compare(given, tolerance=2e-3)


def test_bfloat16_is_widened_after_each_load():
    given = {n: x.bfloat16() for n, x in arguments(k=(3, 3)).items()}
    compare(given, tolerance=1e-2)


def test_only_what_is_needed_is_computed():
    given = arguments(k=(3, 3))
    own = given["context"].requires_grad_()
    out = gated_convolution(**given)
    (found,) = torch.autograd.grad(out.sum(), own)
    (want,) = torch.autograd.grad(gated_convolution.reference(**given).sum(), own)
    torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-5)


def test_a_formed_gate_is_multiplied():
    given = arguments(k=(3, 3))
    first, gate = given["first"].requires_grad_(), given["context"].clone().requires_grad_()
    out = gated_convolution(**given, gate=gate)
    torch.testing.assert_close(out, first * gate)
    found = torch.autograd.grad(out.sum(), (first, gate))
    torch.testing.assert_close(found, (gate.detach(), first.detach()))


def test_reasons_against_the_kernels():
    given = arguments(k=(3, 3))
    assert gated_convolution.why(**given).path == "triton"
    with pytest.raises(KernelError, match="several dtypes"):
        gated_convolution(**{**given, "weight": given["weight"].half()})
    with pytest.raises(KernelError, match="nothing to compute"):
        gated_convolution(given["first"][:0], given["context"][:0], given["weight"])


def test_a_recursion_runs_order_by_order(monkeypatch):
    make = torch.Generator().manual_seed(0)
    sizes = ((1, 2, 5, 6), (1, 6, 5, 6), (6, 1, 7, 7), (6,))
    given = [torch.randn(size, generator=make).requires_grad_() for size in sizes]
    mixer = torch.nn.Conv2d(2, 4, 1)
    found = []
    for word in ("triton", "reference"):
        monkeypatch.setenv("LIMELIGHT_KERNELS", word)
        out = recursive_gated_convolution(*given, [mixer], widths=(2, 4), scale=0.3)
        grads = torch.autograd.grad(out.square().sum(), [*given, mixer.weight])
        found.append([out, *grads])
    torch.testing.assert_close(found[0], found[1], atol=2e-5, rtol=2e-5)
