"""Learned maps: their functions, projections, blocks of rows, memory and errors."""

from __future__ import annotations

import pytest
import torch
from op_cases import draw, learned
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from limelight.kernels.errors import KernelError
from limelight.kernels.kan import BASE_FUNCTIONS, BASES, curves, kan_attention
from limelight.kernels.kan import reference as module
from limelight.kernels.kan.arguments import Functions
from limelight.kernels.kan.rows import on_simplex, phi_of


def wide(named):
    return {
        n: x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x
        for n, x in named.items()
    }


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("base", BASE_FUNCTIONS)
def test_phi_is_the_sum_of_its_curves(basis, base):
    named = wide(learned(5, h=2, r=3, basis=basis, base=base, scales=True))
    f = Functions(*(named[n] for n in ("a", "b", "scale_base", "scale_sp")))
    rows = draw(1, 2, 4, 5, seed=20).double()
    values = curves(
        rows[0, 1, 2], f.a, f.b, f.scale_base, f.scale_sp, basis=basis, base=base
    )  # h p q x, at the five scores of one row
    want = values[1].diagonal(dim1=1, dim2=2).sum(-1)
    torch.testing.assert_close(phi_of(rows, f, basis, base)[0, 1, 2], want)


def test_curves_have_the_values_of_their_formulas():
    x = torch.tensor([-2.0, -0.75, 0.0, 0.3, 1.0], dtype=torch.float64)
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    at = torch.tensor([0.0, 1.0], dtype=torch.float64).expand(1, 1, 1, 2)
    want = {
        "mexican_hat": 0.8673250705840776 * (1 - x**2) * torch.exp(-(x**2) / 2),
        "morlet": torch.cos(5 * x) * torch.exp(-(x**2) / 2),
        "dog": -x * torch.exp(-(x**2) / 2),
        "shannon": torch.where(x == 0, 1.0, torch.sin(x) / x),
        "meyer": torch.tensor([0.0, 0.5, 0.0, 0.8090169943749475, 0.0], dtype=torch.float64),
    }
    for basis, value in want.items():
        torch.testing.assert_close(curves(x, one, at, basis=basis)[0, 0, 0], value)
    a = torch.tensor([1.0, 0, 2, 0, 0, -1], dtype=torch.float64).expand(1, 1, 1, 6)
    b = torch.tensor([0.5, 0, -1, 0], dtype=torch.float64).expand(1, 1, 1, 4)
    ratio = (1 + 2 * x**2 - x**5) / (1 + (0.5 * x - x**3).abs())
    torch.testing.assert_close(curves(x, a, b, basis="rational")[0, 0, 0], ratio)
    first = torch.tensor([0.5, -2.0], dtype=torch.float64).expand(1, 1, 1, 2)
    found = curves(x, first, 3 * first, base="identity")[0, 0, 0]
    turned = 0.5 * x.cos() + 1.5 * x.sin() - 2 * (2 * x).cos() - 6 * (2 * x).sin()
    torch.testing.assert_close(found, turned + x)


def test_rows_on_the_simplex():
    y = torch.tensor([[0.2, 0.3, 0.5], [2.0, 0.0, 0.0], [1.0, 0.8, -5.0], [-1.0, -1.0, -1.0]])
    want = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.6, 0.4, 0.0], [1 / 3] * 3])
    torch.testing.assert_close(on_simplex(y), want)
    free = draw(200, 17, seed=1).double()
    near = on_simplex(free)
    torch.testing.assert_close(near.sum(-1), torch.ones(200, dtype=torch.float64))
    other = draw(200, 17, seed=2).double().softmax(-1)
    closer = (near - free).norm(dim=-1) <= (other - free).norm(dim=-1)
    assert bool(closer.all())
    assert near.min() == 0


def test_without_a_simplex_weights_have_signs_and_add_up_to_anything():
    named = learned(11)
    share = kan_attention.face.mixing(slice(None), **named)
    assert share.min() < 0
    assert (share.sum(-1) - 1).abs().min() > 1e-4


ORDERS = [
    {},
    {"basis": "rational"},
    {"simplex": True, "base": "gelu"},
    {"order": "phi_phi", "basis": "dog"},
    {"order": "phi_w", "scales": True, "base": "silu"},
    {"order": "phi"},
]


