"""What a probe changes about a model while it is open, and how every bit of it is put back."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from threading import Lock
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction

from ..errors import ProbeError
from ..sites import tree_of
from .undo import Undo

_CHECKPOINT_SWITCHES = (
    "grad_checkpointing",
    "gradient_checkpointing",
    "memory_efficient",
    "use_checkpoint",
    "with_cp",
)


def guarded(model: nn.Module, *, grad: bool, evaluate: bool) -> Undo:
    """Freeze weights, switch to eval mode and checkpointing off; closing what it returns restores.

    `with guarded(model, grad=True, evaluate=True): ...`
    """
    undo = Undo()
    try:
        prepare(model, tree_of(model).modules, undo, grad=grad, evaluate=evaluate)
    except BaseException:
        undo.close()
        raise
    return undo


class NotCopied:
    """What lies in a module while a probe holds it, so that no copy of its state is made."""

    __slots__ = ()

    def __reduce__(self) -> NoReturn:
        """Raise ProbeError: this is copied and pickled with the module."""
        raise ProbeError(
            "this model cannot be copied or pickled inside a probe: the copy would keep frozen "
            "weights, eval mode and the probe's hooks; leave the `with` first, then copy it"
        )


_MARK, _NOT_COPIED = "_open_probe", NotCopied()


def prepare(
    model: nn.Module, modules: Iterable[nn.Module], undo: Undo, *, grad: bool, evaluate: bool
) -> None:
    """Do what `guarded` does to a model and all its modules, on top of other changes."""
    if grad:
        _freeze(model, _weights(model, modules), undo)
    marked: list[dict[str, object]] = []
    undo.note(_unmark, marked)
    for module in modules:
        state = vars(module)
        trains = evaluate and getattr(module, "training", False)  # a frozen script has no mode
        if _MARK not in state and (trains or (grad and module._parameters)):
            marked.append(state)
            state[_MARK] = _NOT_COPIED
        if trains:
            undo.note(setattr, module, "training", True)
            module.training = False
        for switch in () if state.keys().isdisjoint(_CHECKPOINT_SWITCHES) else _CHECKPOINT_SWITCHES:
            if state.get(switch) is True:
                undo.note(setattr, module, switch, True)
                setattr(module, switch, False)


def _unmark(marked: list[dict[str, object]]) -> None:
    for state in marked:
        state.pop(_MARK, None)


def keep_hooks(modules: Iterable[nn.Module], undo: Undo) -> None:
    """Take off what is hooked to modules from now on, by whomever."""
    for module in modules:
        for name, table in vars(module).items():
            if isinstance(table, dict) and "_hooks" in name:
                undo.note(_put_back, table, dict(table))


def _put_back(table: dict[object, object], before: dict[object, object]) -> None:
    table.clear()
    table.update(before)


def _weights(model: nn.Module, modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """The parameters that are trained. Raises ProbeError where gradients cannot take part."""
    trained: dict[nn.Parameter, None] = {}
    for module in modules:
        for parameter in module._parameters.values():
            if parameter is not None and parameter.requires_grad:
                trained[parameter] = None
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None and tensor.is_inference():
                raise _inference(model, tensor)
    return list(trained)


def _freeze(model: nn.Module, trained: Sequence[nn.Parameter], undo: Undo) -> None:
    def thaw() -> None:
        for parameter in trained:
            parameter.requires_grad_(True)

    undo.note(thaw)
    for parameter in trained:
        parameter.requires_grad_(False)


def _inference(model: nn.Module, tensor: Tensor) -> ProbeError:
    named = (*model.named_parameters(), *model.named_buffers())
    name = next(n for n, t in named if t is tensor)
    return ProbeError(
        f"weight {name!r} was made in torch.inference_mode() and can take part in no "
        "gradient; build or load the model outside it, or probe with grad=False"
    )


def refuse_checkpoint(place: str) -> None:
    """Raise ProbeError: `place` runs a part that its backward will compute again."""
    raise ProbeError(
        f"{place} runs under saved-tensor hooks (torch.utils.checkpoint or offloading), whose "
        "recomputation the probe cannot follow; switch checkpointing off in the model, or probe "
        "with grad=False"
    )


def refuse_reentrant(place: str) -> None:
    """Raise ProbeError inside a reentrant checkpoint, whose forward looks like plain no_grad."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code is CheckpointFunction.forward.__code__:
            refuse_checkpoint(place)
        frame = frame.f_back  # type: ignore[assignment]


class _EagerForwards:
    """The forwards that want compiled code run as written: the switch is the whole process's.

    The first turns it and the last one turns it back, in whatever order threads leave.
    """

    def __init__(self) -> None:
        self.lock, self.stance = Lock(), ExitStack()
        self.running: set[object] = set()

    def enter(self, forward: object) -> None:
        with self.lock:
            if not self.running:
                self.stance.enter_context(torch.compiler.set_stance("force_eager"))
            self.running.add(forward)

    def leave(self, forward: object) -> None:
        with self.lock:
            self.running.discard(forward)
            if not self.running:
                self.stance.close()


_forwards = _EagerForwards()


def run_eagerly(undo: Undo) -> None:
    """Run compiled code as written, so that hooks and marks inside it fire."""
    if "torch._dynamo" in sys.modules:  # else nothing can have been compiled
        undo.note(_forwards.leave, undo)
        _forwards.enter(undo)
