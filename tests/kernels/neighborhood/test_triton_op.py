"""Fused neighbourhood attention on Triton's interpreter, against the torch reference."""

from __future__ import annotations

import os

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is decorated

from math import prod

import pytest
import torch
from neighborhood_cases import CASES, given
from shared import golden
from torch import Tensor

from limelight.kernels.errors import KernelError
from limelight.kernels.neighborhood.axes import Axis, axes_of
from limelight.kernels.neighborhood.reference import neighborhood_attention
from limelight.kernels.neighborhood.tiles import tiles

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
window, reach = (
    getattr(pytest.importorskip("limelight.kernels.neighborhood.triton_boxes"), name)
    for name in ("window", "reach")
)

NAMES = ("q", "k", "v", "extra_k", "extra_v")


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


def arguments(grid, b=1, h=1, g=1, d=8, e=8, extra=0) -> dict[str, Tensor]:
    """Tensors as layers give them, heads side by side."""
    draw = torch.Generator().manual_seed(prod(grid) + d)
    n = prod(grid)
    sizes = {"q": (n, h, d), "k": (n, g, d), "v": (n, g, e)}
    if extra:
        sizes |= {"extra_k": (extra, g, d), "extra_v": (extra, g, e)}
    return {
        name: torch.randn(b, *size, generator=draw).transpose(1, 2) for name, size in sizes.items()
    }


def compare(named: dict[str, Tensor], tolerance: float = 1e-5, **how) -> None:
    """Result and every gradient of the fused path against the reference in float64."""
    own = {n: x.detach().requires_grad_() for n, x in named.items()}
    wide = {n: x.detach().double().requires_grad_() for n, x in named.items()}
    out = neighborhood_attention(**own, **how)
    assert out.grad_fn.name() == "_LaunchBackward"
    want = neighborhood_attention.reference(**wide, **how)
    back = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    found = torch.autograd.grad(out, list(own.values()), back)
    should = torch.autograd.grad(want, list(wide.values()), back.double())
    assert out.dtype == named["v"].dtype
    for name, a, b in zip(("out", *named), (out, *found), (want, *should), strict=True):
        assert a.shape == b.shape, name
        error = float((a.double() - b).detach().abs().max() / b.detach().abs().max())
        assert error <= tolerance, (name, error)


@pytest.mark.parametrize(("name", "n"), CASES)
def test_golden_cases_and_their_gradients(name, n):
    q, k, v, how, (extra_k, extra_v) = given(golden(name), n)
    named = {"q": q, "k": k, "v": v}
    if extra_k is not None:
        named |= {"extra_k": extra_k, "extra_v": extra_v}
    out = neighborhood_attention(**named, **how)
    golden(name).close(f"c{n}.out", out.transpose(1, 2).unflatten(1, how["grid"]), 1e-5)
    sharing = q.shape[1] // k.shape[1]
    compare({n: x[:, : sharing if n == "q" else 1] for n, x in named.items()}, **how)


@pytest.mark.parametrize(
    "how",
    [
        {"grid": (63,), "kernel_size": 7},
        {"grid": (100,), "kernel_size": 12, "stride": 5, "dilation": 3},
        {"grid": (101,), "kernel_size": 9, "stride": 4, "causal": True, "dilation": 2},
        {"grid": (5, 7), "kernel_size": (3, 5)},
        {"grid": (17, 13), "kernel_size": 4, "stride": (1, 3), "causal": (True, False)},
        {"grid": (16, 16), "kernel_size": 8, "stride": 8},
        {"grid": (13, 11), "kernel_size": (6, 11), "stride": (6, 11)},
        {"grid": (14, 9), "kernel_size": (7, 3), "dilation": (2, 3)},
        {"grid": (3, 5, 9), "kernel_size": (2, 3, 4), "stride": (2, 1, 4)},
        {"grid": (4, 4, 6), "kernel_size": 2, "dilation": (2, 1, 3), "causal": (True, False, True)},
    ],
)
def test_result_and_gradients_equal_the_reference(how):
    compare(arguments(how["grid"]), **how)


def test_shared_keys_extra_keys_and_odd_widths():
    named = arguments((5, 7), b=2, h=4, g=2, d=5, e=19, extra=37)
    compare(named, grid=(5, 7), kernel_size=3, scale=-0.7)
    compare(arguments((90,), h=2, g=1, extra=3), grid=(90,), kernel_size=5, dilation=4, causal=True)


def test_other_layouts_are_read_where_they_lie_or_copied():
    named = arguments((6, 6), h=2, g=2, d=16, e=16)
    packed = torch.stack(list(named.values())).transpose(2, 3).contiguous().transpose(2, 3)
    compare(dict(zip(named, packed, strict=True)), grid=(6, 6), kernel_size=3)
    flipped = {n: x.mT.contiguous().mT for n, x in named.items()}
    compare(flipped, grid=(6, 6), kernel_size=3)
    own = {n: x.requires_grad_() for n, x in named.items()}
    neighborhood_attention(**own, grid=(6, 6), kernel_size=3).sum().backward()
    torch.testing.assert_close(own["v"].grad.sum(), torch.tensor(2.0 * 36 * 16))