@pytest.mark.parametrize("how", ORDERS)
def test_blocks_of_rows_change_nothing(how, monkeypatch):
    named = wide(learned(13, h=3, own=2, b=2, softmax_heads=(1,), **how))
    moving = [n for n, x in named.items() if isinstance(x, torch.Tensor)]
    back = draw(2, 3, 13, 5, seed=7).double()
    found = []
    for numbers in (1 << 30, 1):
        monkeypatch.setattr(module, "BLOCK_NUMBERS", numbers)
        leaves = {n: named[n].clone().requires_grad_() for n in moving}
        out = kan_attention(**{**named, **leaves})
        inputs = list(leaves.values())
        first = torch.autograd.grad(out, inputs, back, create_graph=True, allow_unused=True)
        first = [g for g in first if g is not None]
        second = torch.autograd.grad(
            sum(g.square().sum() for g in first), inputs, allow_unused=True
        )
        plain = torch.autograd.grad(kan_attention(**{**named, **leaves}), inputs, back,
                                    allow_unused=True)  # fmt: skip
        found.append([out, *first, *(g for g in (*second, *plain) if g is not None)])
    assert len(found[0]) == len(found[1])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


class Largest(TorchDispatchMode):
    """The size of the largest result of any operation."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.numbers = max([self.numbers, *sizes])
        return out


@pytest.mark.parametrize("basis", ["fourier", "rational"])
def test_nothing_is_as_large_as_all_functions_of_all_scores(basis, monkeypatch):
    b, h, n, r = 2, 2, 48, 6
    named = learned(n, h=h, b=b, r=r, d=4, e=4, basis=basis)
    monkeypatch.setattr(module, "BLOCK_NUMBERS", b * h * n * r)
    leaves = {n: x.requires_grad_() for n, x in named.items() if isinstance(x, torch.Tensor)}
    with Largest() as largest:
        kan_attention(**{**named, **leaves}).sum().backward()
    assert largest.numbers <= b * h * n * max(r, 4) * 6  # a block has all powers of b h n r
    assert largest.numbers < b * h * n * n * r / 5


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_it_is_linear_in_v_and_runs_under_torch_func():
    named = wide(learned(7, b=3, base="silu", scales=True))
    run = lambda v: kan_attention(**{**named, "v": v})  # noqa: E731
    out, change = torch.func.jvp(run, (named["v"],), (named["v"],))
    torch.testing.assert_close(change, out)
    torch.testing.assert_close(run(2 * named["v"]), 2 * out)
    rest = {n: x for n, x in named.items() if n not in ("q", "k", "v")}
    one = lambda q, k, v: kan_attention(q[None], k[None], v[None], **rest)[0]  # noqa: E731
    mapped = torch.vmap(one)(named["q"], named["k"], named["v"])
    torch.testing.assert_close(mapped, out)


def test_only_the_result_of_halves_is_rounded():
    named = {n: x.bfloat16() if isinstance(x, torch.Tensor) else x for n, x in learned(9).items()}
    out = kan_attention(**named)
    assert out.dtype == torch.bfloat16
    want = kan_attention(**wide(named))
    assert (out - want).abs().max() < 0.005 * want.abs().max()


def changed(named, **how):
    return {**named, **how}


NAMED = learned(9, h=3)
WRONG = {
    "there is no basis 'spline'": changed(NAMED, basis="spline"),
    "there is no base function 'relu'": changed(NAMED, base="relu"),
    "there is no order 'w'": changed(NAMED, order="w"),
    "takes q b h n d": changed(NAMED, k=NAMED["k"][:, :, 1:]),
    "of one dtype": changed(NAMED, v=NAMED["v"].double()),
    "softmax_heads=\\(0, 0\\) of 3 heads": changed(NAMED, softmax_heads=(0, 0)),
    "softmax_heads=\\(3,\\) of 3 heads": changed(NAMED, softmax_heads=(3,)),
    "all heads are softmax": changed(NAMED, softmax_heads=(0, 1, 2)),
    "for the 2 learned heads": changed(NAMED, softmax_heads=(0,)),
    "rows of 9 numbers, but these have 8: the number of tokens is fixed": changed(
        NAMED, k=NAMED["k"][:, :, 1:], v=NAMED["v"][:, :, 1:]
    ),
    "basis 'rational' takes 6 numbers of a and 4 of b": changed(NAMED, basis="rational"),
    "scale_sp must be": changed(NAMED, scale_sp=NAMED["a"]),
    "order='w_phi' takes W of shape": changed(NAMED, W=None),
    "order='phi' maps a row of 9 scores": changed(NAMED, order="phi", W=None),
    "a2 and b2 are of order='phi_phi'": changed(NAMED, a2=NAMED["a"]),
    "give a2 and b2 as well": changed(NAMED, order="phi_phi", W=None),
    "order='phi_phi' gives 4 weights for 9 keys": changed(
        NAMED, order="phi_phi", W=None, a2=draw(3, 4, 4, 3), b2=draw(3, 4, 4, 3)
    ),
    "order='phi_w' gives 4 weights for 9 keys": changed(
        NAMED, order="phi_w", W=draw(3, 9, 9)
    ),
}  # fmt: skip


@pytest.mark.parametrize("told", WRONG)
def test_what_does_not_fit_is_told(told):
    with pytest.raises(KernelError, match=told):
        kan_attention(**WRONG[told])
