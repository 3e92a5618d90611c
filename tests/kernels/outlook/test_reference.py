"""Outlook attention against its definition window by window, its map and its errors."""

from __future__ import annotations

import pickle

import pytest
import torch
import torch.nn.functional as F
from naive_ops import outlook as by_window

from limelight.kernels.errors import KernelError
from limelight.kernels.outlook.reference import outlook, outlook_map, window_tokens, windows

SIZES = [
    ((5, 7), 3, 2, 1),
    ((4, 4), 3, 1, 1),
    ((9, 9), 3, 2, 1),
    ((6, 5), 5, 3, 2),
    ((7, 4), 2, 2, 0),
]


def arguments(grid, kernel, stride, padding, dtype=torch.float64, b=2, h=3, e=4):
    draw = torch.Generator().manual_seed(0)
    y, x = windows(grid, kernel, stride, padding)
    v = torch.randn(b, h, grid[0] * grid[1], e, generator=draw, dtype=torch.float64)
    shape = (b, h, y * x, kernel**2, kernel**2)
    weight = torch.randn(shape, generator=draw, dtype=torch.float64)
    return v.to(dtype), weight.to(dtype)


def options(grid, kernel, stride, padding):
    return {"grid": grid, "kernel_size": kernel, "stride": stride, "padding": padding}


@pytest.mark.parametrize("size", SIZES)
def test_fold_and_unfold_equal_the_definition(size):
    v, weight = arguments(*size)
    torch.testing.assert_close(outlook(v, weight, **options(*size)), by_window(v, weight, *size))


@pytest.mark.parametrize("size", SIZES)
def test_the_map_times_v_is_the_result(size):
    v, weight = arguments(*size)
    own = options(*size)
    whole = outlook_map(slice(None), v, weight, **own)
    torch.testing.assert_close(whole @ v, outlook(v, weight, **own))
    part = outlook_map(slice(3, 9), v, weight, **own)
    torch.testing.assert_close(part, whole[:, :, 3:9])


def test_windows_inside_the_grid_are_those_of_unfold():
    tokens = window_tokens((5, 6), 3, 2, 0)
    numbers = torch.arange(30.0).reshape(1, 1, 5, 6)
    assert torch.equal(tokens.float(), F.unfold(numbers, 3, stride=2)[0].T)


def test_half_precision_and_gradients():
    size = ((5, 4), 3, 2, 1)
    v, weight = arguments(*size, dtype=torch.bfloat16)
    out = outlook(v, weight, **options(*size))
    assert out.dtype == torch.bfloat16
    wide = outlook(v.double(), weight.double(), **options(*size))
    assert (out - wide).abs().max() < 0.005 * wide.abs().max()  # only the result is rounded
    tiny = ((3, 2), 2, 1, 0)
    given = [x.requires_grad_() for x in arguments(*tiny, b=1, h=1, e=2)]
    run = lambda v, w: outlook(v, w, **options(*tiny))  # noqa: E731
    assert torch.autograd.gradcheck(run, given)
    assert torch.autograd.gradgradcheck(run, given)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_transforms_of_torch_func():
    size = SIZES[0]
    v, weight = arguments(*size)
    run = lambda v, w: outlook(v, w, **options(*size))  # noqa: E731
    mapped = torch.vmap(lambda v, w: run(v[None], w[None])[0])(v, weight)
    torch.testing.assert_close(mapped, run(v, weight))
    out, change = torch.func.jvp(lambda v: run(v, weight), (v,), (v,))
    torch.testing.assert_close(change, out)


def test_it_is_linear_in_v():
    size = SIZES[0]
    v, weight = (x.requires_grad_() for x in arguments(*size))
    out = outlook(v, weight, **options(*size))
    (grad,) = torch.autograd.grad(out, v, torch.ones_like(out))
    torch.testing.assert_close((v * grad).sum(), out.sum())


def test_it_compiles_and_pickles():
    size = SIZES[0]
    given = arguments(*size)
    torch.compiler.reset()
    compiled = torch.compile(outlook, fullgraph=True, backend="eager")
    torch.testing.assert_close(
        compiled(*given, **options(*size)), outlook(*given, **options(*size))
    )
    assert pickle.loads(pickle.dumps(outlook)) is outlook


@pytest.mark.parametrize(
    ("grid", "wrong", "told"),
    [
        ((4, 5), {}, "takes v b h 20 e"),
        ((5, 7), {"stride": 0}, "no number below 1"),
        ((5, 7), {"kernel_size": 9, "padding": 0}, "does not fit into a grid of 5 x 7"),
        ((5, 7), {"stride": 1}, "scores for each of 5 x 7 windows"),
        ((35,), {}, "give rows and columns"),
    ],
)
def test_what_does_not_fit_is_told(grid, wrong, told):
    v, weight = arguments(*SIZES[0])
    with pytest.raises(KernelError, match=told):
        outlook(v, weight, grid=grid, **{"kernel_size": 3, "stride": 2, "padding": 1, **wrong})
