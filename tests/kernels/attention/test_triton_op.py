"""Attention on Triton's interpreter against formulas written out in float64."""

from __future__ import annotations

import os

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is decorated

import pytest
import torch
from torch import Tensor

from limelight.kernels.attention.reference import attention, attention_map, attention_statistics
from limelight.kernels.errors import KernelError
from limelight.kernels.windows import Window

pytest.importorskip("triton")

N, M = 63, 100  # no multiples of a tile
TILES, CELLS = Window("block", (5, 7), (5, 14)), Window("grid", (5, 7), (5, 14))
HALO = Window("halo", (2, 3), (4, 6), halo=1)
WIDE_HALO = Window("halo", (2, 2), (2, 4), halo=3)  # further than the tiles next to it
THIN_HALO = Window("halo", (4, 4), (4, 8), halo=1, stride=2)


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


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def qkv(n=N, m=M, h=2, g=1, d=24, e=40, b=1) -> dict[str, Tensor]:
    return {"q": draw(b, h, n, d), "k": draw(b, g, m, d, seed=1), "v": draw(b, g, m, e, seed=2)}


def softmax(scores: Tensor) -> Tensor:
    """Zeros where a row sees nothing."""
    return scores.softmax(-1).nan_to_num(0.0)


def shares(q, k, *, bias=None, position=None, gate=None, keep=None, scale=None,
           causal=False, score="softmax") -> Tensor:  # fmt: skip
    """The map by its formula, `b h n m`."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = scores if bias is None else scores + bias
    if keep is not None:
        scores = scores.masked_fill(~keep[:, None, None], -torch.inf)
    if causal:
        n, m = scores.shape[-2:]
        scores = scores.masked_fill(~torch.ones(n, m, dtype=torch.bool).tril(m - n), -torch.inf)
    share = scores.sigmoid() if score == "sigmoid" else softmax(scores)
    if position is not None:
        g = gate[:, None, None]
        share = (1 - g) * share + g * position.softmax(-1)
    return share


def window_shares(q, k, window, bias=None, rows=None, columns=None, score="softmax") -> Tensor:
    """The map window by window, `b h n m+1`; last the share of what lies outside the grid."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    k = torch.cat([k, torch.zeros_like(k[:, :, :1])], 2)
    places = torch.arange(window.key_size[0] * window.key_size[1])
    parts = []
    for number, keys in enumerate(window.key_index()):
        tokens = window.query_index()[number]
        scores = q[:, :, tokens] @ k[:, :, keys].mT * q.shape[-1] ** -0.5
        if bias is not None:
            scores = scores + (bias[:, :, number] if bias.ndim == 5 else bias)
        if rows is not None:
            scores = scores + rows[:, :, tokens][..., places // window.key_size[1]]
            scores = scores + columns[:, :, tokens][..., places % window.key_size[1]]
        own = scores.sigmoid() if score == "sigmoid" else scores.softmax(-1)
        whole = own.new_zeros(*own.shape[:3], k.shape[2])
        index = (keys % k.shape[2]).expand(own.shape)
        parts.append(whole.scatter_add(-1, index, own))
    order = window.query_index().flatten().argsort()
    return torch.cat(parts, 2)[:, :, order]


def written_out(*, v, window=None, **named) -> Tensor:
    v = v.repeat_interleave(named["q"].shape[1] // v.shape[1], 1)
    if window is None:
        return shares(**named) @ v
    return window_shares(window=window, **named)[..., :-1] @ v


def moving(named: dict) -> list[str]:
    return [n for n, x in named.items() if isinstance(x, Tensor) and x.is_floating_point()]


def compare(named: dict, tolerance: float = 2e-6, truth=written_out) -> None:
    """Result and every gradient on Triton against the formula in float64."""
    names = moving(named)
    own = {n: x.detach().requires_grad_() if n in names else x for n, x in named.items()}
    wide = {n: x.detach().double().requires_grad_() if n in names else x for n, x in named.items()}
    out, want = attention(**own), truth(**wide)
    assert out.grad_fn.name() == "_LaunchBackward"
    assert out.dtype == named["v"].dtype
    g = draw(*out.shape, seed=9).to(out)
    found = torch.autograd.grad(out, [own[n] for n in names], g)
    should = torch.autograd.grad(want, [wide[n] for n in names], g.double())
    for name, a, b in zip(["out", *names], [out, *found], [want, *should], strict=True):
        assert a.shape == b.shape, name
        error = float((a.double() - b).detach().abs().max() / b.detach().abs().max())
        assert error <= tolerance, (name, error)


CASES = {
    "plain": {},
    "scale": {"scale": -0.3},
    "causal": {"causal": True},
    "bias": {"bias": draw(2, N, M, seed=3)},
    "bias of keys": {"bias": draw(1, 1, 1, M, seed=3)},
    "bias of queries in sigmoid": {"bias": draw(2, N, 1, seed=3) - 3, "score": "sigmoid"},
    "keep": {"keep": draw(1, M, seed=4) > 0},
    "all": {"bias": draw(2, 1, M, seed=3), "keep": draw(1, M, seed=4) > 0, "causal": True},
    "sigmoid": {"score": "sigmoid", "bias": torch.full((1, 1, 1, 1), -2.8)},
    "sigmoid causal": {"score": "sigmoid", "causal": True},
    "gated": {"position": 3 * draw(2, N, M, seed=5), "gate": torch.tensor([0.2, 0.9])},
    "gated all": {
        "position": draw(2, N, M, seed=5),
        "gate": torch.tensor([0.0, 0.7]),
        "bias": draw(N, M, seed=3),
        "keep": draw(1, M, seed=4) > 0,
        "causal": True,
    },
}


@pytest.mark.parametrize("name", CASES)
def test_result_and_gradients(name):
    compare({**qkv(), **CASES[name]})


def test_pictures_share_a_bias_and_heads_share_keys():
    compare({**qkv(17, 33, h=4, g=2, d=8, e=4, b=2), "bias": draw(4, 17, 33, seed=3)})
    compare({**qkv(17, 33, h=2, g=2, d=8, e=4, b=2), "bias": draw(2, 1, 17, 33, seed=3)})
    gated = {"position": draw(2, 17, 33, seed=5), "gate": torch.tensor([0.4, 0.6])}
    compare({**qkv(17, 33, d=8, e=4, b=2), **gated})


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"bias": draw(64, 96, seed=3)}])
def test_sizes_that_fill_their_tiles(options):
    compare({**qkv(64, 96, h=1, d=16, e=32), **options})


