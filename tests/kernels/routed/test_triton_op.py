"""Fused routed attention on Triton's interpreter, against the torch reference."""

from __future__ import annotations

import os

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is decorated

import pytest
import torch
from torch import Tensor

from limelight.kernels.errors import KernelError
from limelight.kernels.routed.reference import routed_attention
from limelight.kernels.windows import Window

pytest.importorskip("triton")


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


REGIONS = {"window": Window("block", (2, 3), (4, 6))}  # 4 blocks of 6 tokens
LONG = {"window": Window("block", (7, 11), (14, 11))}  # 2 blocks of 77


def arguments(
    how: dict, b=1, h=2, n=24, m=None, d=5, e=4, named=3, apart=False, weighted=False
) -> dict:
    """q, k and v as projections give them, heads side by side; an index with holes and twins."""
    draw = torch.Generator().manual_seed(n + d)
    sizes = {"q": (n, d), "k": (m or n, d), "v": (m or n, e)}
    found = {
        name: torch.randn(b, tokens, h, width, generator=draw).transpose(1, 2)
        for name, (tokens, width) in sizes.items()
    }
    window = how.get("window")
    blocks = n // (how["block"] if window is None else window.size[0] * window.size[1])
    shape = (b, h, blocks, named) if apart else (b, blocks, named)
    index = torch.randint(0, blocks, shape, generator=draw)
    index[..., 0, 1:] = -1  # a block sees one only
    if blocks > 2:
        index[..., 1, :] = index[..., 1, :1]  # another the same one several times
        index[..., 2, :] = -1  # a third nothing
    if weighted:
        found["weight"] = 0.2 + torch.rand(shape, generator=draw)
    return {**found, "index": index, **how}


def compare(given: dict, tolerance: float = 1e-5) -> None:
    """Result and each gradient of the fused path against the reference in float64."""
    names = [name for name, x in given.items() if isinstance(x, Tensor) and name != "index"]
    own = {name: given[name].detach().requires_grad_() for name in names}
    wide = {name: given[name].detach().double().requires_grad_() for name in names}
    out = routed_attention(**{**given, **own})
    assert out.grad_fn.name() == "_LaunchBackward"
    want = routed_attention.reference(**{**given, **wide})
    g = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    found = torch.autograd.grad(out, list(own.values()), g)
    should = torch.autograd.grad(want, list(wide.values()), g.double())
    assert out.dtype == given["v"].dtype
    pairs = zip(("out", *names), (out, *found), (want, *should), strict=True)
    for name, a, b in pairs:
        assert a.shape == b.shape, name
        error = float((a.double() - b).detach().abs().max() / b.detach().abs().max())
        assert error <= tolerance, (name, error)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weighted": True},
        {"apart": True, "weighted": True, "h": 2},
        {"m": 8, "weighted": True, "h": 1},
        {"b": 2, "h": 1, "d": 20, "e": 3},
    ],
)
def test_regions_of_a_grid_and_each_gradient(options):
    compare(arguments(REGIONS, **options))


def test_blocks_longer_than_a_tile():
    compare(arguments(LONG, n=154, h=1, named=2, weighted=True))


@pytest.mark.parametrize(("n", "block", "m"), [(63, 21, None), (100, 50, 26), (9, 9, 63)])
def test_runs_of_a_sequence_with_odd_lengths(n, block, m):
    compare(arguments({"block": block}, n=n, m=m, h=1, named=2))


def test_an_index_in_32_bits_and_names_past_the_end():
    given = arguments(REGIONS, h=1)
    want = routed_attention(**given)
    past = given["index"].masked_fill(given["index"] < 0, 99).int()
    torch.testing.assert_close(routed_attention(**{**given, "index": past}), want)


def test_strides_of_other_layouts():
    given = arguments(REGIONS, h=2)
    compare(given | {name: given[name].contiguous() for name in "qkv"})
    compare(given | {name: given[name].mT.contiguous().mT for name in "qkv"})


def test_large_scores_do_not_overflow():
    given = arguments(REGIONS, h=1)
    compare(given | {"scale": 30.0}, 1e-3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 3e-3), (torch.bfloat16, 2e-2)])
def test_halves_are_added_up_in_float32(dtype, tolerance):
    given = arguments(REGIONS, h=1, weighted=True)
    compare(given | {name: given[name].to(dtype) for name in "qkv"}, tolerance)


def test_only_the_gradients_asked_for():
    given = arguments(REGIONS, h=1, weighted=True)
    for name in ("v", "weight"):
        own = given[name].detach().requires_grad_()
        out = routed_attention(**{**given, name: own})
        (grad,) = torch.autograd.grad(out.sum(), own)
        if name == "v":  # linear in v
            torch.testing.assert_close((grad * own).sum(), out.sum())
        assert grad.shape == own.shape


def test_the_second_derivative_goes_by_the_reference():
    given = arguments(REGIONS, h=1, d=3, e=2)
    found = []
    for run in (routed_attention, routed_attention.reference):
        own = {name: given[name].detach().requires_grad_() for name in "qkv"}
        out = run(**{**given, **own})
        first = torch.autograd.grad(out.square().sum(), list(own.values()), create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), [*own.values()]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_what_the_kernels_refuse_is_told():
    given = arguments(REGIONS, h=1)
    with pytest.raises(KernelError, match="several dtypes"):
        routed_attention(**{**given, "q": given["q"].half()})
    with pytest.raises(KernelError, match="wider than 256"):
        routed_attention(**{**given, "v": torch.zeros(1, 1, 24, 257)})
    with pytest.raises(KernelError, match="takes q b h n d, k b h m d"):
        routed_attention(**{**given, "k": given["k"][..., :3]})
    with pytest.raises(KernelError, match="4 query blocks"):
        routed_attention(**{**given, "index": given["index"][:, :3]})