def test_large_scores_do_not_overflow():
    named = arguments((9, 8))
    compare({**named, "q": 200 * named["q"]}, 1e-3, grid=(9, 8), kernel_size=3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 3e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_is_added_up_in_float32(dtype, tolerance):
    named = {n: x.to(dtype) for n, x in arguments((8, 9), extra=4).items()}
    compare(named, tolerance, grid=(8, 9), kernel_size=5)


@pytest.mark.parametrize("asked", NAMES)
def test_only_the_gradients_asked_for(asked):
    named = arguments((6, 7), extra=2)
    found = []
    for run in (neighborhood_attention, neighborhood_attention.reference):
        own = {n: x.detach().requires_grad_(n == asked) for n, x in named.items()}
        out = run(**own, grid=(6, 7), kernel_size=3)
        (grad,) = torch.autograd.grad(out.square().sum(), own[asked])
        found.append(grad)
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_the_result_is_linear_in_the_values():
    own = {n: x.requires_grad_() for n, x in arguments((5, 8), extra=3).items()}
    out = neighborhood_attention(**own, grid=(5, 8), kernel_size=3)
    back = torch.randn(out.shape)
    grads = torch.autograd.grad(out, [own["v"], own["extra_v"]], back)
    told = sum((own[n] * grad).sum() for n, grad in zip(("v", "extra_v"), grads, strict=True))
    torch.testing.assert_close(told, (out * back).sum())


@triton.jit
def _intervals(
    to, size, kernel: tl.constexpr, stride: tl.constexpr, causal: tl.constexpr, block: tl.constexpr
):
    i = tl.arange(0, block)
    start, end = window(i, size, kernel, stride, causal)
    first, last = reach(i, size, kernel, stride, causal)
    tl.store(to + i, start, mask=i < size)
    tl.store(to + block + i, end, mask=i < size)
    tl.store(to + 2 * block + i, first, mask=i < size)
    tl.store(to + 3 * block + i, last, mask=i < size)


@pytest.mark.parametrize("causal", [False, True])
def test_who_sees_a_key_inverts_what_a_query_sees(causal):
    for size in (5, 8, 13):
        for kernel, stride in ((2, 1), (3, 2), (4, 4), (5, 3), (5, 5)):
            found = torch.zeros(4, 16, dtype=torch.int32)
            _intervals[(1,)](found, size, kernel, stride, causal, 16)
            start, end, first, last = found[:, :size]
            want = Axis(size, kernel, stride, causal=causal).windows()
            assert torch.equal(torch.stack([start, end]), torch.stack(want).int())
            at = torch.arange(size)
            seen = (at >= start[:, None]) & (at < end[:, None])
            assert torch.equal(seen.T, (at >= first[:, None]) & (at < last[:, None]))


def test_every_grid_has_its_tiles():
    images = tiles(axes_of((56, 56), 7), widest=64, back=False)
    assert images.rows[0] == 1
    assert images.rows[1] == images.rows[2] == 8
    blocked = tiles(axes_of((64, 64), 16, stride=16), widest=128, back=False)
    assert blocked.whole
    assert tiles(axes_of((64, 64), 16, stride=16), widest=128, back=True).tests == (False,) * 3
    assert not tiles(axes_of((64, 60), 16, stride=16), widest=128, back=True).whole
    assert tiles(axes_of((16, 64), (16, 7)), widest=128, back=False).tests == (False, False, True)
    for widest, exact, size in ((1024, False, 32), (256, True, 32), (1024, True, 16)):
        found = tiles(axes_of((999,), 7), widest=widest, back=False, exact=exact)
        assert (found.rows, found.columns) == ((1, 1, size), (1, 1, size))


def test_what_the_kernels_refuse_is_told(monkeypatch):
    named = arguments((4, 5), d=4, e=300)
    how = {"grid": (4, 5), "kernel_size": 3}
    with pytest.raises(KernelError, match="heads are wider than 256"):
        neighborhood_attention(**named, **how)
    with pytest.raises(KernelError, match="several dtypes"):
        neighborhood_attention(**{**named, "q": named["q"].half()}, **how)
    with pytest.raises(KernelError, match="nothing to compute"):
        neighborhood_attention(*(x[:0] for x in named.values()), **how)
    monkeypatch.setenv("LIMELIGHT_KERNELS", "auto")
    assert neighborhood_attention(**named, **how).shape == (1, 1, 20, 300)
    monkeypatch.setenv("LIMELIGHT_KERNELS", "triton")
    with pytest.raises(KernelError, match="takes q b h 20 d"):
        neighborhood_attention(**arguments((4, 6)), **how)
