"""The op system: dispatch with reasons, gradients through both paths, one op under a mode."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from limelight.kernels import kernel as core
from limelight.kernels.errors import KernelError, LimelightError
from limelight.kernels.kernel import FACES, kernel


def _map(rows: slice, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return (q[..., rows, :] @ k.mT) * scale


@kernel("test_linear", share=("q", "k", "v"), mixing=_map, fast="elsewhere")
def linear_attention(q: Tensor, k: Tensor, v: Tensor, *, scale: float = 1.0) -> Tensor:
    """scale q k' v."""
    return (q @ k.mT) @ v * scale


@kernel("test_plain", mixing=_map)
def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Without a fast path."""
    return (q @ k.mT) @ v


def _forward(q, k, v, scale):
    return (q @ k.mT) @ v * scale, (q @ k.mT,)


def _backward(g, out, saved, needs, q, k, v, scale):
    grads = {"q": g @ v.mT @ k, "k": (g @ v.mT).mT @ q, "v": saved[0].mT @ g}
    return {name: grads[name] * scale for name in needs}


@pytest.fixture
def fast(monkeypatch):
    """A stand-in for a Triton module, on CPU tensors."""
    monkeypatch.setenv("LIMELIGHT_KERNELS", "triton")
    monkeypatch.setattr(core, "interpreted", lambda: True)
    monkeypatch.setattr(core, "_installed", lambda: True)
    module = SimpleNamespace(can_run=lambda **_: None, forward=_forward, backward=_backward)
    monkeypatch.setattr(core, "fast_module", lambda op: module)
    return module


@pytest.fixture
def qkv():
    torch.manual_seed(0)
    return [torch.randn(2, 3, 5, 4, requires_grad=True) for _ in range(3)]


def test_the_fast_path_runs_and_differentiates(fast, qkv):
    out = linear_attention(*qkv, scale=2.0)
    assert out.grad_fn.name() == "_LaunchBackward"
    got = torch.autograd.grad(out.square().sum(), qkv)
    want = torch.autograd.grad(linear_attention.reference(*qkv, scale=2.0).square().sum(), qkv)
    torch.testing.assert_close(got, want)


def test_without_a_backward_kernel_gradients_come_from_the_reference(fast, qkv):
    del fast.backward
    got = torch.autograd.grad(linear_attention(*qkv).sum(), qkv)
    want = torch.autograd.grad(linear_attention.reference(*qkv).sum(), qkv)
    torch.testing.assert_close(got, want)


def test_a_second_derivative_takes_the_reference(fast, qkv):
    q, k, v = (x.double().detach().requires_grad_() for x in qkv)
    fast.can_run = lambda **_: None
    q, k, v = (x.float().detach().requires_grad_() for x in (q, k, v))
    (first,) = torch.autograd.grad(linear_attention(q, k, v).pow(3).sum(), q, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), k)
    (one,) = torch.autograd.grad(
        linear_attention.reference(q, k, v).pow(3).sum(), q, create_graph=True
    )
    (two,) = torch.autograd.grad(one.square().sum(), k)
    torch.testing.assert_close(second, two)


def test_one_tensor_given_thrice_gets_each_gradient_once(fast):
    x = torch.randn(1, 1, 4, 3, requires_grad=True)
    for run in (linear_attention, linear_attention.reference):
        (grad,) = torch.autograd.grad(run(x, x, x).sum(), x, create_graph=True)
        if run is linear_attention:
            first = grad
    torch.testing.assert_close(first, grad)


def test_only_needed_gradients_are_asked_for(fast, qkv):
    asked = []

    def backward(g, out, saved, needs, **named):
        asked.append(needs)
        return _backward(g, out, saved, needs, **named)

    fast.backward = backward
    q, k, v = qkv
    linear_attention(q.detach(), k, v.detach()).sum().backward()
    assert asked == [{"k"}]


@pytest.mark.parametrize("word", ["auto", "reference"])
def test_cpu_tensors_take_the_reference(monkeypatch, qkv, word):
    monkeypatch.setenv("LIMELIGHT_KERNELS", word)
    choice = linear_attention.why(*qkv)
    assert choice.path == "reference"
    assert list(choice.against) == ["triton"]
    assert linear_attention(*qkv).grad_fn.name() != "_LaunchBackward"


def test_why_tells_each_reason(fast, monkeypatch, qkv):
    assert str(linear_attention.why(*qkv)) == "triton"
    assert str(plain.why(*qkv)) == "reference; not triton: there is none"
    monkeypatch.setenv("LIMELIGHT_KERNELS", "auto")
    assert "tensors lie on cpu" in str(linear_attention.why(*qkv))
    monkeypatch.setenv("LIMELIGHT_KERNELS", "reference")
    assert "LIMELIGHT_KERNELS=reference" in str(linear_attention.why(*qkv))


def test_a_demanded_path_that_cannot_run_says_why(fast, qkv):
    with pytest.raises(KernelError, match=r"float64.*set LIMELIGHT_KERNELS=auto"):
        linear_attention(*(x.double() for x in qkv))
    fast.can_run = lambda **_: "heads of 3 are odd"
    with pytest.raises(KernelError, match="heads of 3 are odd"):
        linear_attention(*qkv)


def test_without_triton_the_reference_runs(fast, monkeypatch, qkv):
    monkeypatch.setattr(core, "_installed", lambda: False)
    with pytest.raises(KernelError, match="triton is not installed"):
        linear_attention(*qkv)
    monkeypatch.setenv("LIMELIGHT_KERNELS", "auto")
    assert "triton is not installed" in str(linear_attention.why(*qkv))


def test_an_unknown_word_is_refused(monkeypatch, qkv):
    monkeypatch.setenv("LIMELIGHT_KERNELS", "fast")
    with pytest.raises(KernelError, match="auto, triton, reference"):
        linear_attention(*qkv)
    assert issubclass(KernelError, LimelightError)


def test_an_op_is_a_plain_picklable_function(qkv):
    again = pickle.loads(pickle.dumps(linear_attention))
    assert again is linear_attention
    assert linear_attention.__doc__ == "scale q k' v."


def test_a_mode_sees_one_op(qkv):
    seen = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with Watch():
        linear_attention(*qkv, scale=0.5)
    assert seen == [linear_attention]


def test_compiling_keeps_one_graph(qkv):
    torch.compiler.reset()
    compiled = torch.compile(linear_attention, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*qkv, scale=0.5), linear_attention(*qkv, scale=0.5))


def test_a_name_belongs_to_one_module():
    with pytest.raises(KernelError, match="registered twice"):
        kernel("test_linear", mixing=torch.matmul)(lambda q: q)
    assert FACES["test_linear"].share == ("q", "k", "v")
