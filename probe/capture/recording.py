"""One forward as it is recorded: where we are in the module tree, what has been captured."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache
from threading import get_ident
from typing import Any

import torch
from torch import Tensor

from ..axes import ValueAxes
from ..backward import Tape
from ..sites import Site
from ..targets import Given
from ..trace import ModuleCall, Trace, Value, any_stale, apply, name_of
from .requests import Place, Request, Requests

is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor


class Stop(BaseException):
    """Ends a forward whose wanted sites have all been seen. No `except Exception` catches it."""


class Frame:
    """A module whose forward is running."""

    __slots__ = ("call", "counts", "given", "heads", "path", "product", "softmax")

    def __init__(self, path: str, call: int, heads: bool) -> None:
        self.path, self.call, self.heads = path, call, heads
        self.counts: Counter[str] = Counter()
        self.product: tuple[Tensor, Tensor] | None = None
        self.softmax: Tensor | None = None
        self.given: tuple[tuple[Any, ...], dict[str, Any]] | None = None  # of a call that is kept


@lru_cache(maxsize=4096)
def _site(path: str, port: str, call: int, axes: str) -> Site:
    return Site(path, port, call, None, axes)


class Recording:
    """The state of one forward under a probe."""

    def __init__(
        self,
        requests: Requests,
        *,
        grad: bool,
        pending: set[Place] | None,
        axes: ValueAxes,
        shape: tuple[int, ...] = (),
        relevance: bool = False,
        ledger: bool = False,
    ) -> None:
        self.requests, self.grad, self.axes = requests, grad, axes
        self.relevance, self.ledger = relevance or ledger, ledger
        self.trace, self.tape = Trace(), Tape()
        self.frames: list[Frame] = [Frame("", 0, False)]
        self.calls: Counter[str | tuple[str, str]] = Counter()
        self.pending = pending
        self.enough = sys.maxsize if pending is None else len(pending)
        self.stopped = False
        self.seen: set[Site] = set()
        self.shape = shape  # of the input that is explained
        self.explained = ""  # the name of the input that is explained
        self.tokens = False  # gradients start at embeddings, not at float inputs
        self.bytes = False  # ... or where the model makes floats of whole numbers
        self.members: dict[str, int] = {}  # inputs known to have a row a sample
        self.whole_numbers: dict[int, str] = {}  # inputs of whole numbers by their memory
        self.ids: dict[int, tuple[Tensor, str]] = {}  # they and what ops made of them, and whose
        self.main_ids = 0  # which of them are explained
        self.met = False  # an embedding has looked these up
        self.passed_by = 0  # how many embeddings looked up no input's
        self.thread = get_ident()
        self.inside = requests.inside
        self.keeps_calls = "call" in requests.watched.values()
        self.plain = requests.plain.setdefault(shape, {})
        self.spared = False  # no mode looks at the ops of this forward
        self.touched = False  # an op has written over something captured
        self.confirmed = True  # nothing that was believed of a spared forward has proved wrong
        self.wrote = False  # an op has worked in place
        self.left: dict[
            str, tuple[tuple[int, ...], Site]
        ] = {}  # outputs that may be kept as they are
        self.kept: list[tuple[Site, Tensor, int]] = []  # values to be, and their versions
        self.wanting = self.enough  # how many may be kept before a site could be the last
        self._fresh: list[Value] = []
        self._held: dict[int, list[Value]] = defaultdict(list)

    @property
    def given(self) -> Given:
        """What the model was given: how many samples, how many token ids each."""
        if not self.shape:
            return Given(axes=self.axes.of_output)
        count = self.shape[self.axes.batch_dimension(len(self.shape) + self.tokens)]
        tokens = self.shape[1] if self.tokens and len(self.shape) == 2 else 0
        return Given(count, tokens, self.axes.of_output)

    def input_site(self, name: str) -> Site:
        """The site of an input: `input` for the one that is explained, else `input.mask`."""
        main = name == self.explained and not self.tokens
        return Site("", "in" if main else f"in.{name}")

    @property
    def place(self) -> str:
        """The module now running, for messages."""
        return self.frames[-1].path or "the model's own forward"

    def visit(self, path: str, port: str, call: int, x: Tensor, axes: str = "") -> Tensor:
        """Edit and capture a value if anyone wants it; return what the model goes on with."""
        request = self.requests.at(path, port, call)
        if request is None:
            return x
        self.settle()
        if self.spared and type(x) is Tensor:
            x = self._take(request, path, port, call, x, axes)
        else:
            with torch._C.DisableTorchFunction():
                x = self._take(request, path, port, call, x, axes)
        self.wanting = self.enough - len(self.trace.values_by_site)
        if self.wanting <= 0:
            self._reached()
        return x

    def _take(
        self, request: Request, path: str, port: str, call: int, x: Tensor, axes: str
    ) -> Tensor:
        if is_wrapped(x):
            return x
        site = _site(path, port, call, axes)
        for index, edit in request.edits:
            x = self._edit(edit, x, self._part(site, x, index))
        if request.capture:
            self.capture(site, x, request)
            if (
                self.spared
                and not (self.grad or request.edits)
                and (port, call, request.keep) == ("out", 0, "device")
            ):
                self.plain[path] = x.shape, site
        return x

    def _part(self, site: Site, x: Tensor, index: int | None) -> Site:
        """The site of an edit, which may need to know where the channels lie."""
        if site.axes:
            return replace(site, index=index)
        edge = None if x.grad_fn is None else (x.grad_fn, x.output_nr)
        return replace(site, index=index, axes=self.axes.names(Value(site, x.detach(), edge)))

    def spare(self) -> None:
        """No mode looks at this forward: outputs like those of the last one are noted in `kept`.

        With a graph each value has a place in it, and is captured as ever.
        """
        self.spared, self.left = True, {} if self.grad else self.plain.copy()

    def settle(self) -> None:
        """Bring what was kept into the trace."""
        if self.kept:
            values = self.trace.values_by_site
            for site, act, version in self.kept:
                value = values[site] = Value(site, act, None, version, self.axes)
                self._fresh.append(value)
            self.kept.clear()
            self.wanting = self.enough - len(values)

    def filled(self) -> None:
        """All sites may have been kept: stop the forward if no wanted one is left."""
        self.settle()
        self._reached()

    def _reached(self) -> None:
        """Stop the forward if no wanted site is left."""
        reached = {(s.path, s.port, s.call) for s in self.trace.values_by_site}
        if self.pending is not None and self.pending <= reached:
            self.stopped = True
            raise Stop

    @property
    def lean(self) -> bool:
        """Whether the borders of modules are all that is wanted."""
        return not (self.grad or self.inside or self.embeds)

    @property
    def overtaken(self) -> bool:
        """Whether a captured value has been written over unseen."""
        return any_stale(self._fresh)

    @property
    def embeds(self) -> bool:
        """Whether the output of embeddings is wanted as the input."""
        return (self.tokens or self.bytes) and self.requests.enters("")

    def _edit(self, edit: Any, x: Tensor, site: Site) -> Tensor:
        before = {x.grad_fn} if x.grad_fn is not None else set()
        new = apply(edit, x, site)
        self.tape.claim([new], before, f"the edit at {site}")
        self.trace.edits.append((site, name_of(edit)))
        return new

    def capture(self, site: Site, x: Tensor, request: Request) -> None:
        """Keep a value and the place of its gradient."""
        edge = (x.grad_fn, x.output_nr) if self.grad and x.grad_fn is not None else None
        act = x.detach()
        here = request.keep == "device"
        value = Value(site, act if here else act.cpu(), edge, None, self.axes)
        self.trace.values_by_site[site] = value
        if here or act.device.type == "cpu":
            self._fresh.append(value)

    def lazy(
        self,
        site: Site,
        rows: Callable[[slice], Tensor],
        count: int,
        grids: tuple[tuple[int, int], ...] = (),
    ) -> None:
        """Keep an attention map that is computed when read, whole or some rows of `count`.

        grids: of its keys, see Value
        """
        value = Value(site, lambda: rows(slice(None)), None)
        value.rows, value.count, value.grids = rows, count, grids
        self.trace.values_by_site[site] = value
        if len(self.trace.values_by_site) >= self.enough:
            self._reached()

    def book(self, x: Tensor) -> None:
        """Hold a value under its edge, if a ledger is to be kept."""
        if self.ledger and x.grad_fn is not None:
            edge = (x.grad_fn, x.output_nr)
            if edge not in self.tape.values:
                self.tape.values[edge] = Value(Site(""), x.detach(), None)
                self.guard([self.tape.values[edge]])

    def guard(self, values: Iterable[Value]) -> None:
        """Protect values that are kept beside the trace from being overwritten in place."""
        self._fresh += values

    def about_to_overwrite(self, target: Tensor) -> bool:
        """Save captured values that an in-place op is about to write over.

        True when a captured value is the very view that is written: its gradient would be lost
        unless the op runs on a clone that is copied back.
        """
        self.wrote = True
        for value in self._fresh:
            if value.held is not None:
                self._held[value.held.untyped_storage()._cdata].append(value)
        self._fresh.clear()
        held = self._held.pop(target.untyped_storage()._cdata, ())
        self.touched = self.touched or bool(held)
        edge = (target.grad_fn, target.output_nr)
        for value in held:
            if value.held is not None:
                value.hold(value.held.clone())
        return target._is_view() and any(v.edge == edge for v in held if v.edge is not None)

    def count(self, path: str, port: str) -> int:
        """How often a named port of a module has been seen in this forward."""
        seen = self.calls[path, port]
        self.calls[path, port] = seen + 1
        return seen

    def plain_calls(self, path: str) -> int:
        """How often a module that is not followed has been left."""
        kept = self.spared and path in self.plain and path not in self.left
        return self.calls.get(path, int(kept))

    def enter(self, path: str) -> None:
        call = self.calls[path]
        self.calls[path] = call + 1
        self.frames.append(Frame(path, call, self.requests.heads(path)))

    def frame_of(self, path: str) -> Frame | None:
        """The innermost running call of a module."""
        return next((f for f in reversed(self.frames) if f.path == path), None)

    def keep_call(self, frame: Frame, given: tuple[Any, Any], output: Any) -> None:
        """Hold what a module was given and what it returned."""
        call = ModuleCall(*given, output)
        self.trace.calls[frame.path, frame.call] = call
        self.guard(call.values)

    def leave(self, path: str) -> None:
        """Pop the frames down to a module's, whatever was raised in between."""
        for i in range(len(self.frames) - 1, 0, -1):
            if self.frames[i].path == path:
                del self.frames[i:]
                return
