"""The mode that sees every torch call of a forward: names, claims, captures and edits it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from ..mark import mark
from ..ops import Op, OpCall, OpInput, describe, rectifies, spec_of, tensors
from ..sites import Site
from ..trace import Hole
from .ids import follow
from .model_state import refuse_checkpoint, refuse_reentrant
from .recording import Recording, Stop

_ops: dict[Any, Op | None] = {}
_NEW = object()
_UNPACKED = 9  # arguments of a recurrent layer on padded sequences, batch_first the last of them
_transforms = torch._C._functorch.peek_interpreter_stack

OpHandler = Callable[["OpMode", Op, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class OpMode(TorchFunctionMode):
    """Active only while a probe runs its model, in the thread that runs it.

    handlers: by op name, what runs in place of ops that are more than one value to see
    """

    def __init__(self, recording: Recording, handlers: Mapping[str, OpHandler]) -> None:
        super().__init__()
        self.recording, self.handlers = recording, handlers
        self.lean = recording.lean
        self.hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)

    def __enter__(self) -> OpMode:
        self.depth = torch._C._len_torch_function_stack()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *_: object) -> None:
        """Off the stack, also where an interrupt left torch without it while it handled an op."""
        while torch._C._len_torch_function_stack() > self.depth:
            torch._C._pop_torch_function_stack()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        op: Any = _ops.get(func, _NEW)
        if op is _NEW:
            op = _ops[func] = describe(func)
        if op is None:
            return func(*args, **(kwargs or {}))
        if self.recording.stopped:
            raise Stop
        kwargs = kwargs or {}
        if self.lean and not (op.inplace or op.switch is not None or "out" in kwargs):
            return func(*args, **kwargs)
        if func is mark:
            return self._mark(*args)
        if _transforms() is not None:
            return func(*args, **kwargs)
        if self.lean:
            self._protect(op, args, kwargs)
            return func(*args, **kwargs)
        handler = self.handlers.get("kernel" if op.kernel else op.name)
        if handler is None:
            out = self.call(op, func, args, kwargs)
        else:
            out = handler(self, op, func, args, kwargs)
        if self.recording.tokens:
            follow(self.recording, op, args, kwargs, out)
        return out

    def call(self, op: Op, func: Any, args: Any, kwargs: Any, port: str = "") -> Any:
        """Run one op: claim its nodes, then show its result under its site."""
        recording = self.recording
        frame = recording.frames[-1]
        number = frame.counts[op.name]
        frame.counts[op.name] = number + 1
        if recording.grad:
            out = self._run(op, func, args, kwargs, f"{op.name}.{number} in {recording.place}")
        else:
            self._protect(op, args, kwargs)
            out = func(*args, **kwargs)
        result = args[0] if out is None and op.name == "setitem" else out
        if recording.inside and isinstance(result, Tensor):
            recording.seen.add(Site(frame.path, f"{op.name}.{number}", frame.call))
            new = recording.visit(frame.path, port or f"{op.name}.{number}", frame.call, result)
            if new is not result:
                return self._put_back(op, args, kwargs, out, result, new)
        return out

    def tell(self, x: Tensor, axes: str, op: str) -> None:
        """Note what an op takes the dimensions of a tensor for, which its arguments say."""
        names = axes.split()
        if x.grad_fn is not None and x.ndim == len(names):
            self.recording.axes.reading.tell((x.grad_fn, x.output_nr), names, op)

    def _put_back(self, op: Op, args: Any, kwargs: Any, out: Any, old: Tensor, new: Tensor) -> Any:
        """An edited result; written into the old one where the op worked in place."""
        if op.targets(args, kwargs):
            before = {n for n in (old.grad_fn, new.grad_fn) if n is not None}
            old.copy_(new)
            self.recording.tape.claim([old], before, "an edit in place")
            return out
        return new

    def _run(self, op: Op, func: Any, args: Any, kwargs: Any, place: str) -> Any:
        """Run an op where a graph is built, and book the nodes it makes."""
        before, tape = self._before(op, args, kwargs, place), self.recording.tape
        call = self._keep(op, args, kwargs)
        lost = self._protect(op, args, kwargs)
        rectifying = rectifies(op, args, kwargs)
        ruled = rectifying or call is not None
        for target in op.targets(args, kwargs) if ruled else ():
            lost = target if target._is_view() else lost
        if lost is None or spec_of(op.name).reshapes or "out" in kwargs:
            out = func(*args, **kwargs)
            results = tensors(out if out is not None else args[:1])
            nodes = tape.claim(results, before, place)
            tape.record(op.name, place, nodes, rectifying, self._with_result(call, results))
            if before and any(x.is_quantized for x in results):
                self._hole(f"{op.name}, a quantised op without a gradient,")
            return out
        twin = lost.clone()
        tape.claim([twin], before, place)
        if call is not None:
            call.reroute(lost, twin)
        given = kwargs if args else {**kwargs, "input": twin}
        out = func(*(twin, *args[1:])[: len(args)], **given)
        nodes = tape.claim([twin], before, place)
        tape.record(op.name, place, nodes, rectifying, self._with_result(call, [twin]))
        lost.copy_(twin)
        tape.claim([lost], before, place)
        return None if out is None else lost

    def _keep(self, op: Op, args: Any, kwargs: Any) -> OpCall | None:
        """Hold what the op's relevance rule will need."""
        if not (self.recording.relevance and spec_of(op.name).has_rule):
            return None
        call = OpCall.of(op, args, kwargs)
        self.recording.guard(o.value for o in call.inputs)
        return call

    def _with_result(self, call: OpCall | None, results: list[Tensor]) -> OpCall | None:
        if call is not None and results:
            call.out = OpInput.of(results[0])
            self.recording.guard([call.out.value])
        return call

    def _before(self, op: Op, args: Any, kwargs: Any, place: str) -> set[Node]:
        """The nodes that made the inputs of a call."""
        inputs = tensors(args) + tensors(kwargs)
        if not torch.is_grad_enabled() and any(t.requires_grad for t in inputs):
            refuse_reentrant(self.recording.place)
            self._hole(f"no_grad around {op.name}")
        if torch._C._autograd._top_saved_tensors_default_hooks(False) != self.hooks:
            refuse_checkpoint(self.recording.place)
        for t in inputs:
            self.recording.tape.claim_view(t, place)
            self.recording.book(t)
        nodes = {t.grad_fn for t in inputs}
        if op.inplace or op.switch is not None:
            nodes |= {t._base.grad_fn for t in inputs if t._base is not None}
        return {node for node in nodes if node is not None}

    def _hole(self, what: str) -> None:
        hole = Hole(what, self.recording.place)
        if hole not in self.recording.trace.holes:
            self.recording.trace.holes.append(hole)

    def _protect(self, op: Op, args: Any, kwargs: Any) -> Tensor | None:
        """Save captured values that a call writes over; the view among them that must be cloned."""
        lost = None
        if op.inplace or op.switch is not None or "out" in kwargs:
            for target in op.targets(args, kwargs):
                lost = target if self.recording.about_to_overwrite(target) else lost
        return lost

    def _mark(self, name: str, x: Tensor) -> Tensor:
        recording = self.recording
        path = recording.frames[-1].path
        return recording.visit(path, name, recording.count(path, name), x)


def recurrent(mode: OpMode, op: Op, func: Any, args: Any, kwargs: Any) -> Any:
    """Run a recurrent layer, whose arguments say which dimensions are time and batch."""
    out = mode.call(op, func, args, kwargs)
    if len(args) == _UNPACKED and isinstance(args[-1], bool):
        axes = "b t c" if args[-1] else "t b c"
        result = out[0] if isinstance(out, tuple) else out
        for x in (args[0], result):
            if isinstance(x, Tensor):
                mode.tell(x, axes, "a recurrent layer")
    return out
