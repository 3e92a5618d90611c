"""What a probe changes about a model while it is open, and how every bit of it is put back."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointFunction

from ..errors import ProbeError

_CHECKPOINT_SWITCHES = (
    "grad_checkpointing",
    "gradient_checkpointing",
    "memory_efficient",
    "use_checkpoint",
    "with_cp",
)


def guarded(model: nn.Module, *, grad: bool, evaluate: bool) -> ExitStack:
    """Freeze weights, switch to eval mode and checkpointing off; closing the stack restores all."""
    with ExitStack() as stack:
        if grad:
            _refuse_inference(model)
            _freeze(model, stack)
        for module in model.modules():
            if evaluate and module.training:
                stack.callback(setattr, module, "training", True)
                module.training = False
            state = vars(module)
            for switch in _CHECKPOINT_SWITCHES:
                if state.get(switch) is True:
                    stack.callback(setattr, module, switch, True)
                    setattr(module, switch, False)
        return stack.pop_all()


def _freeze(model: nn.Module, stack: ExitStack) -> None:
    thawed = [p for p in model.parameters() if p.requires_grad]

    def thaw() -> None:
        for parameter in thawed:
            parameter.requires_grad_(True)

    for parameter in thawed:
        parameter.requires_grad_(False)
    stack.callback(thaw)


def _refuse_inference(model: nn.Module) -> None:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_inference():
            raise ProbeError(
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


@contextmanager
def eager() -> Iterator[None]:
    """Run compiled code as written, so that hooks and marks inside it fire."""
    if "torch._dynamo" not in sys.modules:
        yield  # nothing can have been compiled
        return
    with torch.compiler.set_stance("force_eager"):
        yield
