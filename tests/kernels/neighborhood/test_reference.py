"""Neighbourhood attention against NATTEN's golden cases, its definition and its simulator."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from natten_cases import CASES, given
from shared import golden

from limelight.kernels.errors import KernelError
from limelight.kernels.neighborhood import blocks as neighborhood_blocks
from limelight.kernels.neighborhood import reference as module
from limelight.kernels.neighborhood.axes import Axis, axes_of, neighbors, visible
from limelight.kernels.neighborhood.reference import (
    merge,
    neighborhood_attention,
    neighborhood_lse,
    neighborhood_map,
)


@pytest.mark.golden
@pytest.mark.parametrize(("name", "n"), CASES)
@pytest.mark.parametrize("blocks", [False, True])
def test_golden_cases(name, n, blocks, monkeypatch):
    if blocks:
        monkeypatch.setattr(module, "_DENSE", 0)
        monkeypatch.setattr(neighborhood_blocks, "_PAIRS", 1 << 14)
    case = golden(name)
    q, k, v, options, (extra_k, extra_v) = given(case, n)
    out = neighborhood_attention(q, k, v, extra_k=extra_k, extra_v=extra_v, **options)
    grid = options["grid"]
    case.close(f"c{n}.out", out.transpose(1, 2).unflatten(1, grid), 1e-5)
    lse = neighborhood_lse(q, k, extra_k=extra_k, **options)
    case.close(f"c{n}.lse", lse.transpose(1, 2).unflatten(1, grid), 1e-5)
    seen = visible(axes_of(**options))
    case.close(f"c{n}.neighbors", seen.sum(1).unflatten(0, grid), 0)
    bits = np.packbits(seen.numpy().flatten())
    case.close(f"c{n}.mask_bits", torch.from_numpy(bits), 0)
    whole = neighborhood_map(slice(None), q, k, v, extra_k=extra_k, **options)
    values = v if extra_v is None else torch.cat([v, extra_v], 2)
    values = values.repeat_interleave(q.shape[1] // v.shape[1], 1)
    torch.testing.assert_close(whole @ values, out, rtol=1e-5, atol=1e-5)
    part = neighborhood_map(slice(2, 7), q, k, v, extra_k=extra_k, **options)
    torch.testing.assert_close(part, whole[:, :, 2:7])


def test_windows_by_hand():
    assert Axis(6, 3).keys().tolist() == [
        [0, 1, 2], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [3, 4, 5],
    ]  # fmt: skip
    assert Axis(5, 2, dilation=2).keys().tolist() == [[0, 2], [1, 3], [0, 2], [1, 3], [2, 4]]
    assert Axis(4, 2, causal=True).keys().tolist() == [[0, -1], [0, 1], [1, 2], [2, 3]]
    assert neighbors(axes_of((2, 2), 2)).tolist() == [[0, 1, 2, 3]] * 4


def test_full_windows_are_plain_attention_and_stride_makes_tiles():
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 24, 4, generator=draw) for _ in range(3))
    plain = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    whole = neighborhood_attention(q, k, v, grid=(4, 6), kernel_size=(4, 6))
    torch.testing.assert_close(whole, plain)
    tiles = visible(axes_of((4, 6), (2, 3), stride=(2, 3)))
    assert int(tiles.sum()) == 24 * 6
    assert torch.equal(tiles, tiles.T)


def test_two_results_merge_into_one():
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 12, 4, generator=draw).double() for _ in range(3))
    more_k, more_v = (torch.randn(1, 2, 3, 4, generator=draw).double() for _ in range(2))
    own = {"grid": (12,), "kernel_size": 5}
    near, lse = neighborhood_attention(q, k, v, **own), neighborhood_lse(q, k, **own)
    far = torch.nn.functional.scaled_dot_product_attention(q, more_k, more_v)
    other = (q @ more_k.mT / 2).logsumexp(-1)
    both = neighborhood_attention(q, k, v, extra_k=more_k, extra_v=more_v, **own)
    out, joint = merge(near, far, lse, other)
    torch.testing.assert_close(out, both)
    torch.testing.assert_close(joint, neighborhood_lse(q, k, extra_k=more_k, **own))


@pytest.mark.parametrize("dense", [2048, 0])
def test_gradients_half_precision_compiling_and_pickling(dense, monkeypatch):
    monkeypatch.setattr(module, "_DENSE", dense)
    own = {"grid": (3, 2), "kernel_size": 2}
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 1, 6, 2, generator=draw).double().requires_grad_() for _ in range(3))
    run = lambda *x: neighborhood_attention(*x, **own)  # noqa: E731
    assert torch.autograd.gradcheck(run, (q, k, v))
    if not dense:  # torch's own fused attention has no second derivative on the CPU
        assert torch.autograd.gradgradcheck(run, (q, k, v))
    low = run(*(x.bfloat16() for x in (q, k, v)))
    assert low.dtype == torch.bfloat16
    assert (low - run(q, k, v)).abs().max() < 0.05
    torch.compiler.reset()
    compiled = torch.compile(neighborhood_attention, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(q, k, v, **own), run(q, k, v))
    assert pickle.loads(pickle.dumps(neighborhood_attention)) is neighborhood_attention


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kernel_size": 9}, "does not fit an axis of 4"),
        ({"stride": 4}, "stride 4 must lie between"),
        ({"dilation": (1, 2, 1)}, "one entry for each of 2 axes"),
        ({"grid": (4, 5)}, "takes q b h 20 d"),
        ({"extra_k": torch.zeros(1, 2, 1, 4)}, "extra keys need extra values"),
    ],
)
def test_arguments_that_do_not_fit_are_told(change, told):
    q = torch.zeros(1, 2, 24, 4)
    with pytest.raises(KernelError, match=told):
        neighborhood_attention(q, q, q, **{"grid": (4, 6), "kernel_size": 3, **change})
