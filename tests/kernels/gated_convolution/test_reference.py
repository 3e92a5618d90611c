"""Gated products and global filters: against written-out formulas, their maps, their errors."""

from __future__ import annotations

import pickle

import pytest
import torch
from naive_ops import gated_convolution as by_taps
from torch import Tensor

from limelight.kernels.errors import KernelError
from limelight.kernels.gated_convolution.reference import (
    gated_convolution,
    global_filter,
    recursive_gated_convolution,
)
from limelight.kernels.kernel import FACES


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def arguments(b=2, c=3, y=5, x=7, k=7, dtype=torch.float64) -> list[Tensor]:
    sizes = ((b, c, y, x), (b, c, y, x), (c, 1, k, k), (c,))
    return [randn(*size, seed=n, dtype=dtype) for n, size in enumerate(sizes)]


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2)[..., None]


@pytest.mark.parametrize(("y", "x"), [(5, 7), (3, 2), (1, 9)])
def test_product_equals_the_sum_of_its_taps(y, x):
    given = arguments(y=y, x=x)
    torch.testing.assert_close(gated_convolution(*given, scale=0.3), by_taps(*given, 0.3))


def test_a_formed_gate_takes_the_place_of_the_convolution():
    first, context, weight, bias = arguments()
    gate = torch.nn.functional.conv2d(context, weight, bias, padding=3, groups=3) * 0.3
    out = gated_convolution(first, context, weight, bias, gate, scale=0.3)
    torch.testing.assert_close(out, gated_convolution(first, context, weight, bias, scale=0.3))


@pytest.mark.parametrize("rows", [slice(None), slice(3, 11), slice(30, 40)])
def test_rows_of_the_map_times_the_context_give_the_product_less_its_bias_part(rows):
    first, context, weight, bias = arguments()
    bias_part = tokens(first * bias[:, None, None] * 0.3)[:, :, rows]
    rest = gated_convolution.face.mixing(
        rows, first=first, context=context, weight=weight, bias=bias, gate=None, scale=0.3
    )
    out = tokens(gated_convolution(first, context, weight, bias, scale=0.3))[:, :, rows]
    torch.testing.assert_close(rest @ tokens(context) + bias_part, out)


def test_map_of_half_precision_is_wide():
    first, context, weight, _ = arguments(dtype=torch.bfloat16)
    found = gated_convolution.face.mixing(slice(0, 2), first=first, context=context, weight=weight)
    assert found.dtype == torch.float32
    assert found.shape == (2, 3, 2, 35)


def test_the_product_is_linear_in_each_factor():
    first, context, weight, _ = arguments()
    shared = [x.requires_grad_() for x in (first, context)]
    assert gated_convolution.face.share == ("first", "context")
    out = gated_convolution(first, context, weight, scale=0.3)
    g = randn(*out.shape, seed=9)
    grads = torch.autograd.grad(out, shared, g)
    total = sum((x * d).sum() for x, d in zip(shared, grads, strict=True))
    torch.testing.assert_close(total, 2 * (out * g).sum())


def test_recursion_equals_its_formula():
    widths = (2, 4, 8)
    first, context = randn(2, 2, 5, 4), randn(2, 14, 5, 4, seed=1)
    weight, bias = randn(14, 1, 7, 7, seed=2), randn(14, seed=3)
    mixers = [torch.nn.Conv2d(a, b, 1).double() for a, b in ((2, 4), (4, 8))]
    out = recursive_gated_convolution(
        first, context, weight, bias, mixers, widths=widths, scale=0.5
    )
    gates = torch.nn.functional.conv2d(context, weight, bias, padding=3, groups=14) * 0.5
    want = first * gates[:, :2]
    want = mixers[0](want) * gates[:, 2:6]
    want = mixers[1](want) * gates[:, 6:]
    torch.testing.assert_close(out, want)


def test_derivatives_of_first_and_second_order():
    given = tuple(x.requires_grad_() for x in arguments(b=1, c=2, y=2, x=3, k=3))
    assert torch.autograd.gradcheck(gated_convolution, given)
    assert torch.autograd.gradgradcheck(gated_convolution, given)


