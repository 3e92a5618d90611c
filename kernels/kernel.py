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
CHOICES = ("auto", "triton", "reference")

Mixing = Callable[..., Tensor]


@dataclass(frozen=True)
class Face:
    """What the probe reads of an op.

    share    arguments among which relevance is shared equally; the result is linear in each
    hold     arguments that are held: maps, gates, weights
    values   the argument that the mixing map multiplies: result = map @ values
    mixing   mixing(rows, **arguments) -> those rows (a slice) of the map, `b h r m`
    opaque   False lets relevance go by the rules of the ops inside the reference instead
    entrywise  each entry of the map comes from one score, but for its row's sum as of softmax, so
             that relevance may step from an entry to its score; else the map is held there too
    pooled   the arguments that say, each as rows and columns, the grid of the first keys and that
             of the pooled keys behind them; () where keys are of one kind
    """

    name: str
    share: tuple[str, ...]
    hold: tuple[str, ...]
    values: str
    mixing: Mixing | None
    opaque: bool = True
    entrywise: bool = True
    pooled: tuple[str, ...] = ()


@dataclass(frozen=True)
class Choice:
    """Which path a call takes, and for every other path the reason against it."""

    path: str
    against: Mapping[str, str]

    def __str__(self) -> str:
        reasons = "".join(f"; not {path}: {reason}" for path, reason in self.against.items())
        return self.path + reasons


class KernelOp(Protocol):
    """A plain function that also has its face, its reference and its choice of path."""

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
    entrywise: bool = True,
    pooled: tuple[str, ...] = (),
    fast: str = "",
) -> Callable[[Callable[..., Tensor]], KernelOp]:
    """Make the torch reference below an op that a probe sees as one.

        @kernel("outlook", share=("v",), hold=("weight",), mixing=outlook_map, fast="triton_op")
        def outlook(v: Tensor, weight: Tensor, *, grid: tuple[int, int]) -> Tensor:
            ...

    The reference is what the op is: torch operations that differentiate as often as one likes,
    under vmap and torch.compile too; it raises KernelError for arguments that do not fit.
    share, hold, values, mixing, opaque, entrywise   what relevance needs to know, see Face
    pooled   how keys of two kinds lie, see Face
    fast   the module beside the reference with the Triton path, "" where there is none. It has
           `can_run(**arguments) -> str | None`   None, or the reason why not
           `forward(**arguments) -> (out, saved)`  saved: tensors for the backward
           `backward(g, out, saved, needs, **arguments) -> dict`  gradients of the arguments named
           in `needs`; without it gradients come from the reference
    On a GPU calls take it where it can run; LIMELIGHT_KERNELS=triton or reference decides instead.
    `op.why(*args)` says which path a call takes and why not the other.
    Raises KernelError when the name is taken by another module.
    """
    face = Face(name, share, hold, values, mixing, opaque, entrywise, pooled)

    def make(reference: Callable[..., Tensor]) -> KernelOp:
        @wraps(reference)
        def call(*args: Any, **kwargs: Any) -> Tensor:
            if not torch.compiler.is_compiling():
                tensors = _tensors(args, kwargs)
                if has_torch_function(tensors):
                    out: Tensor = handle_torch_function(call, tensors, *args, **kwargs)
                    return out
            if _plainly_reference(fast, args, kwargs):
                return reference(*args, **kwargs)
            arguments = _bound(op, args, kwargs)
            choice = _choose(op, arguments)
            return reference(**arguments) if choice.path == "reference" else _launch(op, arguments)

        op = cast(KernelOp, call)
        op.face, op.reference, op.signature = face, reference, signature(reference)
        op.fast = fast
        op.why = lambda *args, **kwargs: _choose(op, _bound(op, args, kwargs))
        registered = FACES.setdefault(name, face)
        if registered is not face and _home(registered) != _home(face):
            raise KernelError(f"kernel {name!r} is registered twice: give one another name")
        return op

    return make


def _home(face: Face) -> str:
    return getattr(face.mixing, "__module__", "")


def _tensors(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, ...]:
    return tuple(x for x in (*args, *kwargs.values()) if isinstance(x, Tensor))


