"""Routed attention against dense attention with everything else hidden."""

from __future__ import annotations

import pickle

import pytest
import torch

from limelight.kernels.errors import KernelError
from limelight.kernels.routed import routed_attention, routed_map
from limelight.kernels.windows import Window

WINDOW = Window("block", (2, 3), (4, 9))  # 6 regions of 6 tokens


def arguments(n=36, m=36, heads_apart=False, dtype=torch.float64, d=5, e=4):
    draw = torch.Generator().manual_seed(1)
    q, k, v = (
        torch.randn(2, 3, t, c, generator=draw).double() for t, c in ((n, d), (m, d), (m, e))
    )
    shape = (2, 3, 6) if heads_apart else (2, 6)
    index = torch.stack(
        [torch.randperm(6, generator=draw) for _ in range(torch.Size(shape).numel())]
    )
    index = index.reshape(*shape, 6)[..., :3].clone()
    index[..., 2, 1:] = -1
    return [x.to(dtype) for x in (q, k, v)] + [index]


def dense(q, k, v, index, queries, keys, weight=None):
    chosen = index if index.ndim == 4 else index[:, None].expand(-1, 3, -1, -1)
    factor = (
        None
        if weight is None
        else (weight if weight.ndim == 4 else weight[:, None].expand(-1, 3, -1, -1))
    )
    out = torch.zeros(*q.shape[:3], v.shape[-1], dtype=q.dtype)
    for b in range(2):
        for h in range(3):
            for region, tokens in enumerate(queries):
                named = [(t, int(r)) for t, r in enumerate(chosen[b, h, region]) if r >= 0]
                if not named:
                    continue
                seen = torch.cat([keys[r] for _, r in named])
                times = torch.ones(len(seen), 1, dtype=q.dtype)
                if factor is not None:
                    size = keys.shape[1]
                    times = torch.cat([factor[b, h, region, t].expand(size) for t, _ in named])[
                        :, None
                    ]
                own_k, own_v = k[b, h, seen] * times, v[b, h, seen] * times
                out[b, h, tokens] = (q[b, h, tokens] @ own_k.T * q.shape[-1] ** -0.5).softmax(
                    -1
                ) @ own_v
    return out


@pytest.mark.parametrize("heads_apart", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_regions_of_a_grid(heads_apart, weighted):
    q, k, v, index = arguments(heads_apart=heads_apart)
    weight = torch.rand(index.shape, dtype=torch.float64) if weighted else None
    out = routed_attention(q, k, v, index, weight=weight, window=WINDOW)
    tables = WINDOW.query_index(), WINDOW.key_index()
    torch.testing.assert_close(out, dense(q, k, v, index, *tables, weight))
    whole = routed_map(slice(None), q, k, v, index, weight=weight, window=WINDOW)
    torch.testing.assert_close(whole @ v, out)
    part = routed_map(slice(5, 17), q, k, v, index, weight=weight, window=WINDOW)
    torch.testing.assert_close(part, whole[:, :, 5:17])


def test_runs_of_a_sequence_and_pooled_keys():
    q, k, v, index = arguments()
    runs = torch.arange(36).reshape(6, 6)
    out = routed_attention(q, k, v, index, block=6)
    torch.testing.assert_close(out, dense(q, k, v, index, runs, runs))
    q, k, v, index = arguments(m=12)
    pooled = torch.arange(12).reshape(6, 2)
    out = routed_attention(q, k, v, index, window=WINDOW)
    torch.testing.assert_close(out, dense(q, k, v, index, WINDOW.query_index(), pooled))
    whole = routed_map(slice(None), q, k, v, index, window=WINDOW)
    torch.testing.assert_close(whole @ v, out)


def test_a_query_that_sees_nothing_gives_zeros():
    q, k, v, index = arguments()
    index[:, 0] = -1
    out = routed_attention(q, k, v, index, window=WINDOW)
    assert not out[:, :, WINDOW.query_index()[0]].any()
    assert out.isfinite().all()


def test_gradients_and_half_precision():
    q, k, v, index = arguments()
    window = Window("block", (1, 1), (2, 1))
    q, k, v = (x[:1, :1, :2, :2].clone().requires_grad_() for x in (q, k, v))
    index = torch.tensor([[[0, 1], [1, -1]]])
    run = lambda *x: routed_attention(*x, index, window=window)  # noqa: E731
    assert torch.autograd.gradcheck(run, (q, k, v))
    assert torch.autograd.gradgradcheck(run, (q, k, v))
    half = [*arguments(dtype=torch.bfloat16)[:3], arguments()[3]]
    out = routed_attention(*half, window=WINDOW)
    assert out.dtype == torch.bfloat16
    wide = routed_attention(*(x.double() for x in half[:3]), half[3], window=WINDOW)
    assert (out - wide).abs().max() < 0.05 * wide.abs().max()


def test_it_compiles_and_pickles():
    given = arguments()
    compiled = torch.compile(routed_attention, fullgraph=True, backend="eager")
    want = routed_attention(*given, window=WINDOW)
    torch.testing.assert_close(compiled(*given, window=WINDOW), want)
    assert pickle.loads(pickle.dumps(routed_attention)) is routed_attention


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"window": None}, "give one"),
        ({"window": Window("grid", (2, 3), (4, 9))}, "kind 'block'"),
        ({"window": Window("block", (2, 3), (4, 6))}, "takes 24 queries"),
        ({"window": None, "block": 9}, "4 query blocks"),
        ({"weight": torch.ones(2, 6, 2)}, "shape of index"),
    ],
)
def test_arguments_that_do_not_fit_are_told(change, told):
    with pytest.raises(KernelError, match=told):
        routed_attention(*arguments(), **{"window": WINDOW, **change})
