"""Aggregated attention by itself: its parts, its statistics, derivatives, errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from op_cases import draw, foveal

from limelight.kernels.aggregated import (
    aggregated_attention,
    aggregated_map,
    aggregated_shares,
    aggregated_statistics,
)
from limelight.kernels.errors import KernelError


def wide(named):
    return {
        n: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x
        for n, x in named.items()
    }


def test_a_window_over_the_whole_grid_is_attention_over_all_keys():
    named = wide(foveal((3, 3), (1, 2), 5, without=("local_bias", "table", "embedding")))
    q, k = (F.normalize(named[n], dim=-1) * (3 if n == "q" else 1) for n in ("q", "k"))
    named["scale"] = torch.full((2, 9), 3.0).double()
    bias = F.pad(named["pool_bias"], (9, 0))
    seen = aggregated_map(slice(None), **named)[..., :9] > 0
    mask = torch.where(F.pad(seen, (0, 2), value=True), bias, -torch.inf)
    want = F.scaled_dot_product_attention(q, k, named["v"], mask, scale=1.0)
    torch.testing.assert_close(aggregated_attention(**named), want)
    assert seen[:, :, 4].all()  # the query in the middle sees the whole grid


def test_the_table_is_added_behind_the_softmax():
    named = wide(foveal((4, 5), (2, 2)))
    bare = {**named, "table": None}
    table = named["table"].unflatten(2, (4, 5))
    v = named["v"][:, :, :20].unflatten(2, (4, 5))
    more = torch.zeros_like(v)
    for y in range(4):
        for x in range(5):
            for cell in range(9):
                row, column = y + cell // 3 - 1, x + cell % 3 - 1
                if 0 <= row < 4 and 0 <= column < 5:
                    more[:, :, y, x] += table[:, :, y, x, cell, None] * v[:, :, row, column]
    found = aggregated_attention(**named) - aggregated_attention(**bare)
    torch.testing.assert_close(found, more.flatten(2, 3))
    torch.testing.assert_close(aggregated_shares(**named), aggregated_shares(**bare))


def test_lengths_of_queries_and_keys_do_not_count():
    named = foveal((4, 5), (2, 2))
    stretched = {**named, "q": 7 * named["q"], "k": named["k"] * draw(24, 1, seed=8).exp()}
    torch.testing.assert_close(
        aggregated_attention(**named), aggregated_attention(**stretched), atol=1e-5, rtol=1e-5
    )


def test_statistics_are_sums_over_two_parts_of_the_softmax():
    named = wide(foveal((5, 7), (2, 3)))
    out, found = aggregated_statistics(**named)
    torch.testing.assert_close(out, aggregated_attention(**named))
    whole = aggregated_map(slice(None), **{**named, "table": None})
    torch.testing.assert_close(found["foveal"], whole[..., :35].sum(-1))
    torch.testing.assert_close(found["peripheral"], whole[..., 35:].sum(-1))


def test_statistics_let_gradients_of_the_result_through():
    named = foveal((3, 4), (2, 2))
    v = named["v"].requires_grad_()
    out, found = aggregated_statistics(**named)
    assert not found["foveal"].requires_grad
    (slope,) = torch.autograd.grad(out.sum(), v)
    torch.testing.assert_close((slope * v).sum(), out.sum())


def test_half_precision_rounds_the_result_alone():
    named = {
        n: x.bfloat16() if isinstance(x, torch.Tensor) else x
        for n, x in foveal((5, 4), (2, 2)).items()
    }
    out = aggregated_attention(**named)
    assert out.dtype == torch.bfloat16
    want = aggregated_attention(**wide(named))
    assert (out - want).abs().max() < 0.005 * want.abs().max()


def test_derivatives_of_every_argument():
    named = wide(foveal((2, 3), (1, 2), h=1, d=3, e=2))
    tensors = {n: x.requires_grad_() for n, x in named.items() if isinstance(x, torch.Tensor)}
    rest = {n: x for n, x in named.items() if n not in tensors}
    run = lambda *given: aggregated_attention(  # noqa: E731
        **dict(zip(tensors, given, strict=True)), **rest
    )
    assert torch.autograd.gradcheck(run, tuple(tensors.values()))
    assert torch.autograd.gradgradcheck(run, tuple(tensors.values()))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_transforms_of_torch_func():
    named = foveal((3, 4), (2, 2))
    run = lambda v: aggregated_attention(**{**named, "v": v})  # noqa: E731
    several = draw(3, *named["v"].shape, seed=9)
    torch.testing.assert_close(torch.vmap(run)(several), torch.stack([run(v) for v in several]))
    out, change = torch.func.jvp(run, (several[0],), (several[0],))
    torch.testing.assert_close(change, out)


def test_the_reference_unfolds_nothing():
    """The most that is kept for a backward grows with n (w + p), not with w times the values."""
    named = foveal((16, 16), (2, 2), h=1, d=64, e=64)
    kept: list[int] = []
    leaves = {n: x.requires_grad_() if isinstance(x, torch.Tensor) else x for n, x in named.items()}

    def keep(x: torch.Tensor) -> torch.Tensor:
        kept.append(x.untyped_storage().nbytes())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        aggregated_attention(**leaves)
    assert max(kept) <= 18 * 18 * 64 * 4  # one padded picture of keys or values


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"grid": (4, 4)}, "takes q b h 16 d, k b h 20 d"),
        ({"pool": (2, 1)}, "k b h 14 d and v b h 14 e, tokens first"),
        ({"pool": (0, 4)}, "give rows and columns"),
        ({"grid": (12,)}, "give rows and columns"),
        ({"kernel_size": 2}, "give an odd kernel_size"),
        ({"kernel_size": 5}, r"local_bias .* \(2, 9\), but .* ask for \(2, 25\)"),
        ({"scale": torch.ones(2, 1)}, r"scale .* \(2, 1\), but .* ask for \(2, 12\)"),
        ({"table": torch.ones(1, 2, 12, 3)}, "table of aggregated attention has the shape"),
        ({"embedding": torch.ones(5)}, "embedding of aggregated attention has the shape"),
        ({"pool_bias": torch.ones(2, 12, 3)}, "pool_bias of aggregated attention has the shape"),
    ],
)
def test_what_does_not_fit_is_told(wrong, told):
    with pytest.raises(KernelError, match=told):
        aggregated_attention(**{**foveal((3, 4), (2, 2)), **wrong})