def test_causal_with_more_queries_than_keys():
    named = {**qkv(70, 33, d=16, e=16), "causal": True}
    compare(named)
    assert not attention(**named)[:, :, : 70 - 33].any()


@pytest.mark.parametrize(
    ("window", "more"),
    [
        (TILES, {"bias": draw(2, 35, 35, seed=3)}),
        (TILES, {"bias": draw(1, 2, 2, 35, 35, seed=3), "score": "sigmoid"}),
        (CELLS, {"bias": draw(35, 35, seed=3)}),
        (CELLS, {}),
    ],
)
def test_windows(window, more):
    compare({**qkv(70, 70), "window": window, **more})


@pytest.mark.parametrize("window", [HALO, WIDE_HALO, THIN_HALO])
def test_halos(window):
    n, m = (grid[0] * grid[1] for grid in (window.query_grid, window.grid))
    rows, columns = (draw(1, 2, n, side, seed=s) for s, side in enumerate(window.key_size, 5))
    bias = draw(2, n // len(window.query_index()), window.key_size[0] * window.key_size[1])
    named = {**qkv(n, m, d=8, e=5), "window": window, "rows": rows, "columns": columns}
    compare({**named, "bias": bias} if window == WIDE_HALO else named)


def test_strides_of_other_layouts():
    packed = draw(2, 37, 3, 2, 8)  # as a projection gives it: b n (q k v) h d
    q, k, v = packed.permute(2, 0, 3, 1, 4).unbind(0)
    compare({"q": q, "k": k, "v": v})
    assert attention(q, k, v).transpose(1, 2).is_contiguous()
    q, k, v = (x.mT.contiguous().mT for x in (q, k, v))
    compare({"q": q, "k": k, "v": v, "bias": draw(37, 2, 37).transpose(0, 1)})
    out = attention(q.requires_grad_(), k, v)
    (found,) = torch.autograd.grad(out.sum(), q)  # a gradient that is one number, expanded
    want = torch.autograd.grad(written_out(q=q.double(), k=k.double(), v=v.double()).sum(), q)[0]
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 4e-3), (torch.bfloat16, 2e-2)])
def test_halves_are_added_up_in_float32(dtype, tolerance):
    named = {n: x.to(dtype) for n, x in qkv(33, 70, d=16, e=16).items()}
    compare({**named, "bias": draw(2, 33, 70, seed=3)}, tolerance)


