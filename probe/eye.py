"""The mode that sees every torch call of a forward: names, claims, captures and edits it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from .errors import ProbeError
from .mark import mark
from .ops import Op, describe, rectifies, tensors
from .recording import Recording, Stop
from .site import Site
from .tape import OpRecord
from .trace import Hole

_ops: dict[Any, Op | None] = {}
_NEW = object()

Special = Callable[["Eye", Op, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
SPECIAL: dict[str, Special] = {}


class Eye(TorchFunctionMode):
    """Active only while a probe runs its model, in the thread that runs it."""

    def __init__(self, recording: Recording) -> None:
        super().__init__()
        self.recording = recording
        self.lean = not recording.grad and not recording.inside
        self.hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        op: Any = _ops.get(func, _NEW)
        if op is _NEW:
            op = _ops[func] = describe(func)
        if op is None:
            return func(*args, **(kwargs or {}))
        if self.recording.stopped:
            raise Stop
        if func is mark:
            return self._mark(*args)
        kwargs = kwargs or {}
        if self.lean:
            if op.inplace or op.switch is not None or "out" in kwargs:
                return self._overwrite(op, func, args, kwargs)
            return func(*args, **kwargs)
        if torch._C._functorch.peek_interpreter_stack() is not None:
            return func(*args, **kwargs)
        special = SPECIAL.get(op.name)
        return (
            self.call(op, func, args, kwargs)
            if special is None
            else special(self, op, func, args, kwargs)
        )

    def call(self, op: Op, func: Any, args: Any, kwargs: Any, port: str = "") -> Any:
        """Run one op: claim its nodes, then show its result under its site."""
        recording = self.recording
        frame = recording.frames[-1]
        number = frame.counts[op.name]
        frame.counts[op.name] = number + 1
        before = self._before(op, args, kwargs) if recording.grad else set()
        out = self._overwrite(op, func, args, kwargs)
        if recording.grad:
            self._claim(op, args, kwargs, out, before, f"{op.name}.{number} in {recording.place}")
        result = args[0] if out is None and op.name == "setitem" else out
        if recording.inside and isinstance(result, Tensor):
            recording.seen.add(Site(frame.path, f"{op.name}.{number}", frame.call))
            new = recording.visit(frame.path, port or f"{op.name}.{number}", frame.call, result)
            if new is not result:
                return self._put_back(op, args, kwargs, out, result, new)
        return out

    def _put_back(self, op: Op, args: Any, kwargs: Any, out: Any, old: Tensor, new: Tensor) -> Any:
        """An edited result; written into the old one where the op worked in place."""
        if op.overwrites(args, kwargs) or "out" in kwargs:
            before = {n for n in (old.grad_fn, new.grad_fn) if n is not None}
            old.copy_(new)
            self.recording.tape.claim([old], before, "an edit in place")
            return out
        return new

    def _before(self, op: Op, args: Any, kwargs: Any) -> set[Node]:
        inputs = tensors(args) + tensors(kwargs)
        if not torch.is_grad_enabled() and any(t.requires_grad for t in inputs):
            self._hole(f"no_grad around {op.name}")
        if torch._C._autograd._top_saved_tensors_default_hooks(False) != self.hooks:
            self._refuse_checkpoint()
        nodes = {t.grad_fn for t in inputs}
        if op.inplace or op.switch is not None:
            nodes |= {t._base.grad_fn for t in inputs if t._base is not None}
        nodes.discard(None)
        return nodes  # type: ignore[return-value]

    def _refuse_checkpoint(self) -> None:
        raise ProbeError(
            f"{self.recording.place} runs under saved-tensor hooks (torch.utils.checkpoint or "
            "offloading), whose recomputation the probe cannot follow; switch checkpointing off "
            "in the model, or probe with grad=False"
        )

    def _claim(
        self, op: Op, args: Any, kwargs: Any, out: Any, before: set[Node], place: str
    ) -> None:
        outputs = tensors(out) if out is not None else tensors(args[:1])
        nodes = self.recording.tape.claim(outputs, before, place)
        if nodes:
            record = OpRecord(op.name, place, nodes, rectifies(op, args, kwargs))
            self.recording.tape.ops.append(record)

    def _hole(self, what: str) -> None:
        hole = Hole(what, self.recording.place)
        if hole not in self.recording.trace.holes:
            self.recording.trace.holes.append(hole)

    def _overwrite(self, op: Op, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an op; if it writes in place, save captured values first."""
        target = kwargs.get("out")
        if target is None and op.overwrites(args, kwargs) and args:
            target = args[0]
        if not isinstance(target, Tensor) or not self.recording.about_to_overwrite(target):
            return func(*args, **kwargs)
        twin = target.clone()
        out = func(twin, *args[1:], **kwargs)
        target.copy_(out if isinstance(out, Tensor) else twin)
        return None if out is None else target

    def _mark(self, name: str, x: Tensor) -> Tensor:
        recording = self.recording
        if self.lean:
            return x
        path = recording.frames[-1].path
        return recording.visit(path, name, recording.count(path, name), x)
