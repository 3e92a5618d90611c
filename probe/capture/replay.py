"""A forward that begins in the middle: what lies before answers with values of an earlier one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from threading import get_ident
from typing import Any

from torch import Tensor, nn

from ..errors import ProbeError, SiteError, near
from ..sites import parse
from ..trace import Held, Trace, exchange
from .model_modules import ModelModules
from .recording import Recording
from .undo import Undo

_ABSENT = object()


@dataclass(frozen=True, eq=False)
class Replay:
    """Modules that answer in place of computing, until the forward enters the module `start`.

    answers  by path, what each call returns in turn; calls beyond them are computed
    start    path and call; None: all that have an answer give it
    """

    answers: Mapping[str, Sequence[Held]]
    start: tuple[str, int] | None

    @classmethod
    def of(
        cls, values: Trace | Mapping[str, Any], start: str | None, modules: ModelModules
    ) -> Replay:
        """Read what `Probe.replay` takes. Raises SiteError, ProbeError."""
        answers = _of_trace(values) if isinstance(values, Trace) else {
            path: [Held(answer)] for path, answer in values.items()
        }  # fmt: skip
        by_first = {_path(path, modules): held for path, held in answers.items()}
        if start is None:
            return cls(by_first, None)
        pattern = parse(start)
        place = _path(pattern.path, modules), pattern.call or 0
        if pattern.port != "out" or pattern.index is not None:
            raise SiteError(f"a forward starts at a module, and {start!r} is a part of one")
        outside = {p: held for p, held in by_first.items() if not _contains(p, place[0])}
        return cls(outside, place)

    def install(self, recording: Recording, modules: ModelModules, undo: Undo) -> Player:
        """Put the answers in place of the modules' forwards, until `undo` is closed."""
        player = Player(self, recording)
        for path in {*player.answers, *([self.start[0]] if self.start else [])}:
            module = modules.by_path[path]
            undo.note(_restore, module, vars(module).get("forward", _ABSENT))
            # by object: some modules hand attributes on to others
            object.__setattr__(module, "forward", partial(player.call, path, module.forward))
        return player


class Player:
    """One forward under replay, in the thread that records it: which calls have answered."""

    def __init__(self, replay: Replay, recording: Recording) -> None:
        self.start, self.started = replay.start, False
        self.thread, self.calls = recording.thread, Counter[str]()
        self.answers = {p: [_lifted(recording, h) for h in a] for p, a in replay.answers.items()}

    def call(self, path: str, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Answer a call of a module, or compute it."""
        if get_ident() != self.thread:
            return forward(*args, **kwargs)
        number = self.calls[path]
        self.calls[path] = number + 1
        self.started = self.started or (path, number) == self.start
        answers = self.answers.get(path, ())
        if self.started or number >= len(answers):
            return forward(*args, **kwargs)
        return answers[number]

    def check(self) -> None:
        """Raise ProbeError when a forward that ran to its end has never come to its start."""
        if self.start is not None and not self.started:
            raise ProbeError(
                f"this forward was to start at {self.start[0]!r} (call {self.start[1]}), but it "
                "never came there"
            )


def _of_trace(trace: Trace) -> dict[str, list[Held]]:
    """What modules returned, where a trace holds it whole."""
    calls: dict[str, dict[int, Held]] = {}
    for site, value in trace.items():
        if (site.port, site.index) != ("out", None) or (site.path, site.call) in trace.calls:
            continue
        if (site.path, site.call) in trace.packed:
            raise ProbeError(
                f"{site.path!r} returned more than the one tensor that this trace holds of it; "
                "watch it with keep='call' to replay it"
            )
        calls.setdefault(site.path, {})[site.call] = Held.of(value)
    for (path, number), call in trace.calls.items():
        calls.setdefault(path, {})[number] = call.returned
    unbroken = {p: [by[n] for n in range(len(by)) if n in by] for p, by in calls.items()}
    return {p: held for p, held in unbroken.items() if len(held) == len(calls[p])}


def _path(path: str, modules: ModelModules) -> str:
    """The first name of a module. Raises SiteError for a module that is not there."""
    if path not in modules.by_path:
        raise SiteError(f"no module is called {path!r}{near(path, modules.by_path)}")
    return modules.aliases.get(path, path)


def _contains(path: str, inner: str) -> bool:
    return path != inner and (path == "" or inner.startswith(f"{path}."))


def _lifted(recording: Recording, held: Held) -> Any:
    """An answer; where a graph is built, gradients start at it."""
    recording.guard(held.values.values())

    def lift(_: str, x: Tensor) -> Tensor:
        if not recording.grad or not (x.is_floating_point() or x.is_complex()):
            return x
        copy = x.detach().requires_grad_().clone()
        recording.tape.claim([copy], set(), "a replayed value")
        recording.axes.start(copy)
        return copy

    return exchange(held.whole, lift)


def _restore(module: nn.Module, forward: object) -> None:
    if forward is _ABSENT:
        vars(module).pop("forward", None)
    else:
        object.__setattr__(module, "forward", forward)
