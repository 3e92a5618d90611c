"""Hooks at module borders: where a forward is, and what enters and leaves each module."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from threading import get_ident
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..trace import exchange, leaves
from .model_state import NotCopied
from .recording import Recording, is_wrapped


class ActiveForward(NotCopied):
    """What the hooks of a probe look at: the forward now recorded, and modules that are framed.

    Hooks refer to this and not to their probe, so that a probe and its values die together.
    """

    __slots__ = ("framed", "recording")

    def __init__(self) -> None:
        self.recording: Recording | None = None
        self.framed: set[str] = set()

    @property
    def here(self) -> Recording | None:
        """The forward recorded in this thread."""
        recording = self.recording
        return recording if recording is not None and recording.thread == get_ident() else None


class ModuleHooks:
    """The hooks of one probe; they do nothing unless that probe is running, in its own thread.

    They are registered once. Taking them off and putting them on again is dictionary work.
    """

    def __init__(self, running: ActiveForward) -> None:
        self.running = running
        self.looked: dict[str, set[str]] = {}
        self._places: list[tuple[dict[int, Any], int, Any]] = []
        self._registering: nn.Module | None = None
        self.broken = False  # registering was interrupted; these hooks are not to be used again

    def frame(self, modules: Mapping[nn.Module, str]) -> None:
        """Follow the forward through all modules: enter, leave, and both borders."""
        now = self.running
        for module, path in modules.items():
            if path in now.framed:
                continue
            self._registering = module
            now.framed.add(path)
            enter, leave = partial(_enter, now, path, True), partial(_leave, now, path)
            self._note(module.register_forward_pre_hook(enter, with_kwargs=True))
            self._note(module.register_forward_hook(leave, always_call=True))
            self._registering = None

    def watch(self, module: nn.Module, path: str, ports: set[str]) -> None:
        """Look at single borders only, without following the forward."""
        self._registering = module
        new = ports - self.looked.setdefault(path, set())
        self.looked[path] |= new
        if "in" in new:
            look = partial(_enter, self.running, path, False)
            self._note(module.register_forward_pre_hook(look, with_kwargs=True))
        if "out" in new:
            look = partial(_plain_leave, self.running, path)
            self._note(module.register_forward_hook(look, always_call=True))
        self._registering = None

    def _note(self, handle: RemovableHandle) -> None:
        for reference in (handle.hooks_dict_ref, *handle.extra_dict_ref):
            table = reference()
            if table is not None and handle.id in table:
                self._places.append((table, handle.id, table[handle.id]))

    def take_off(self) -> None:
        """Remove all hooks from the model."""
        if self._registering is not None:
            self._take_off_unnoted(self._registering)
        for table, key, _ in self._places:
            table.pop(key, None)

    def _take_off_unnoted(self, module: nn.Module) -> None:
        """Remove hooks from a module whose registering was interrupted, noted or not."""
        self.broken = True
        for table in (module._forward_pre_hooks, module._forward_hooks):
            for key, hook in list(table.items()):
                if isinstance(hook, partial) and hook.args[:1] == (self.running,):
                    del table[key]
                    module._forward_pre_hooks_with_kwargs.pop(key, None)
                    module._forward_hooks_with_kwargs.pop(key, None)
                    module._forward_hooks_always_called.pop(key, None)

    def put_on(self) -> None:
        """Give the model its hooks back."""
        for table, key, hook in self._places:
            table[key] = hook


def _enter(
    now: ActiveForward, path: str, follow: bool, module: nn.Module, args: Any, kwargs: Any
) -> Any:
    recording = now.here
    if recording is None:
        return None
    if follow:
        recording.enter(path)
        call = recording.frames[-1].call
        if recording.keeps_calls and recording.requests.calls(path):
            changed = _visit_inputs(recording, path, call, args, kwargs)
            recording.frames[-1].given = changed or (args, kwargs)
            return changed
    elif path in now.framed:
        return None
    else:
        call = recording.count(path, "in")
    return _visit_inputs(recording, path, call, args, kwargs)


def _leave(now: ActiveForward, path: str, module: nn.Module, args: Any, output: Any) -> Any:
    recording = now.here
    if recording is None:
        return None
    frame = recording.frame_of(path)
    call = 0 if frame is None else frame.call
    try:
        if output is None:
            return None
        changed = _visit_outputs(recording, path, call, output)
        if frame is not None and frame.given is not None:
            recording.keep_call(frame, frame.given, output if changed is None else changed)
        return changed
    finally:
        recording.leave(path)


def _plain_leave(now: ActiveForward, path: str, module: nn.Module, args: Any, output: Any) -> Any:
    recording = now.recording
    if recording is None or recording.thread != get_ident() or path in now.framed:
        return None
    last = recording.left.pop(path, None)  # of its first call, in a forward that is spared
    if last is None:
        call = recording.plain_calls(path)
    elif type(output) is Tensor and last[0] == output.shape and not is_wrapped(output):
        act = output.detach()  # no more than this: it is what keeping a value costs
        recording.kept.append((last[1], act, act._version))
        return recording.filled() if len(recording.kept) >= recording.wanting else None
    else:
        call = 0
    recording.calls[path] = call + 1
    if type(output) is Tensor:
        new = recording.visit(path, "out", call, output)
        return None if new is output else new
    return None if output is None else _visit_outputs(recording, path, call, output)


def _visit_outputs(recording: Recording, path: str, call: int, output: Any) -> Any:
    """None unless an edit changed something, as torch wants it."""
    if isinstance(output, Tensor):
        new = recording.visit(path, "out", call, output)
        return None if new is output else new
    places = dict(leaves(output))
    recording.trace.packed.add((path, call))
    main = "logits" if "logits" in places else _first_float(places)

    def look(place: str, x: Tensor) -> Tensor:
        x = recording.visit(path, "out", call, x) if place == main else x
        return recording.visit(path, f"out.{place}", call, x)

    changed = exchange(output, look)
    return None if changed is output else changed


def _visit_inputs(recording: Recording, path: str, call: int, args: Any, kwargs: Any) -> Any:
    if not recording.requests.enters(path):
        return None
    whole = (*args, kwargs)
    places = {_input_name(place, args): x for place, x in leaves(whole)}
    main = _first_float(places)
    if path == "" and recording.explained in places:
        main = recording.explained
    if path == "" and (recording.tokens or recording.bytes):
        main = None  # its input is what the embeddings return, or the first floats

    later = recording.whole_numbers.values() if path == "" else ()  # read once they are floats

    def look(place: str, x: Tensor) -> Tensor:
        name = _input_name(place, args)
        if name in later:
            return x
        x = recording.visit(path, "in", call, x) if name == main else x
        return recording.visit(path, f"in.{name}", call, x)

    changed = exchange(whole, look)
    return None if changed is whole else (changed[:-1], changed[-1])


def _input_name(place: str, args: Any) -> str:
    """The position or the keyword of a tensor of (*args, kwargs)."""
    return place.partition(".")[2] if place.startswith(f"{len(args)}.") else place


def _first_float(places: dict[str, Tensor]) -> str | None:
    return next((p for p, x in places.items() if x.is_floating_point()), next(iter(places), None))
