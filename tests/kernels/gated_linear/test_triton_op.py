"""Fused gated linear attention on Triton's interpreter, against the torch reference."""

from __future__ import annotations

import os

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when a kernel is decorated

import pytest
import torch
from torch import Tensor

from limelight.kernels.errors import KernelError
from limelight.kernels.gated_linear.reference import bidirectional_gla, gated_linear_attention

pytest.importorskip("triton")

NAMES = ("q", "k", "v", "gate", "gate_back")


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


def arguments(n: int, way: str, strength=0.5, b=1, h=1, d=24, e=40) -> dict[str, Tensor]:
    """Arguments as layers give them, channels of all heads side by side."""
    draw = torch.Generator().manual_seed(n)
    sizes = dict(zip(NAMES, (d, d, e, d, d), strict=True))
    given = {
        name: torch.randn(b, n, h, c, generator=draw).transpose(1, 2) for name, c in sizes.items()
    }
    for name in NAMES[3:]:
        given[name] = -strength * given[name].abs()
    return given if way == "both" else {name: given[name] for name in NAMES[:4]}


def call(given: dict[str, Tensor], way: str, *, reference: bool = False, **how: float) -> Tensor:
    op = bidirectional_gla if way == "both" else gated_linear_attention
    options = how if way == "both" else {**how, "reverse": way == "back"}
    return (op.reference if reference else op)(**given, **options)


def compare(given: dict[str, Tensor], way: str, tolerance: float = 3e-6, **how: float) -> None:
    """Result and gradients of the fused path against the reference in float64."""
    own = {n: x.detach().requires_grad_() for n, x in given.items()}
    wide = {n: x.detach().double().requires_grad_() for n, x in given.items()}
    out = call(own, way, **how)
    assert out.grad_fn.name() == "_LaunchBackward"
    want = call(wide, way, reference=True, **how)
    g = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    found = torch.autograd.grad(out, list(own.values()), g)
    should = torch.autograd.grad(want, list(wide.values()), g.double())
    assert out.dtype == given["v"].dtype
    for name, a, b in zip(["out", *own], [out, *found], [want, *should], strict=True):
        assert a.shape == b.shape, name
        assert apart(a, b) <= tolerance, (name, apart(a, b))


def apart(a: Tensor, b: Tensor) -> float:
    """The largest difference as a part of the largest number."""
    return float((a.double() - b).detach().abs().max() / b.detach().abs().max())


@pytest.mark.parametrize(("n", "way"), [(63, "ahead"), (100, "ahead"), (100, "back"), (63, "both")])
def test_result_and_gradients_equal_the_reference(n, way):
    compare(arguments(n, way), way)


@pytest.mark.parametrize("way", ["ahead", "back", "both"])
def test_few_tokens_and_channels(way):
    compare(arguments(5, way, d=3, e=1, b=2, h=1), way, scale=1.5)


def test_wide_heads_go_in_parts():
    compare(arguments(9, "both", d=70, e=100), "both")


@pytest.mark.parametrize("strength", [0.0, 50.0])
def test_weak_and_strong_decays(strength):
    compare(arguments(30, "both", strength, d=16, e=16), "both", 2e-5)


def test_one_strong_decay_spoils_no_small_ones():
    given = arguments(40, "ahead", 0.01, d=16, e=16)
    given["gate"][:, :, ::20] = -1000.0
    compare(given, "ahead", 1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 1.5e-2)])
def test_halves_are_added_up_in_float32(dtype, tolerance):
    given = {n: x.to(dtype) for n, x in arguments(20, "both", d=16, e=16).items()}
    compare(given, "both", tolerance)
    compare({**given, "gate": given["gate"].float()}, "both", tolerance)


def test_strides_of_other_layouts():
    given = {n: x.contiguous() for n, x in arguments(10, "ahead", b=1, h=2, d=8, e=8).items()}
    compare(given, "ahead")
    compare({n: x.mT.contiguous().mT for n, x in given.items()}, "ahead")


@pytest.mark.parametrize("name", NAMES)
def test_only_the_gradients_asked_for(name):
    given = arguments(4, "both", d=8, e=8)
    grads = []
    for reference in (False, True):
        own = {**given, name: given[name].detach().requires_grad_()}
        out = call(own, "both", reference=reference)
        grads.append(torch.autograd.grad(out.sum(), own[name])[0])
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-5)


def test_the_second_derivative_goes_by_the_reference():
    found = []
    for reference in (False, True):
        own = {n: x.detach().requires_grad_() for n, x in arguments(6, "both", d=4, e=4).items()}
        out = call(own, "both", reference=reference)
        first = torch.autograd.grad(out.square().sum(), list(own.values()), create_graph=True)
        found.append(torch.autograd.grad(sum(g.square().sum() for g in first), list(own.values())))
    for a, b in zip(*found, strict=True):
        assert apart(a, b) < 1e-5


def test_the_next_chunk_is_never_read():
    """A call on the first tokens of a longer tensor sees none of the rest, NaN here."""
    given = arguments(50, "both", d=8, e=8)
    longer = {n: torch.cat([x, torch.full_like(x, torch.nan)], 2) for n, x in given.items()}
    cut = {n: x[:, :, :50] for n, x in longer.items()}
    compare(cut, "both")


def test_what_the_kernels_refuse_is_told(monkeypatch):
    given = arguments(10, "ahead")
    assert gated_linear_attention.why(**given).path == "triton"
    with pytest.raises(KernelError, match="q, k and v are of several dtypes"):
        gated_linear_attention(**{**given, "v": given["v"].half()})
    with pytest.raises(KernelError, match="nothing to compute"):
        gated_linear_attention(**{n: x[:0] for n, x in given.items()})
    with pytest.raises(KernelError, match="shapes do not fit"):
        gated_linear_attention(**{**given, "k": given["k"][:, :, 1:]})
    with pytest.raises(KernelError, match="not four axes"):
        gated_linear_attention(**{**given, "gate": given["gate"][0]})
    monkeypatch.setenv("LIMELIGHT_KERNELS", "auto")
    assert gated_linear_attention.why(**given).path == "reference"
