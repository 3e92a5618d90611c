"""What is special to neighbourhood attention on Triton: golden cases, tiles, refusals."""

from __future__ import annotations

import pytest
import torch
from natten_cases import CASES, given
from op_cases import neighbors, on_triton
from shared import golden

from limelight.kernels.errors import KernelError
from limelight.kernels.neighborhood.axes import Axis, axes_of
from limelight.kernels.neighborhood.reference import neighborhood_attention
from limelight.kernels.neighborhood.tiles import tiles

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")
boxes = pytest.importorskip("limelight.kernels.neighborhood.triton_boxes")
window, viewers = boxes.window, boxes.viewers
pytestmark = pytest.mark.usefixtures("on_triton")


@pytest.mark.parametrize(("name", "n"), CASES)
def test_golden_cases_and_their_gradients(name, n):
    q, k, v, how, (extra_k, extra_v) = given(golden(name), n)
    named = {"q": q, "k": k, "v": v}
    if extra_k is not None:
        named |= {"extra_k": extra_k, "extra_v": extra_v}
    out = neighborhood_attention(**named, **how)
    golden(name).close(f"c{n}.out", out.transpose(1, 2).unflatten(1, how["grid"]), 1e-5)
    shared = q.shape[1] // k.shape[1]
    one_group = {n: x[:, : shared if n == "q" else 1] for n, x in named.items()}
    on_triton(neighborhood_attention, {**one_group, **how}, 1e-5)


def test_large_scores_do_not_overflow():
    named = neighbors((9, 8), 3)
    on_triton(neighborhood_attention, {**named, "q": 200 * named["q"]}, 1e-3)


def test_the_result_is_linear_in_the_values():
    named = neighbors((5, 8), 3, extra=3)
    values = [named[n].requires_grad_() for n in ("v", "extra_v")]
    out = neighborhood_attention(**named)
    back = torch.randn(out.shape)
    grads = torch.autograd.grad(out, values, back)
    total = sum((x * grad).sum() for x, grad in zip(values, grads, strict=True))
    torch.testing.assert_close(total, (out * back).sum())


@triton.jit
def _intervals(
    p_out, size, KERNEL: tl.constexpr, STRIDE: tl.constexpr, CAUSAL: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    o_c = tl.arange(0, BLOCK)
    start, end = window(o_c, size, KERNEL, STRIDE, CAUSAL)
    first, last = viewers(o_c, size, KERNEL, STRIDE, CAUSAL)
    tl.store(p_out + o_c, start, mask=o_c < size)
    tl.store(p_out + BLOCK + o_c, end, mask=o_c < size)
    tl.store(p_out + 2 * BLOCK + o_c, first, mask=o_c < size)
    tl.store(p_out + 3 * BLOCK + o_c, last, mask=o_c < size)


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
    named = neighbors((4, 5), 3, d=4, e=300)
    with pytest.raises(KernelError, match="heads are wider than 256"):
        neighborhood_attention(**named)
    with pytest.raises(KernelError, match="several dtypes"):
        neighborhood_attention(**{**named, "q": named["q"].half()})
    monkeypatch.setenv("LIMELIGHT_KERNELS", "auto")
    assert neighborhood_attention(**named).shape == (1, 1, 20, 300)
    monkeypatch.setenv("LIMELIGHT_KERNELS", "triton")
    with pytest.raises(KernelError, match="takes q b h 20 d"):
        neighborhood_attention(**{**neighbors((4, 6), 3), "grid": (4, 5)})