def _bound(op: KernelOp, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    call = op.signature.bind(*args, **kwargs)
    call.apply_defaults()
    return dict(call.arguments)


def _switch() -> str:
    choice = os.environ.get(SWITCH, "auto") or "auto"
    if choice not in CHOICES:
        raise KernelError(
            f"{SWITCH}={choice!r} is no choice of kernels; write {', '.join(CHOICES)}"
        )
    return choice


def _plainly_reference(fast: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether the reference runs, as far as that can be told without binding arguments."""
    switch = _switch()
    if not fast or switch == "reference":
        return True
    return switch == "auto" and not any(x.is_cuda for x in _tensors(args, kwargs))


def _choose(op: KernelOp, arguments: Mapping[str, Any]) -> Choice:
    """The path of a call. Raises KernelError where triton is demanded and cannot run."""
    switch = _switch()
    reason = _against(op, arguments, forced=switch == "triton")
    if switch == "reference":
        reason = f"{SWITCH}=reference"
    if reason is None:
        return Choice("triton", {})
    if switch == "triton" and op.fast:
        raise KernelError(
            f"{SWITCH}=triton, but {op.face.name} cannot run on Triton: {reason}; "
            f"set {SWITCH}=auto to take the torch reference there"
        )
    return Choice("reference", {"triton": reason})


def _against(op: KernelOp, arguments: Mapping[str, Any], *, forced: bool) -> str | None:
    """Why the Triton path cannot run; None where it can."""
    tensors = _tensors((), arguments)
    if not op.fast:
        return "there is none"
    if not _installed():
        return "triton is not installed"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "a torch.func transform is active"
    if not all(x.is_cuda for x in tensors) and not (forced and interpreted()):
        return "tensors lie on " + ", ".join(sorted({x.device.type for x in tensors}))
    dtypes = {x.dtype for x in tensors if x.is_floating_point()}
    unknown = dtypes - {torch.float32, torch.float16, torch.bfloat16}
    if unknown:
        return "no kernel for " + ", ".join(sorted(map(str, unknown)))
    reason: str | None = fast_module(op).can_run(**arguments)
    return reason


@cache
def _installed() -> bool:
    """Whether there is Triton; looked up once, calls are many."""
    return find_spec("triton") is not None


def interpreted() -> bool:
    """Whether Triton runs in its interpreter (TRITON_INTERPRET=1), on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")


def fast_module(op: KernelOp) -> ModuleType:
    """The module with the op's Triton path."""
    return import_module(f".{op.fast}", op.reference.__module__.rpartition(".")[0])


def _launch(op: KernelOp, arguments: dict[str, Any]) -> Tensor:
    tensors = {name: x for name, x in arguments.items() if isinstance(x, Tensor)}
    options = {name: x for name, x in arguments.items() if name not in tensors}
    node = cast(Callable[..., Tensor], _Launch.apply)
    return node(op, tuple(tensors), options, *tensors.values())


class _Launch(torch.autograd.Function):
    """A Triton forward and backward as one autograd node."""

    @staticmethod
    def forward(
        ctx: Any, op: KernelOp, names: tuple[str, ...], options: dict[str, Any], *tensors: Tensor
    ) -> Tensor:
        arguments = dict(zip(names, tensors, strict=True)) | options
        with _place(tensors):
            out: Tensor
            out, saved = fast_module(op).forward(**arguments)
        ctx.op, ctx.names, ctx.options = op, names, options
        ctx.save_for_backward(*tensors, out, *saved)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        saved, count = ctx.saved_tensors, len(ctx.names)
        tensors = dict(zip(ctx.names, saved[:count], strict=True))
        flags = zip(ctx.names, ctx.needs_input_grad[3:], strict=True)
        needs = {name for name, needed in flags if needed}
        back = getattr(fast_module(ctx.op), "backward", None)
        if back is None or torch.is_grad_enabled():
            slopes = _by_reference(ctx.op, tensors, ctx.options, needs, grads[0])
        else:
            rest = saved[count], saved[count + 1 :], needs
            with _place(saved):
                slopes = back(grads[0], *rest, **tensors, **ctx.options)
        return (None, None, None, *(slopes.get(name) for name in ctx.names))


def _place(tensors: tuple[Tensor, ...]) -> AbstractContextManager[Any]:
    """The device of the tensors as the current one, which is where Triton launches."""
    if not tensors[0].is_cuda:
        return nullcontext()
    device_of = cast(Callable[[Tensor], AbstractContextManager[Any]], torch.cuda.device_of)
    return device_of(tensors[0])


def _by_reference(
    op: KernelOp, tensors: dict[str, Tensor], options: dict[str, Any], needs: set[str], g: Tensor
) -> dict[str, Tensor]:
    """Gradients by running the reference again; differentiable once more where asked."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        leaves = {  # apart even where one tensor was given twice
            n: x.view_as(x) if again else x.detach().requires_grad_(n in needs)
            for n, x in tensors.items()
        }
        wanted = [n for n in leaves if n in needs]
        out = op.reference(**leaves, **options)
        grads = torch.autograd.grad(
            out, [leaves[n] for n in wanted], g, create_graph=again, allow_unused=True
        )
    return {n: x for n, x in zip(wanted, grads, strict=True) if x is not None}
