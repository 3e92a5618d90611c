"""Undoing: every change that a call makes is noted first, and undone whatever interrupts."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial, wraps
from types import TracebackType
from typing import ParamSpec, TypeVar

import torch
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

P = ParamSpec("P")
R = TypeVar("R")


class _Calls(threading.local):
    """The innermost call of this thread that undoes all that was begun inside it."""

    innermost: Undo | None = None


_calls = _Calls()


class Undo:
    """How to put back what was changed: all of it, last change first, whatever interrupts.

    A step is noted before the change it undoes, and may run twice. What is begun inside a call that
    `undoes` is undone with it, should an interrupt have come on the way into or out of a `with`.
    """

    __slots__ = ("__weakref__", "_begun", "_outer", "_steps")

    def __init__(self) -> None:
        self._steps: list[Callable[[], object]] = []
        self._begun: dict[Undo, None] = {}
        self._outer = _calls.innermost
        if self._outer is not None:
            self._outer._begun[self] = None

    def note(self, step: Callable[..., object], *args: object) -> None:
        """Undo a change by `step(*args)`."""
        self._steps.append(partial(step, *args))

    def close(self, failed: object = None) -> None:
        """Undo everything; what was raised meanwhile, a KeyboardInterrupt say, is raised after.

        failed: a step that was broken off once, and is given up when it is again.
        """
        try:  # the whole of it, for an interrupt can come between any two lines
            while self._begun:
                next(reversed(self._begun)).close()
            while self._steps:
                self._steps[-1]()
                self._steps.pop()
            if self._outer is not None:
                self._outer._begun.pop(self, None)
        except BaseException:
            broken = self._steps[-1] if self._steps else None
            if broken is not None and broken is failed:
                self._steps.pop()
            self.close(broken)
            raise

    def __enter__(self) -> Undo:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        try:
            self.close()
        finally:
            self.close()  # nothing is left, but for an interrupt on the way into the first


def keep_modes(undo: Undo) -> None:
    """Put back torch's modes of this thread; interrupted, its own `with` may leave them changed."""
    grad, modes = torch.is_grad_enabled(), _get_current_function_mode_stack()
    undo.note(_restore_modes, grad, modes)


def _restore_modes(grad: bool, modes: list[TorchFunctionMode]) -> None:
    _end_managers(sys.exc_info()[1])
    now = _get_current_function_mode_stack()
    while now != modes[: len(now)]:
        torch._C._pop_torch_function_stack()
        now = _get_current_function_mode_stack()
    for mode in modes[len(now) :]:
        torch._C._push_on_torch_function_stack(mode)
        now = _get_current_function_mode_stack()
    torch._C._set_grad_enabled(grad)


def _end_managers(error: BaseException | None) -> None:
    """End context managers that an interrupt kept from it, not when its traceback is forgotten."""
    while error is not None:
        where = None if isinstance(error, Exception) else error.__traceback__
        while where is not None:
            if where.tb_frame.f_code.co_filename == contextlib.__file__:
                with suppress(RuntimeError):  # it still runs
                    where.tb_frame.clear()
            where = where.tb_next
        error = error.__context__


def gather_undos(undo: Undo) -> None:
    """Undo with this one all that this thread begins to change from now on."""
    undo.note(setattr, _calls, "innermost", _calls.innermost)
    _calls.innermost = undo


def undoes(function: Callable[P, R]) -> Callable[P, R]:
    """A call after which torch's modes, and all that was noted inside it, are as before."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        undo = Undo()
        try:
            keep_modes(undo)
            gather_undos(undo)
            return function(*args, **kwargs)
        finally:  # written out: an interrupt may come on the way into any function
            try:
                undo.close()
            finally:
                undo.close()

    return call
