"""Context convolution: its windows at the borders, its memory, its derivatives and its errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from op_cases import kernels_of_pixels

from limelight.kernels.context_convolution.reference import context_convolution
from limelight.kernels.context_convolution.tiles import window_starts
from limelight.kernels.errors import KernelError


def test_in_the_middle_it_is_a_convolution():
    draw = torch.Generator().manual_seed(0)
    picture = torch.randn(2, 3, 4, 9, 12, generator=draw)  # b h e y x
    kernel = torch.randn(3, 25, generator=draw)
    weight = kernel[None, :, None].expand(2, 3, 108, 25)
    out = context_convolution(picture.flatten(3).mT, weight, grid=(9, 12)).mT
    taps = kernel.repeat_interleave(4, 0).reshape(12, 1, 5, 5)
    want = F.conv2d(picture.flatten(1, 2), taps, groups=12).reshape(2, 3, 4, 5, 8)
    found = out.unflatten(3, (9, 12))
    torch.testing.assert_close(found[..., 2:-2, 2:-2], want, rtol=1e-4, atol=1e-5)


def test_at_the_borders_the_window_stays_whole_and_inside():
    grid, size = (5, 6), 3
    ones = torch.ones(1, 1, 30, size * size)
    numbers = torch.arange(30.0).reshape(1, 1, 30, 1)
    sums = context_convolution(numbers, ones, grid=grid).reshape(grid)
    inner = F.conv2d(numbers.reshape(1, 1, *grid), torch.ones(1, 1, size, size))[0, 0]
    want = F.pad(inner[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]  # the nearest whole one
    torch.testing.assert_close(sums, want)
    assert window_starts(6, 3).tolist() == [0, 0, 1, 2, 3, 3]
    assert window_starts(4, 4).tolist() == [0, 0, 0, 0]


def test_the_second_half_of_the_heads_takes_the_large_kernel():
    named = kernels_of_pixels((7, 8), 3, 5, g=2)
    whole = context_convolution(**named)
    v, grid = named["v"], named["grid"]
    for part, name in ((slice(0, 2), "small"), (slice(2, 4), "large")):
        one = context_convolution(v[:, part], named[name], grid=grid)
        assert torch.equal(whole[:, part], one)


def peak(events) -> int:
    """The most bytes that were held at once."""
    held = most = 0
    for event in events:
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("large", [0, 13])
@pytest.mark.parametrize("e", [16, 32])
def test_memory_stays_below_three_times_the_result(e, large, graph):
    """At 56 x 56 with 8 heads, kernels of 5 and 13 or 13 alone; with a graph and without."""
    named = kernels_of_pixels((56, 56), 5 if large else 13, large, b=1, g=8, e=e)
    for x in list(named.values())[:-1]:
        x.requires_grad_(graph)
    with torch.profiler.profile(profile_memory=True) as seen:
        out = context_convolution(**named)
    size = out.numel() * out.element_size()
    assert size <= peak(seen.profiler.kineto_results.events()) <= 3 * size


def test_the_backward_holds_gradients_and_a_tile():
    named = kernels_of_pixels((56, 56), 13, b=1, g=8, e=16)
    leaves = [named[n].contiguous().requires_grad_() for n in ("v", "small")]
    out = context_convolution(*leaves, grid=(56, 56))
    back = torch.ones_like(out)
    with torch.profiler.profile(profile_memory=True) as seen:
        grads = torch.autograd.grad(out, leaves, back)
    size = sum(g.numel() * g.element_size() for g in grads)
    assert size <= peak(seen.profiler.kineto_results.events()) <= 1.3 * size


def test_halves_and_derivatives():
    named = kernels_of_pixels((9, 10), 3, 5)
    half = {n: x.bfloat16() if isinstance(x, torch.Tensor) else x for n, x in named.items()}
    out = context_convolution(**half)
    assert out.dtype == torch.bfloat16
    exact = {n: x.double() if isinstance(x, torch.Tensor) else x for n, x in half.items()}
    wide = context_convolution(**exact)
    assert (out - wide).abs().max() < 0.005 * wide.abs().max()  # only the result is rounded
    tiny = kernels_of_pixels((3, 3), 1, 3, b=1, g=1, e=2)
    given = [tiny[n].double().requires_grad_() for n in ("v", "small", "large")]
    run = lambda *t: context_convolution(*t, grid=(3, 3))  # noqa: E731
    assert torch.autograd.gradcheck(run, given)
    assert torch.autograd.gradgradcheck(run, given)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_transforms_of_torch_func():
    named = kernels_of_pixels((9, 10), 3, 5)
    v, small, large, grid = named.values()
    run = lambda v, s, w: context_convolution(v, s, w, grid=grid)  # noqa: E731
    mapped = torch.vmap(lambda *t: run(*(x[None] for x in t))[0])(v, small, large)
    torch.testing.assert_close(mapped, run(v, small, large))
    out, change = torch.func.jvp(lambda v: run(v, small, large), (v,), (v,))
    torch.testing.assert_close(change, out)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"grid": (5, 9)}, "give the grid that its pixels lie on"),
        ({"grid": (35,)}, "give the grid that its pixels lie on"),
        ({"small": torch.zeros(2, 2, 35, 8)}, "no k x k of them"),
        ({"small": torch.zeros(2, 3, 35, 9)}, "with g heads each for 2 kernels"),
        ({"large": None}, "with g heads each for 1 kernels"),
        ({"large": torch.zeros(2, 2, 35, 49)}, "7 x 7 does not lie in a picture of 5 x 7"),
        ({"v": torch.zeros(2, 3, 35, 4)}, "do not fit v"),
    ],
)
def test_what_does_not_fit_is_told(wrong, told):
    named = kernels_of_pixels((5, 7), 3, 5)
    with pytest.raises(KernelError, match=told):
        context_convolution(**{**named, **wrong})
