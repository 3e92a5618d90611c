"""Attention in every form against a written-out formula, its map and its statistics."""

from __future__ import annotations

import pickle

import pytest
import torch
from fill import fill, image
from naive_ops import shares
from shared import golden
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from limelight.kernels.attention import map_rows
from limelight.kernels.attention import row_statistics as attention_rows
from limelight.kernels.attention.arguments import AttentionArguments
from limelight.kernels.attention.reference import attention, attention_map, attention_statistics
from limelight.kernels.errors import KernelError
from limelight.kernels.shared import distances, reduced
from limelight.kernels.windows import Window
from limelight.models.zoo.convit import GPSA, SelfAttention

TILES, CELLS = Window("block", (2, 3), (4, 6)), Window("grid", (2, 3), (4, 6))
HALO = Window("halo", (4, 4), (8, 12), halo=1, stride=2)
SMALL = [Window("grid", (1, 2), (2, 2)), Window("halo", (2, 2), (2, 2), 1, 2)]
# torch scripts its own formulas when it first differentiates forwards
torch_warns = pytest.mark.filterwarnings("ignore:.torch.jit.*:DeprecationWarning")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def qkv(n=13, m=17, h=4, g=2, d=6, e=5):
    return draw(2, h, n, d), draw(2, g, m, d, seed=1), draw(2, g, m, e, seed=2)


CASES = {
    "plain": {},
    "scale": {"scale": 0.3},
    "causal": {"causal": True},
    "bias": {"bias": draw(4, 13, 17)},
    "bias by sample": {"bias": draw(2, 1, 1, 17)},
    "keep": {"keep": draw(2, 17) > 0},
    "mask": {"mask": draw(2, 4, 13, 17) > 0.5},
    "mask of queries": {"mask": draw(4, 13, 1) > 0, "scale": 0.3},
    "mask of keys": {"mask": draw(17) > 0},
    "all": {"bias": draw(1, 4, 1, 17), "keep": draw(2, 17) > -1, "causal": True},
    "sigmoid": {"score": "sigmoid", "bias": torch.full((1, 1, 1, 1), -2.8).double()},
    "sigmoid causal": {"score": "sigmoid", "causal": True},
    "gated": {"position": draw(4, 13, 17), "gate": draw(4).sigmoid()},
    "sigmoid mask": {"score": "sigmoid", "mask": draw(2, 1, 13, 17) > 0.5},
    "gated mask": {
        "position": draw(4, 13, 17),
        "gate": draw(4).sigmoid(),
        "mask": draw(13, 17) > 1,
    },
    "no axes": {"bias": torch.tensor(-2.0).double(), "score": "sigmoid"},
    "slopes": {"slopes": draw(4).abs(), "causal": True},
    "slopes sigmoid": {"slopes": draw(4).abs(), "score": "sigmoid", "bias": draw(1)},
    "band": {"left": 3, "right": 2},
    "factors": {"row_factor": draw(13), "score": "sigmoid", "causal": True, "left": 5},
    "gated slopes": {
        "position": draw(4, 13, 17),
        "gate": draw(4).sigmoid(),
        "slopes": draw(4).abs(),
        "row_factor": draw(2, 4, 1),
    },
    "gated keep": {"position": draw(4, 13, 17), "gate": draw(4).sigmoid(), "keep": draw(2, 17) > 0},
}