def filtered(b=2, c=3, y=6, x=5, h=6, w=3, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    return randn(b, c, y, x, dtype=dtype), randn(c, h, w, 2, seed=1, dtype=dtype)


@pytest.mark.parametrize(("y", "x"), [(6, 5), (6, 4), (3, 3)])
def test_filter_is_a_circular_convolution(y, x):
    signal, weight = filtered(y=y, x=x, h=y, w=x // 2 + 1)
    kernels = torch.fft.irfft2(torch.view_as_complex(weight), s=(y, x))
    want = torch.zeros_like(signal)
    for dy in range(y):
        for dx in range(x):
            moved = signal.roll((dy, dx), (2, 3))
            want += kernels[:, dy, dx, None, None] * moved
    torch.testing.assert_close(global_filter(signal, weight), want)


@pytest.mark.parametrize(("y", "x"), [(6, 5), (9, 7), (4, 8)])
def test_rows_of_the_filter_times_the_signal_give_the_result(y, x):
    signal, weight = filtered(y=y, x=x)
    found = global_filter.face.mixing(slice(2, 11), x=signal, weight=weight)
    out = tokens(global_filter(signal, weight))[:, :, 2:11]
    torch.testing.assert_close(found @ tokens(signal), out)


def test_a_filter_of_another_size_is_resized_corner_on_corner():
    signal, weight = filtered(y=11, x=8)
    real, imaginary = weight.permute(3, 0, 1, 2)[:, None]
    parts = [
        torch.nn.functional.interpolate(part, size=(11, 5), mode="bilinear", align_corners=True)[0]
        for part in (real, imaginary)
    ]
    torch.testing.assert_close(parts[0][:, 0, 0], weight[:, 0, 0, 0])
    torch.testing.assert_close(parts[1][:, -1, -1], weight[:, -1, -1, 1])
    want = global_filter(signal, torch.stack(parts, -1))
    torch.testing.assert_close(global_filter(signal, weight), want)


def test_filter_derivatives_of_first_and_second_order():
    signal, weight = (x.requires_grad_() for x in filtered(b=1, c=1, y=3, x=4, h=2, w=3))
    assert torch.autograd.gradcheck(global_filter, (signal, weight))
    assert torch.autograd.gradgradcheck(global_filter, (signal, weight))


def test_half_precision_goes_through_float32():
    signal, weight = filtered(dtype=torch.float32)
    out = global_filter(signal.bfloat16(), weight)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(
        out, global_filter(signal.bfloat16().float(), weight).bfloat16(), atol=0, rtol=0
    )
    given = [x.bfloat16() for x in arguments(dtype=torch.float32)]
    assert gated_convolution(*given).isfinite().all()


@pytest.mark.parametrize("op", [gated_convolution, global_filter])
def test_ops_compile_whole_and_pickle(op):
    given = arguments() if op is gated_convolution else filtered(y=7)
    torch.compiler.reset()
    compiled = torch.compile(op, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*given), op(*given))
    assert pickle.loads(pickle.dumps(op)) is op
    assert FACES[op.face.name].opaque == (op is global_filter)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch's own
def test_functional_transforms_pass_through():
    first, context, weight, bias = arguments()
    many = torch.func.vmap(lambda a, b: gated_convolution(a[None], b[None], weight, bias)[0])
    torch.testing.assert_close(
        many(first, context), gated_convolution(first, context, weight, bias)
    )
    signal, filters = filtered()
    _, slope = torch.func.jvp(lambda x: global_filter(x, filters), (signal,), (signal,))
    torch.testing.assert_close(slope, global_filter(signal, filters))


def test_arguments_that_do_not_fit_are_told():
    first, context, weight, bias = arguments()
    with pytest.raises(KernelError, match="one shape"):
        gated_convolution(first[:, :2], context, weight)
    with pytest.raises(KernelError, match=r"give \(3, 1, k, l\)"):
        gated_convolution(first, context, weight[:2])
    with pytest.raises(KernelError, match="odd sides"):
        gated_convolution(first, context, weight[..., :6])
    with pytest.raises(KernelError, match="bias of"):
        gated_convolution(first, context, weight, bias[:2])
    with pytest.raises(KernelError, match="gate of"):
        gated_convolution(first, context, weight, bias, first[..., :3])
    with pytest.raises(KernelError, match="mixers between widths"):
        recursive_gated_convolution(first, context, weight, bias, [], widths=(1, 2))
    with pytest.raises(KernelError, match="c h w 2"):
        global_filter(first, weight)
