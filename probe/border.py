"""Hooks at module borders: where a forward is, and what enters and leaves each module."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .recording import Recording
from .tree import exchange, leaves

if TYPE_CHECKING:
    from .probe import Probe


def names_of(model: nn.Module) -> dict[str, nn.Module]:
    """Every module by path; compiled wrappers are seen through, scripts are not looked into."""
    found: dict[str, nn.Module] = {}
    closed: list[str] = []
    for name, module in model.named_modules(remove_duplicate=False):
        path = ".".join(word for word in name.split(".") if word != "_orig_mod")
        if type(module).__name__ == "OptimizedModule" or any(path.startswith(c) for c in closed):
            continue
        found.setdefault(path, module)
        if isinstance(module, torch.jit.ScriptModule):
            closed.append(path + "." if path else "")
    return found


class Borders:
    """The hooks of one probe; they do nothing unless that probe is running, in its own thread."""

    def __init__(self, probe: Probe, stack: ExitStack) -> None:
        self.probe, self.stack = probe, stack
        self.framed: set[nn.Module] = set()
        self.plain: dict[nn.Module, set[str]] = {}

    def frame(self, modules: dict[nn.Module, str]) -> None:
        """Follow the forward through all modules: enter, leave, and both borders."""
        for module, path in modules.items():
            if module in self.framed:
                continue
            self.framed.add(module)
            handles = (
                module.register_forward_pre_hook(self._enter(path), with_kwargs=True),
                module.register_forward_hook(self._leave(path), always_call=True),
            )
            for handle in handles:
                self.stack.callback(handle.remove)

    def watch(self, module: nn.Module, path: str, ports: set[str]) -> None:
        """Look at single borders only, without following the forward."""
        new = ports - self.plain.setdefault(module, set())
        self.plain[module] |= new
        if "in" in new:
            handle = module.register_forward_pre_hook(
                self._enter(path, follow=False), with_kwargs=True
            )
            self.stack.callback(handle.remove)
        if "out" in new:
            handle = module.register_forward_hook(self._plain_leave(path))
            self.stack.callback(handle.remove)

    def _enter(self, path: str, *, follow: bool = True) -> Callable[..., Any]:
        probe = self.probe

        def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
            recording = probe.running
            if recording is None:
                return None
            if follow:
                recording.enter(path)
                call = recording.frames[-1].call
            elif module in self.framed:
                return None
            else:
                call = recording.count(path, "in")
            return _visit_inputs(recording, path, call, args, kwargs)

        return hook

    def _leave(self, path: str) -> Callable[..., Any]:
        probe = self.probe

        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            recording = probe.running
            if recording is None:
                return None
            call = recording.frames[-1].call
            out = None if output is None else _visit_outputs(recording, path, call, output)
            recording.leave(path)
            return out

        return hook

    def _plain_leave(self, path: str) -> Callable[..., Any]:
        probe = self.probe

        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            recording = probe.running
            if recording is None or module in self.framed:
                return None
            call = recording.calls[path]
            recording.calls[path] = call + 1
            return _visit_outputs(recording, path, call, output)

        return hook


def _visit_outputs(recording: Recording, path: str, call: int, output: Any) -> Any:
    """None unless an edit changed something, as torch wants it."""
    if isinstance(output, Tensor):
        new = recording.visit(path, "out", call, output)
        return None if new is output else new
    main = next((place for place, _ in leaves(output)), None)

    def look(place: str, x: Tensor) -> Tensor:
        x = recording.visit(path, "out", call, x) if place == main else x
        return recording.visit(path, f"out.{place}", call, x)

    changed = exchange(output, look)
    return None if changed is output else changed


def _visit_inputs(recording: Recording, path: str, call: int, args: Any, kwargs: Any) -> Any:
    if not recording.wishes.enters(path):
        return None
    main = next((p for p, x in leaves((*args, kwargs)) if x.is_floating_point()), None)

    def look(place: str, x: Tensor) -> Tensor:
        x = recording.visit(path, "in", call, x) if place == main else x
        name = place.partition(".")[2] if place.startswith(f"{len(args)}.") else place
        return recording.visit(path, f"in.{name}", call, x)

    whole = (*args, kwargs)
    changed = exchange(whole, look)
    return None if changed is whole else (changed[:-1], changed[-1])