@pytest.mark.filterwarnings("ignore:overflow encountered in exp2")  # 1 / (1 + inf) is meant
def test_large_scores_do_not_overflow():
    named = qkv(17, 33, d=8, e=8)
    compare({**named, "q": 100 * named["q"]}, 1e-4)
    compare({**named, "q": 100 * named["q"], "score": "sigmoid"}, 1e-4)


def test_a_query_that_sees_nothing_gives_zeros():
    named = {n: x.requires_grad_() for n, x in qkv(17, 33, d=8, e=8).items()}
    out = attention(**named, keep=torch.zeros(1, 33, dtype=torch.bool))
    assert not out.any()
    assert not any(x.any() for x in torch.autograd.grad(out.sum(), list(named.values())))


@pytest.mark.parametrize("name", ["q", "k", "v", "bias"])
def test_only_the_gradients_asked_for(name):
    named = {**qkv(17, 33, d=8, e=8), "bias": draw(2, 17, 33, seed=3)}
    found = []
    for run in (attention, attention.reference):
        own = {n: x.detach().requires_grad_(n == name) for n, x in named.items()}
        found.append(torch.autograd.grad(run(**own).square().sum(), own[name])[0])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


def test_the_second_derivative_goes_by_the_reference():
    named, found = qkv(5, 7, d=4, e=4), []
    for run in (attention, attention.reference):
        own = {n: x.detach().requires_grad_() for n, x in named.items()}
        given = list(own.values())
        first = torch.autograd.grad(run(**own).square().sum(), given, create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), given))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


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
    "cells": {"grid": (5, 14), "radius": 1.0, "window": CELLS},
    "thin halo": {"grid": (4, 8), "radius": 2.0, "window": THIN_HALO},
}


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_of_the_same_pass(name):
    told = {"grid": (7, 10), "radius": None, "pool": None, **STATISTICS[name]}
    options = {n: told.pop(n) for n in list(told) if n not in ("grid", "radius", "pool")}
    sizes = (8, 32) if name == "thin halo" else (70, 70)
    named = qkv(*sizes)
    out, found = attention_statistics(**named, **options, **told)
    wide = {n: x.double() for n, x in named.items()}
    more = {n: x.double() if n in moving(options) else x for n, x in options.items()}
    if "window" in options:
        share = window_shares(wide["q"], wide["k"], **more)[..., :-1]
    else:
        share = shares(wide["q"], wide["k"], **more)
    want = statistics(share, stride=2 if name == "thin halo" else 1, **told)
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


def test_the_map_belongs_to_the_result():
    named = {**qkv(), **CASES["gated all"]}
    share = attention_map(slice(None), **named)
    torch.testing.assert_close(share @ named["v"], attention(**named))


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
