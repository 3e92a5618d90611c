"""What is special to attention on Triton: large scores, blind queries, statistics, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from naive_ops import attention as written_out
from naive_ops import shares, window_shares
from op_cases import CELLS, THIN_HALO, TILES, draw, on_triton, qkv
from torch import Tensor

from limelight.kernels.attention.reference import attention, attention_statistics
from limelight.kernels.errors import KernelError

pytestmark = pytest.mark.usefixtures("on_triton")
N, M = 63, 100  # no multiples of a tile


def test_causal_queries_before_all_keys_give_zeros():
    named = {**qkv(70, 33, d=16, e=16), "causal": True}
    assert not attention(**named)[:, :, : 70 - 33].any()


def test_the_result_lies_as_a_projection_left_its_queries():
    packed = draw(2, 37, 3, 2, 8)  # b n (q k v) h d
    q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)
    on_triton(attention, {"q": q, "k": k, "v": v}, 2e-6)
    assert attention(q, k, v).transpose(1, 2).is_contiguous()


def test_a_gradient_that_is_one_number_expanded():
    q, k, v = qkv(17, 33, d=8, e=8).values()
    out = attention(q.requires_grad_(), k, v)
    (found,) = torch.autograd.grad(out.sum(), q)
    want = torch.autograd.grad(written_out(q=q.double(), k=k.double(), v=v.double()).sum(), q)[0]
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp2")  # 1 / (1 + inf) is meant
def test_large_scores_do_not_overflow():
    named = qkv(17, 33, d=8, e=8)
    on_triton(attention, {**named, "q": 100 * named["q"]}, 1e-4)
    on_triton(attention, {**named, "q": 100 * named["q"], "score": "sigmoid"}, 1e-4)


def test_a_query_that_sees_nothing_gives_zeros():
    named = {n: x.requires_grad_() for n, x in qkv(17, 33, d=8, e=8).items()}
    out = attention(**named, keep=torch.zeros(1, 33, dtype=torch.bool))
    assert not out.any()
    assert not any(x.any() for x in torch.autograd.grad(out.sum(), list(named.values())))


STATISTICS = {
    "plain": {"radius": 2**0.5, "pool": 14},
    "causal": {"causal": True, "radius": 2.0, "pool": 5},
    "large pools": {"pool": 64, "bias": draw(2, 70, 70, seed=3)},
    "sigmoid": {"radius": 3.0, "pool": 16, "score": "sigmoid", "keep": draw(1, 70, seed=4) > 0},
    "nothing seen": {"radius": 1.0, "pool": 7, "keep": torch.zeros(1, 70, dtype=torch.bool)},
    "gated": {
        "radius": 2.0,
        "pool": 14,
        "position": 3 * draw(2, 70, 70, seed=5),
        "gate": torch.tensor([0.2, 0.9]),
        "keep": draw(1, 70, seed=4) > 0,
    },
    "gated, large pools": {
        "pool": 64,
        "position": draw(2, 70, 70, seed=5),
        "gate": torch.tensor([0.0, 1.0]),
    },
    "mask": {"radius": 2.0, "pool": 5, "mask": draw(1, 2, 70, 70, seed=4) > 0.5},
    "gated, mask": {
        "pool": 14,
        "position": draw(2, 70, 70, seed=5),
        "gate": torch.tensor([0.2, 0.9]),
        "mask": draw(70, 70, seed=4) > 0.5,
    },
    "slopes, band": {
        "radius": 2.0,
        "pool": 5,
        "slopes": torch.tensor([0.5, 0.03]),
        "left": 12,
        "causal": True,
    },
    "band, sigmoid": {"radius": 2.0, "left": 12, "right": 40, "score": "sigmoid"},
    "factors of rows": {"radius": 2.0, "pool": 5, "row_factor": draw(70, seed=5).abs()},
    "cells": {"grid": (5, 14), "radius": 1.0, "window": CELLS},
    "thin halo": {"grid": (4, 8), "radius": 2.0, "window": THIN_HALO},
}


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_of_the_same_pass(name):
    asked: dict[str, Any] = {"grid": (7, 10), "radius": None, "pool": None, **STATISTICS[name]}
    options = {n: asked.pop(n) for n in list(asked) if n not in ("grid", "radius", "pool")}
    sizes = (8, 32) if name == "thin halo" else (70, 70)
    named = qkv(*sizes)
    out, found = attention_statistics(**named, **options, **asked)
    wide = {n: x.double() for n, x in named.items()}
    floats = ("bias", "position", "gate", "slopes", "row_factor")
    more = {n: x.double() if n in floats else x for n, x in options.items()}
    if "window" in options:
        share = window_shares(wide["q"], wide["k"], **more)[..., :-1]
    else:
        share = shares(wide["q"], wide["k"], **more)
    want = statistics(share, stride=2 if name == "thin halo" else 1, **asked)
    assert set(found) == set(want)
    torch.testing.assert_close(out, written_out(**wide, **more).float())
    for key, value in want.items():
        torch.testing.assert_close(found[key], value.float(), msg=lambda m, k=key: f"{k}: {m}")


def statistics(share, grid, radius, pool, stride) -> dict[str, Tensor]:
    """By their formulas, from the whole map."""
    y, x = (torch.arange(side).double() for side in grid)
    keys = torch.cartesian_prod(y, x)
    middle = (stride - 1) / 2
    queries = torch.cartesian_prod(y[::stride] + middle, x[::stride] + middle)
    far = torch.cdist(queries, keys)
    found = {"entropy": torch.special.entr(share).sum(-1), "distance": (share * far).sum(-1)}
    if radius is not None:
        found["mass"] = (share * (far <= radius + 1e-9)).sum(-1)
    if pool is not None:
        rows = [part.amax(2) for part in share.split(pool, 2)]
        rows = [[part.amax(-1) for part in row.split(pool, -1)] for row in rows]
        found["peak"] = torch.stack([torch.stack(row, -1) for row in rows], 2)
    return found


def test_statistics_leave_the_gradient_of_the_result():
    named = qkv(17, 17, d=8, e=8)
    named["v"].requires_grad_()
    out, found = attention_statistics(**named, grid=(1, 17))
    (grad,) = torch.autograd.grad(out.sum(), named["v"])
    torch.testing.assert_close((grad * named["v"]).sum(), out.sum())
    assert not any(x.requires_grad for x in found.values())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"q": draw(1, 2, N, 300), "k": draw(1, 1, M, 300)}, "heads are wider than 128"),
        ({"bias": draw(3, N, M)}, "does not broadcast to the scores"),
        ({"k": draw(1, 1, M, 24).half()}, "must be of one dtype"),
        ({"k": draw(1, 3, M, 24)}, "h a multiple of g"),
        ({"v": draw(1, 1, M, 0)}, "nothing to compute"),
    ],
)
def test_what_the_kernels_refuse_is_told(change, told):
    with pytest.raises(KernelError, match=told):
        attention(**{**qkv(), **change})


def test_statistics_that_the_kernels_refuse_come_from_the_reference():
    out, found = attention_statistics(**qkv(70, 70), window=TILES, grid=(5, 14), pool=7)
    assert out.shape == (1, 2, 70, 40)
    assert found["peak"].shape == (1, 2, 10, 10)
