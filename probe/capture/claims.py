"""One thread at a time probes a model: who does, who waits for it, who is refused."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import ParamSpec, TypeVar

from torch import nn

from ..errors import ProbeError
from ..sites import UNCHANGED, tree_of
from .model_modules import check_devices
from .undo import Undo, gather_undos, keep_modes, undoes

P = ParamSpec("P")
R = TypeVar("R")

_PATIENCE = 30.0  # seconds of waiting after which a call says what it waits for
_WHY = (
    "; a probe changes the model while it is open (eval mode, frozen weights, hooks), so {} cannot "
    "probe it at once: "
)


class Claim:
    """The modules of one model, for one thread in one context, from `take` to `release`."""

    __slots__ = ("ids", "modules", "thread")

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = modules  # held, so that their ids stay theirs
        self.ids = frozenset(map(id, modules))
        self.thread = threading.current_thread()


_held: list[Claim] = []  # all claims, the last one taken at the end; empty when no probe is open
_waiting: dict[threading.Thread, Claim] = {}
_lock = threading.RLock()  # entered in C, where no interrupt comes between lock and `with`
_changed = threading.Condition(_lock)

# What this task or thread has claimed. An immutable value: tasks and `asyncio.to_thread` start
# with a copy of the context, and must not see what is added to it later.
_mine: ContextVar[tuple[Claim, ...]] = ContextVar("limelight_claims", default=())


def take(claim: Claim, *, wait: bool = False) -> None:
    """Claim modules for this thread and task, on top of its own claims on them.

    Modules that another thread has claimed are refused with ProbeError, or waited for. Those of
    another task of this thread are refused in any case, and so is a wait that could never end.
    """
    with _lock:
        while (other := _others(claim)) is not None:
            _refuse(other, claim, wait)
            _wait(other, claim)
        _held.append(claim)
    _mine.set((*_mine.get(), claim))


def release(claim: Claim) -> bool:
    """Give back what was taken. Whether no claim on it was taken later and is still held."""
    with _lock:
        later = _held[_held.index(claim) + 1 :] if claim in _held else []
        last = all(c.ids.isdisjoint(claim.ids) for c in later)
        _held[:] = [c for c in _held if c is not claim]
        claim.modules = ()
        _changed.notify_all()
    _mine.set(tuple(c for c in _mine.get() if c is not claim))
    return last


def _others(claim: Claim) -> Claim | None:
    """A claim on one of the modules that is not this task's own."""
    mine = [c for c in _mine.get() if c.thread is claim.thread]
    others = (c for c in reversed(_held) if c not in mine)
    return next((c for c in others if not c.ids.isdisjoint(claim.ids)), None)


def _refuse(other: Claim, claim: Claim, wait: bool) -> None:
    """Raise ProbeError unless this thread may wait for another one's claim."""
    if other.thread is claim.thread:
        raise ProbeError(
            "this model is being probed by another task of this thread" + _WHY.format("two tasks")
            + "let that task leave its probe first, or give each task a copy of the model"
        )  # fmt: skip
    name = other.thread.name
    if other in _mine.get() or _waits_for(other, claim.thread):
        raise ProbeError(
            f"this model is being probed by thread {name!r}, which started this call or waits for "
            "a model that is probed here, so waiting for it could never end: leave the outer "
            "probe first, or give each thread a copy of the model"
        )
    if not wait:
        raise ProbeError(
            f"this model is being probed by thread {name!r}" + _WHY.format("two threads")
            + "leave that probe first, give each thread a copy of the model, or call "
            "limelight.maps, trace or patch, which wait"
        )  # fmt: skip


def _waits_for(other: Claim, thread: threading.Thread) -> bool:
    """Whether the owner of a claim waits, directly or through others, for a thread."""
    seen: set[threading.Thread] = set()
    owner = other.thread
    while owner in _waiting and owner not in seen:
        seen.add(owner)
        owner = _waiting[owner].thread
    return owner is thread


def _wait(other: Claim, claim: Claim) -> None:
    """Sleep until some claim is released; say so once when it takes long."""
    _waiting[claim.thread] = other
    try:
        if not _changed.wait(_PATIENCE):
            warnings.warn(
                f"waiting for thread {other.thread.name!r}, which is probing the same model; it "
                "goes on when that probe is left",
                stacklevel=6,
            )
            _changed.wait()
    finally:
        _waiting.pop(claim.thread, None)


@contextmanager
def exclusive(model: nn.Module) -> Iterator[None]:
    """Keep a model to this thread, waiting while another one probes it."""
    undo = Undo()
    try:
        keep_modes(undo)
        gather_undos(undo)
        _keep(model, undo)
        yield
    finally:
        try:
            undo.close()
        finally:
            undo.close()


def _keep(model: nn.Module, undo: Undo) -> None:
    claim = Claim(tree_of(model).modules)
    undo.note(release, claim)
    take(claim, wait=True)
    before = UNCHANGED.get()
    undo.note(UNCHANGED.set, before)
    UNCHANGED.set((tree_of(model), *before))  # walked again: another thread may have changed it


def keeps_model(function: Callable[P, R]) -> Callable[P, R]:
    """A call that keeps the network among its arguments to this thread until it returns."""

    @wraps(function)
    @undoes
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        given = (*args, kwargs.get("model"))
        model = next((x for x in given if isinstance(x, nn.Module)), None)
        if model is not None:
            check_devices(model)
            _keep(model, Undo())  # closed with the call that it is begun in
        return function(*args, **kwargs)

    return call


def _forget_other_threads() -> None:
    """In a forked process the other threads are gone, and nobody releases what they claimed."""
    global _changed, _lock
    _lock = threading.RLock()
    _changed = threading.Condition(_lock)
    _waiting.clear()
    _held[:] = [c for c in _held if c.thread is threading.current_thread()]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_other_threads)
