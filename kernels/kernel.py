"""A token mixer under one name: the call, its torch reference, its relevance, its mixing map."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, wraps
from importlib import import_module
from importlib.util import find_spec
from inspect import Signature, signature
from types import ModuleType
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from .errors import KernelError

SWITCH = "LIMELIGHT_KERNELS"
WORDS = ("auto", "triton", "reference")

Mixing = Callable[..., Tensor]


@dataclass(frozen=True)
class Face:
    """What the probe reads of an op.

    share    arguments among which relevance is shared equally; the result is linear in each
    hold     arguments that are held: maps, gates, weights
    values   the argument that the mixing map multiplies: result = map @ values
    mixing   mixing(rows, **arguments) -> those rows (a slice) of the map, `b h r m`
    opaque   False lets relevance go by the rules of the ops inside the reference instead
    """

    name: str
    share: tuple[str, ...]
    hold: tuple[str, ...]
    values: str
    mixing: Mixing | None
    opaque: bool = True


@dataclass(frozen=True)
class Choice:
    """Which path a call takes, and for every other path the reason against it."""

    path: str
    against: Mapping[str, str]

    def __str__(self) -> str:
        told = "".join(f"; not {path}: {reason}" for path, reason in self.against.items())
        return self.path + told


class Kernel(Protocol):
    """An op: a plain function that also tells its face, its reference and its choice of path."""

    face: Face
    signature: Signature
    reference: Callable[..., Tensor]
    fast: str

    why: Callable[..., Choice]

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor: ...


FACES: dict[str, Face] = {}


def kernel(
    name: str,
    *,
    share: tuple[str, ...] = ("v",),
    hold: tuple[str, ...] = (),
    values: str = "v",
    mixing: Mixing | None = None,
    opaque: bool = True,
    fast: str = "",
) -> Callable[[Callable[..., Tensor]], Kernel]:
    """Make the torch reference below an op that a probe sees as one.

    fast   the module beside the reference with the Triton path, "" where there is none. It has
           `can_run(**arguments) -> str | None`   None, or the reason why not
           `forward(**arguments) -> (out, saved)`  saved: tensors for the backward
           `backward(g, out, saved, needs, **arguments) -> dict`  gradients of the arguments named
           in `needs`; without it gradients come from the reference
    Raises KernelError when the name is taken by another module.
    """
    face = Face(name, share, hold, values, mixing, opaque)

    def make(reference: Callable[..., Tensor]) -> Kernel:
        @wraps(reference)
        def op(*args: Any, **kwargs: Any) -> Tensor:
            if not torch.compiler.is_compiling():
                given = _tensors(args, kwargs)
                if has_torch_function(given):
                    return handle_torch_function(op, given, *args, **kwargs)
            if _plainly_reference(fast, args, kwargs):
                return reference(*args, **kwargs)
            named = _bound(own, args, kwargs)
            choice = _choose(own, named)
            return reference(**named) if choice.path == "reference" else _launch(own, named)

        own = cast(Kernel, op)
        own.face, own.reference, own.signature = face, reference, signature(reference)
        own.fast = fast
        own.why = lambda *a, **k: _choose(own, _bound(own, a, k))
        held = FACES.setdefault(name, face)
        if held is not face and _home(held) != _home(face):
            raise KernelError(f"kernel {name!r} is registered twice: give one another name")
        return own

    return make


def _home(face: Face) -> str:
    return getattr(face.mixing, "__module__", "")


def _tensors(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, ...]:
    return tuple(x for x in (*args, *kwargs.values()) if isinstance(x, Tensor))


def _bound(op: Kernel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    call = op.signature.bind(*args, **kwargs)
    call.apply_defaults()
    return dict(call.arguments)


def _word() -> str:
    word = os.environ.get(SWITCH, "auto") or "auto"
    if word not in WORDS:
        raise KernelError(f"{SWITCH}={word!r} is no choice of kernels; write {', '.join(WORDS)}")
    return word


def _plainly_reference(fast: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether the reference runs, as far as that can be told without binding arguments."""
    word = _word()
    if not fast or word == "reference":
        return True
    return word == "auto" and not any(x.is_cuda for x in _tensors(args, kwargs))