def written_out(q, k, v, **options):
    """The map by its formula, and the result."""
    share = shares(q, k, **options)
    return share, share @ v.repeat_interleave(q.shape[1] // v.shape[1], 1)


@pytest.mark.parametrize("name", CASES)
def test_the_formula(name):
    given, options = qkv(), CASES[name]
    share, want = written_out(*given, **options)
    torch.testing.assert_close(attention(*given, **options), want)
    torch.testing.assert_close(attention_map(slice(None), *given, **options), share)
    torch.testing.assert_close(attention_map(slice(3, 9), *given, **options), share[:, :, 3:9])


@pytest.mark.parametrize("window", [TILES, CELLS])
@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize("bias", [None, draw(4, 6, 6), draw(1, 4, 6, 6), draw(2, 4, 4, 6, 6)])
def test_windows_are_attention_with_all_else_hidden(window, score, bias):
    q, k, v = qkv(24, 24, g=4)
    options = {"window": window, "score": score, "bias": bias}
    out = attention(q, k, v, **options)
    for number, tokens in enumerate(window.query_index()):
        own = None if bias is None else bias if bias.ndim < 5 else bias[:, :, number]
        parts = (x[:, :, tokens] for x in (q, k, v))
        _, want = written_out(*parts, bias=own, score=score)
        torch.testing.assert_close(out[:, :, tokens], want)
    whole = attention_map(slice(None), q, k, v, **options)
    torch.testing.assert_close(whole @ v, out)
    torch.testing.assert_close(attention_map(slice(5, 20), q, k, v, **options), whole[:, :, 5:20])


def test_a_halo_pads_with_zeros_that_take_part():
    q, k, v = draw(2, 4, 24, 6), draw(2, 4, 96, 6, seed=1), draw(2, 4, 96, 5, seed=2)
    rows, columns = draw(2, 4, 24, 6, seed=3), draw(2, 4, 24, 6, seed=4)
    options = {"window": HALO, "rows": rows, "columns": columns}
    out = attention(q, k, v, **options)
    places = torch.arange(36)
    for tokens, keys in zip(HALO.query_index(), HALO.key_index(), strict=True):
        seen = [torch.cat([x, x.new_zeros(2, 4, 1, x.shape[-1])], 2)[:, :, keys] for x in (k, v)]
        bias = rows[:, :, tokens][..., places // 6] + columns[:, :, tokens][..., places % 6]
        _, want = written_out(q[:, :, tokens], *seen, bias=bias)
        torch.testing.assert_close(out[:, :, tokens], want)
    whole = attention_map(slice(None), q, k, v, **options)
    torch.testing.assert_close(whole @ v, out)
    assert (whole.sum(-1) < 1).any()


def test_a_query_that_sees_nothing_gives_zeros():
    q, k, v = qkv()
    keep = torch.zeros(2, 17, dtype=torch.bool)
    assert not attention(q, k, v, keep=keep).any()
    assert not attention_map(slice(None), q, k, v, keep=keep).any()
    early = attention(draw(1, 2, 9, 4), draw(1, 2, 4, 4), draw(1, 2, 4, 4), causal=True)
    assert not early[:, :, :5].any()


@torch_warns
@pytest.mark.parametrize("name", ["plain", "causal", "sigmoid", "gated", "all"])
def test_gradients_of_first_and_second_order(name):
    shapes = {"bias": (1, 2, 3, 4), "position": (2, 3, 4), "gate": (2,), "keep": (1, 4)}
    named = {n: draw(*shapes[n]) for n in CASES[name] if n in shapes}
    if "keep" in named:
        named["keep"] = named["keep"] > -2
    moving = [n for n, x in named.items() if x.is_floating_point()]
    given = [draw(1, 2, 3, 2), draw(1, 1, 4, 2, seed=1), draw(1, 1, 4, 3, seed=2)]
    inputs = [x.requires_grad_() for x in (*given, *(named[n] for n in moving))]
    still = {n: x for n, x in {**CASES[name], **named}.items() if n not in moving}

    def run(q, k, v, *rest):
        return attention(q, k, v, **still, **dict(zip(moving, rest, strict=True)))

    assert torch.autograd.gradcheck(run, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(run, inputs)


@torch_warns
@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize("block", [1, 1 << 22], ids=["by rows", "whole"])
def test_gradients_of_slopes_factors_and_other_heads(score, block, monkeypatch):
    monkeypatch.setattr(map_rows, "BLOCK_NUMBERS", block)
    given = [draw(1, 4, 3, 2), draw(1, 1, 4, 2, seed=1), draw(1, 2, 4, 3, seed=2)]
    given += [draw(4).abs() + 0.1, draw(4, 3), draw(1)]
    inputs = [x.requires_grad_() for x in given]

    def run(q, k, v, slopes, row_factor, bias):
        options = {"slopes": slopes, "row_factor": row_factor, "bias": bias}
        return attention(q, k, v, score=score, causal=True, left=2, **options)

    assert torch.autograd.gradcheck(run, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(run, inputs)


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_slopes_hold_a_few_rows_at_a_time(score, monkeypatch):
    """Nothing of the size of the map: every tensor that is made is smaller."""
    monkeypatch.setattr(map_rows, "BLOCK_NUMBERS", 4 * 4 * 60)
    q, k, v = (draw(1, 4, 60, 2, seed=n).requires_grad_() for n in range(3))
    slopes = draw(4).abs().requires_grad_()
    sizes = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(x.numel() for x in tree_leaves(out) if isinstance(x, Tensor))
            return out

    with Sizes():
        out = attention(q, k, v, slopes=slopes, score=score, causal=True)
        out.sum().backward()
    assert 4 * 4 * 60 in sizes
    assert max(sizes) == 4 * 4 * 60


def test_a_causal_band_sees_neither_the_future_nor_the_far_past():
    q, k, v = qkv(9, 9)
    k.requires_grad_()
    v.requires_grad_()
    out = attention(q, k, v, causal=True, left=2, slopes=draw(4).abs(), score="sigmoid")
    for place in range(9):
        grads = torch.autograd.grad(out[:, :, place].sum(), (k, v), retain_graph=True)
        for grad in grads:
            seen = grad.abs().sum((0, 1, 3)) > 0
            assert seen.tolist() == [place - 2 <= key <= place for key in range(9)]


@torch_warns
@pytest.mark.parametrize("window", SMALL)
def test_gradients_in_windows(window):
    n, seen = (4, 2) if window.kind == "grid" else (1, 16)
    given = [draw(1, 2, n, 2), draw(1, 1, 4, 2, seed=1), draw(1, 1, 4, 3, seed=2)]
    given.append(draw(2, n if window.halo else 2, seen, seed=3))
    if window.halo:
        given += [draw(1, 2, n, 4, seed=4), draw(1, 2, n, 4, seed=5)]
    given = [x.requires_grad_() for x in given]

    def run(q, k, v, bias, rows=None, columns=None):
        return attention(q, k, v, bias=bias, rows=rows, columns=columns, window=window)

    assert torch.autograd.gradcheck(run, given, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(run, given)


def test_one_tensor_as_query_key_and_value_has_the_gradient_of_all_three():
    x = draw(1, 2, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda y: attention(y, y, y), [x])
    assert torch.autograd.gradgradcheck(lambda y: attention(y, y, y), [x])


@pytest.mark.parametrize("name", ["plain", "causal", "bias", "keep", "sigmoid", "gated"])
def test_transforms_of_functions(name):
    q, k, v = qkv()
    options = dict(CASES[name])
    keep = options.pop("keep", None)

    def one(q, k, v, keep=None):
        keep = None if keep is None else keep[None]
        return attention(q[None], k[None], v[None], keep=keep, **options)[0]

    by_sample = (q, k, v) if keep is None else (q, k, v, keep)
    want = attention(q, k, v, keep=keep, **options)
    torch.testing.assert_close(torch.func.vmap(one)(*by_sample), want)
    total = torch.func.grad(lambda q: attention(q, k, v, keep=keep, **options).pow(2).sum())(q)
    each = torch.func.vmap(torch.func.grad(lambda *x: one(*x).pow(2).sum()))(*by_sample)
    torch.testing.assert_close(each, total)


def test_what_is_not_a_number_shows():
    q, k, v = qkv(9, 9)
    v[0, 0, 0, 0] = torch.nan
    for options in ({"causal": True}, {"keep": torch.ones(2, 9, dtype=torch.bool)}):
        assert attention(q, k, v, **options)[0, :2, :, 0].isnan().all()


def test_a_query_that_sees_nothing_has_no_gradient():
    q, k, v = (x.requires_grad_() for x in qkv())
    keep = torch.tensor([[False] * 17, [True] * 17])
    attention(q, k, v, keep=keep).sum().backward()
    assert all(x.grad.isfinite().all() for x in (q, k, v))
    assert not any(x.grad[0].any() for x in (q, k, v))
    assert k.grad[1].any()


def test_training_after_inference_mode():
    window = Window("block", (2, 2), (6, 2))  # of no other test: its tables are made here
    q, k, v = qkv(12, 12)
    with torch.inference_mode():
        attention(q, k, v, window=window)
    q.requires_grad_()
    attention(q, k, v, window=window).sum().backward()
    with torch.device("meta"):
        made = Window("block", (2, 2), (10, 2)).query_index()
    assert made.device.type == "cpu"


@pytest.mark.parametrize("case_number", range(7))
def test_the_sigmoid_cases(case_number):
    case = golden("sigmoid_attention.op")
    told = case.case["config"]["configs"][case_number]
    first = case.case["input"]["seed"] + 3 * case_number
    shapes = told["q"], told["kv"], told["kv"]
    q, k, v = (
        torch.from_numpy(image(tuple(shape), first + place)).transpose(1, 2)
        for place, shape in enumerate(shapes)
    )
    left, right = (None if far < 0 else far for far in told["window"])
    call = {
        "bias": torch.tensor([told["bias"]]),
        "slopes": torch.tensor(told["alibi"]) if "alibi" in told else None,
        "causal": told["causal"],
        "left": left,
        "right": None if told["causal"] else right,
    }
    out = attention(q, k, v, score="sigmoid", **call).transpose(1, 2)
    share = attention_map(slice(None), q, k, v, score="sigmoid", **call)
    for key, found in {"out": out, "attn": share}.items():
        want = torch.from_numpy(case.arrays[f"c{case_number}.{key}"]).flatten()
        torch.testing.assert_close(found.flatten()[: len(want)], want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_half_precision_and_linearity_in_v(name):
    options = CASES[name]
    low = {n: x.bfloat16() if isinstance(x, Tensor) and x.is_floating_point() else x
           for n, x in options.items()}  # fmt: skip
    given = [x.bfloat16() for x in qkv()]
    out = attention(*given, **low)
    assert out.dtype == torch.bfloat16
    _, want = written_out(*qkv(), **options)
    assert (out - want).abs().max() < 0.05 * want.abs().max()
    q, k, v = qkv()
    v.requires_grad_()
    whole = attention(q, k, v, **options)
    (grad,) = torch.autograd.grad(whole.sum(), v)
    torch.testing.assert_close((v * grad).sum(), whole.sum())


@pytest.mark.parametrize("options", [{}, {"window": TILES}, CASES["all"]], ids=str)
def test_it_compiles(options):
    size = 24 if "window" in options else 13
    q, k, v = qkv(size, 24 if "window" in options else 17)
    torch.compiler.reset()
    compiled = torch.compile(attention, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(q, k, v, **options), attention(q, k, v, **options))
    assert pickle.loads(pickle.dumps(attention)) is attention


@pytest.mark.parametrize("window", [TILES, CELLS, HALO])
def test_statistics_in_windows(window):
    n, m = (24, 96) if window.halo else (24, 24)
    given = qkv(n, m)
    out, found = attention_statistics(*given, window=window, grid=window.grid, radius=2.0, pool=8)
    share = attention_map(slice(None), *given, window=window)
    far = distances(window.grid, window.stride, out.device, out.dtype)
    torch.testing.assert_close(out, attention(*given, window=window))
    torch.testing.assert_close(found["distance"], (share * far).sum(-1))
    torch.testing.assert_close(found["mass"], (share * (far <= 2)).sum(-1))
    assert float(found["peak"][1, 2, 1, 2]) == float(share[1, 2, 8:16, 16:24].max())


def test_statistics_leave_the_result_differentiable():
    q, k, v = (x.requires_grad_() for x in qkv(6, 6))
    out, found = attention_statistics(q, k, v, grid=(2, 3))
    assert out.requires_grad
    assert not any(x.requires_grad for x in found.values())
    with pytest.raises(KernelError, match="has 12 queries and 12 keys"):
        attention_statistics(q, k, v, grid=(3, 4))
    with pytest.raises(KernelError, match="pool=1 or more"):
        attention_statistics(q, k, v, pool=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_statistics_of_plain_attention_come_with_its_result(dtype, monkeypatch):
    """In blocks of rows, the last one shorter; peaked rows as well as even ones."""
    monkeypatch.setattr(attention_rows, "CACHE", 1)
    q, k, v = (draw(2, 3, 70, 8).to(dtype) for _ in range(3))
    q = q * torch.tensor([0.1, 1.0, 40.0], dtype=dtype)[:, None, None]
    asked = {"grid": (7, 10), "radius": 2.5, "pool": 8}
    assert attention_rows.plain(AttentionArguments(q, k, v))
    out, found = attention_statistics(q, k, v, scale=0.5, **asked)
    share = attention_map(slice(None), q=q.double(), k=k.double(), v=v.double(), scale=0.5)
    far = distances((7, 10), 1, out.device, torch.float64)
    near = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {}
    want = {
        "entropy": torch.special.entr(share).sum(-1),
        "distance": (share * far).sum(-1),
        "mass": (share * (far <= 2.5)).sum(-1),
    }
    for name, value in want.items():
        torch.testing.assert_close(found[name], value.to(dtype), **near)
    torch.testing.assert_close(out, (share @ v.double()).to(dtype), **near)
    assert found["peak"].shape == (2, 3, 9, 9)
    block = share[1, 2, 16:24, 64:70].max().to(dtype)
    torch.testing.assert_close(found["peak"][1, 2, 2, 8], block, **near)


@pytest.mark.parametrize("name", ["plain", "gated", "sigmoid", "slopes", "band", "factors"])
def test_statistics_never_form_the_map(name):
    options = dict(CASES[name])
    if "position" in options:
        options["position"] = draw(4, 15, 15)
    if "row_factor" in options:
        options["row_factor"] = draw(15).abs()
    given = qkv(15, 15)
    out, found = attention_statistics(*given, **options, grid=(3, 5), radius=1.5, pool=4)
    share, want = written_out(*given, **options)
    torch.testing.assert_close(out, want)
    far = distances((3, 5), 1, out.device, out.dtype)
    torch.testing.assert_close(found["entropy"], torch.special.entr(share).sum(-1))
    torch.testing.assert_close(found["distance"], (share * far).sum(-1))
    torch.testing.assert_close(found["mass"], (share * (far <= 1.5)).sum(-1))
    assert found["peak"].shape == (2, 4, 4, 4)
    assert float(found["peak"][0, 0, 1, 2]) == float(share[0, 0, 4:8, 8:12].max())
    assert float(found["peak"][0, 0, 3, 3]) == float(share[0, 0, 12:, 12:].max())


def test_blocks_of_rows_change_nothing_and_far_is_in_tokens():
    share = draw(2, 3, 24, 24).softmax(-1)
    rows = lambda span: share[:, :, span]  # noqa: E731
    whole, parts = (reduced(rows, 24, grid=(4, 6), pool=5, block=n) for n in (24, 7))
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value)
    far = distances((2, 3), 1, share.device, share.dtype)
    assert far[0].tolist() == pytest.approx([0, 1, 2, 1, 2**0.5, 5**0.5])
    thinned = distances((4, 4), 2, share.device, share.dtype)
    assert thinned.shape == (4, 16)
    assert float(thinned[0, 0]) == pytest.approx(0.5**0.5)
    pooled = distances((1, 2), 1 / 3, share.device, share.dtype)  # keys that stand for 3 x 3
    assert pooled.shape == (18, 2)
    assert pooled[0].tolist() == pytest.approx([2**0.5 / 3, 17**0.5 / 3])
    assert pooled[10].tolist() == pytest.approx([1, 0])
    with pytest.raises(KernelError, match="needs the grid"):
        reduced(rows, 24, radius=1.0)


@pytest.mark.golden
def test_gpsa_equals_its_golden_case():
    case = golden("method_locality_gpsa")
    told = case.case["input"]
    x = torch.from_numpy(image(tuple(told["shape"]), told["seed"]))
    for state in ("init", "filled"):
        net = GPSA(48, 4, False, 1.0, 0.0, (5, 5))
        bias = net.pos_proj.bias
        fill(net, case.case["salt"])
        if state == "init":
            kept = bias.detach().clone()
            net.local_init(1.0)
            with torch.no_grad():
                bias.copy_(kept)
                net.gating_param.fill_(1.0)
        qk = net.qk(x).reshape(2, 25, 2, 4, 12).permute(2, 0, 3, 1, 4)
        v = net.v(x).reshape(2, 25, 4, 12).transpose(1, 2)
        own = {"position": net.pos_proj(net.offsets(25, x)).permute(2, 0, 1),
               "gate": net.gating_param.sigmoid()}  # fmt: skip
        share = attention_map(slice(None), qk[0], qk[1], v, **own).mean(0)
        _, found = attention_statistics(qk[0], qk[1], v, **own, grid=(5, 5))
        with torch.no_grad():
            for key, value in {
                "attention": share,
                "out": net(x),
                "gate": own["gate"],
                "nonlocality": found["distance"].mean((0, 2)),
                "entropy": found["entropy"].mean((0, 2)),
            }.items():
                want = torch.from_numpy(case.arrays[f"gpsa.{state}.{key}"]).flatten()
                got = value.flatten()[: len(want)]  # the first values of large arrays are kept
                torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.golden
def test_plain_attention_equals_its_golden_distances():
    case = golden("method_locality_gpsa")
    told = case.case["input"]
    x = torch.from_numpy(image(tuple(told["shape"]), told["seed"]))
    net = SelfAttention(48, 4, False, 0.0, 0.0)
    fill(net, case.case["salt"])
    q, k, v = net.qkv(x).reshape(2, 25, 3, 4, 12).permute(2, 0, 3, 1, 4)
    _, found = attention_statistics(q, k, v, grid=(5, 5))
    share = attention_map(slice(None), q, k, v).mean(0)
    with torch.no_grad():
        far = found["distance"].mean((0, 2))
    for key, value in {"nonlocality": far, "attention": share}.items():
        want = torch.from_numpy(case.arrays[f"mhsa.{key}"]).flatten()
        torch.testing.assert_close(value.flatten()[: len(want)], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"score": "relu"}, "'softmax' or 'sigmoid'"),
        ({"position": draw(4, 13, 17)}, "give both or neither"),
        ({"rows": draw(2, 4, 13, 3)}, "give all three"),
        ({"window": TILES}, "has 24 queries"),
        ({"window": TILES, "causal": True}, "neither causal nor padded"),
        ({"window": TILES, "position": draw(1), "gate": draw(1)}, "give no window"),
        ({"k": draw(2, 3, 17, 6)}, "h a multiple of g"),
        ({"k": draw(2, 2, 17, 6).float()}, "of one dtype"),
        ({"scale": torch.tensor(1.0)}, "as a number"),
        ({"bias": draw(3, 13, 17)}, "does not broadcast"),
        ({"keep": torch.ones(2, 13, dtype=torch.bool)}, r"keep must be of shape \(2, 17\)"),
        ({"keep": torch.ones(2, 17)}, "give booleans"),
        ({"mask": torch.ones(13, 17)}, "mask is False where a key is hidden, not torch.float32"),
        ({"mask": torch.ones(3, 1, 13, 17) > 0}, r"mask \(3, 1, 13, 17\) does not broadcast"),
        ({"mask": torch.ones(13, 17) > 0, "window": TILES}, "nor masked: leave out causal, keep"),
        ({"position": draw(4, 13, 13), "gate": draw(4)}, "position must be of shape"),
        ({"position": draw(4, 13, 17), "gate": draw(3)}, "gate must be of shape"),
        ({"window": "block"}, "not 'block'"),
        ({"v": draw(2, 3, 17, 5)}, "h a multiple of g and f"),
        ({"slopes": draw(3)}, r"slopes must be of shape \(4,\)"),
        ({"slopes": draw(4), "window": TILES}, "left, right and slopes"),
        ({"left": 2, "window": TILES}, "left, right and slopes"),
        ({"left": -1}, "left counts the keys"),
        ({"right": 1.5}, "right counts the keys"),
        ({"right": 2, "causal": True}, "sees nothing to its right, but right is 2"),
        ({"row_factor": draw(4, 17)}, r"row_factor \(4, 17\) does not broadcast"),
        (
            {
                "q": draw(2, 4, 24, 6),
                "k": draw(2, 2, 24, 6),
                "v": draw(2, 2, 24, 5),
                "window": TILES,
                "bias": draw(4, 24, 24),
            },
            "does not broadcast",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_told(change, told):
    q, k, v = qkv()
    with pytest.raises(KernelError, match=told):
        attention(**{"q": q, "k": k, "v": v, **change})