def _choose(op: Kernel, named: Mapping[str, Any]) -> Choice:
    """The path of a call. Raises KernelError where triton is demanded and cannot run."""
    word = _word()
    reason = _against(op, named, forced=word == "triton")
    if word == "reference":
        reason = f"{SWITCH}=reference"
    if reason is None:
        return Choice("triton", {})
    if word == "triton" and op.fast:
        raise KernelError(
            f"{SWITCH}=triton, but {op.face.name} cannot run on Triton: {reason}; "
            f"set {SWITCH}=auto to take the torch reference there"
        )
    return Choice("reference", {"triton": reason})


def _against(op: Kernel, named: Mapping[str, Any], *, forced: bool) -> str | None:
    """Why the Triton path cannot run; None where it can."""
    given = _tensors((), named)
    if not op.fast:
        return "there is none"
    if not _installed():
        return "triton is not installed"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "a torch.func transform is active"
    if not all(x.is_cuda for x in given) and not (forced and interpreted()):
        return "tensors lie on " + ", ".join(sorted({x.device.type for x in given}))
    wide = {x.dtype for x in given if x.is_floating_point()} - {
        torch.float32,
        torch.float16,
        torch.bfloat16,
    }
    if wide:
        return "no kernel for " + ", ".join(sorted(map(str, wide)))
    return fast_module(op).can_run(**named)


@cache
def _installed() -> bool:
    """Whether there is Triton; looked up once, calls are many."""
    return find_spec("triton") is not None


def interpreted() -> bool:
    """Whether Triton runs in its interpreter (TRITON_INTERPRET=1), on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def fast_module(op: Kernel) -> ModuleType:
    """The module with the op's Triton path."""
    return import_module(f".{op.fast}", op.reference.__module__.rpartition(".")[0])


def _launch(op: Kernel, named: dict[str, Any]) -> Tensor:
    names = tuple(n for n, x in named.items() if isinstance(x, Tensor))
    rest = {n: x for n, x in named.items() if n not in names}
    return _Launch.apply(op, names, rest, *(named[n] for n in names))


class _Launch(torch.autograd.Function):
    """A Triton forward and backward as one autograd node."""

    @staticmethod
    def forward(ctx: Any, op: Kernel, names: tuple[str, ...], rest: dict, *given: Tensor) -> Tensor:
        with _place(given):
            out, saved = fast_module(op).forward(**dict(zip(names, given, strict=True)), **rest)
        ctx.op, ctx.names, ctx.rest = op, names, rest
        ctx.save_for_backward(*given, out, *saved)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        kept, count = ctx.saved_tensors, len(ctx.names)
        named = dict(zip(ctx.names, kept[:count], strict=True))
        flags = zip(ctx.names, ctx.needs_input_grad[3:], strict=True)
        needs = {name for name, needed in flags if needed}
        back = getattr(fast_module(ctx.op), "backward", None)
        if back is None or torch.is_grad_enabled():
            found = _by_reference(ctx.op, named, ctx.rest, needs, grads[0])
        else:
            with _place(kept):
                found = back(grads[0], kept[count], kept[count + 1 :], needs, **named, **ctx.rest)
        return (None, None, None, *(found.get(name) for name in ctx.names))


def _place(given: tuple[Tensor, ...]) -> AbstractContextManager[Any]:
    """The device of the tensors as the current one, which is where Triton launches."""
    return torch.cuda.device_of(given[0]) if given[0].is_cuda else nullcontext()


def _by_reference(
    op: Kernel, named: dict[str, Tensor], rest: dict, needs: set[str], g: Tensor
) -> dict[str, Tensor]:
    """Gradients by running the reference again; differentiable once more where asked."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        own = {  # apart even where one tensor was given twice
            n: x.view_as(x) if again else x.detach().requires_grad_(n in needs)
            for n, x in named.items()
        }
        wanted = [n for n in own if n in needs]
        out = op.reference(**own, **rest)
        found = torch.autograd.grad(
            out, [own[n] for n in wanted], g, create_graph=again, allow_unused=True
        )
    return {n: x for n, x in zip(wanted, found, strict=True) if x is not None}
