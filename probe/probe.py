"""The probe: one object that sees, captures, edits and differentiates any PyTorch model.

with Probe(net) as p:
    p.watch("encoder.*", "decoder.2:in")
    p(x)
    maps = p.maps(["gradcam", "normgrad"], target=label(3))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .backward import regime as regime_named
from .capture import (
    Borders,
    Claim,
    Eye,
    Keep,
    Place,
    Recording,
    Running,
    Stop,
    Undo,
    Wishes,
    eager,
    lift,
    names_of,
    picture_size,
    prepare,
    release,
    starts_with_tokens,
    take,
)
from .capture import embedding as _embedding  # noqa: F401
from .capture import kernels as _mixer  # noqa: F401  (registers, with attention, what Eye re-expresses)
from .errors import ProbeError
from .relevance import Ledger, Preset, propagate
from .sites import Adapter, Pattern, Site, adapt, no_match, parse, resolve
from .targets import Target, by_name, targets
from .trace import Edit, Trace, Value, exchange

if TYPE_CHECKING:
    from .results import Maps

EVERYWHERE = ("**", "**:**")
_FLEX = (
    "this model computes its attention by FlexAttention, which has no gradient on this device; "
    "load it with attn_implementation='sdpa' or 'eager', or probe with grad=False"
)


class Probe:
    """Probe a model inside a `with`; on leaving, the model is exactly as it was.

    grad      build a graph, so that gradients and maps can be asked for (weights are frozen)
    evaluate  run in eval mode
    ledger    keep books of relevance passes, for `probe.ledger()`; holds every value
    relevance  also hold what relevance rules need, so that the relevance regime can be asked for
    whole     run to the end also without gradients, where a forward stops once every site is found

    Values outlive the `with`; graphs do not. What a model caches by itself is not undone.

    Threads: each may probe another model. A model is probed by one thread at a time: entering a
    probe while another thread (or another task of this one) has one open on the same model, or on
    a part of it, raises ProbeError; `limelight.maps`, `trace` and `patch` wait instead. Nothing
    stops a thread that uses the model without a probe: beside an open one it runs in eval mode
    with frozen weights, so train a copy.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        grad: bool = True,
        evaluate: bool = True,
        relevance: bool = False,
        ledger: bool = False,
        whole: bool = False,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ProbeError(f"a probe needs a torch.nn.Module, not {type(model).__name__}")
        self.model = model
        self.grad, self.evaluate = grad, evaluate
        self.relevance, self.keeps_ledger, self.whole = relevance, ledger, whole
        self.wishes = Wishes()
        self._last: Recording | None = None
        self._ledger: Ledger | None = None
        self._complete: tuple[int, set[Place]] | None = None
        self._calm: int | None = None
        self._undo: Undo | None = None
        self._claim = Claim(())
        self._busy = Lock()
        self._in_order = True
        self._now = Running()
        self._borders = Borders(self._now)
        self._hooked: tuple[int, bool] | None = None
        self._known: dict[str, nn.Module] = {}

    @property
    def running(self) -> Recording | None:
        """The forward that is being recorded."""
        return self._now.recording

    @cached_property
    def modules(self) -> dict[str, nn.Module]:
        """Every module by path; a module with several names answers to all of them."""
        return names_of(self.model)

    @cached_property
    def _canonical(self) -> dict[nn.Module, str]:
        first: dict[nn.Module, str] = {}
        for path, module in self.modules.items():
            first.setdefault(module, path)
        return first

    @cached_property
    def _aliases(self) -> dict[str, str]:
        return {p: self._canonical[m] for p, m in self.modules.items() if p != self._canonical[m]}

    @cached_property
    def adapter(self) -> Adapter:
        """What the model's family calls its layers and tokens."""
        return adapt(self.model)

    def __enter__(self) -> Probe:
        if self._undo is not None:
            raise ProbeError("this probe is already open; leave its `with` before entering again")
        undo = Undo()
        try:  # returning is part of it: what an interrupt stops is put back as well
            self._undo = undo
            self._enter(undo)
            return self
        except BaseException:
            self._undo = None
            undo.close()
            raise

    def _enter(self, undo: Undo) -> None:
        self._claim = Claim(tuple(self.model.modules()))
        undo.note(self._release)
        undo.note(self._drop_graph)
        take(self._claim)
        prepare(self.model, undo, grad=self.grad, evaluate=self.evaluate)
        self._look_again()
        undo.note(self._borders.take_off)
        self._borders.put_on()

    def _close(self) -> None:
        if self._undo is not None:
            self._undo.close()
        self._undo = None

    def _release(self) -> None:
        self._in_order = release(self._claim)

    def _look_again(self) -> None:
        """Forget what was learnt about the model if its modules are no longer the same."""
        present = dict(self.model.named_modules())
        if self._known and present != self._known:
            for name in ("modules", "_canonical", "_aliases", "adapter"):
                vars(self).pop(name, None)
            self._now = Running()
            self._borders = Borders(self._now)
            self._hooked = self._complete = self._calm = None
        self._known = present

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        try:
            self._close()
        finally:
            self._close()  # nothing is left, but for an interrupt on the way into the first
        if not self._in_order and error is None:
            raise ProbeError("probes were left out of order: leave the one entered last first")

    def _drop_graph(self) -> None:
        """Let the graph go, keep the values."""
        if self._last is not None:
            for value in self._last.trace.values_by_site.values() if self.grad else ():
                value.edge = None
            self._last.trace.output = exchange(self._last.trace.output, lambda _, x: x.detach())
            self._last.lifted.clear()
            self._last.tape.drop()

    def watch(self, *addresses: str | Site | Pattern, keep: Keep = "device") -> Probe:
        """Ask for sites; wildcards and the words `hidden`, `last`, `heads`, `input` are allowed.

        keep="cpu" moves captured values off the device. Raises SiteError when nothing matches.
        """
        self.wishes.watch([p for a in addresses for p in self.resolve(a)], keep)
        return self

    def edit(self, edits: Mapping[str | Site, Edit]) -> Probe:
        """Change values as they pass: `{"blocks.3.attn:heads.6": zero}`; later edits on top."""
        for address, edit in edits.items():
            for pattern in self.resolve(address):
                self.wishes.edit(pattern, edit)
        return self

    def resolve(self, address: str | Site | Pattern) -> list[Pattern]:
        """The patterns an address or a word means in this model. Raises SiteError."""
        return resolve(address, self.modules, self._canonical, lambda: self.adapter)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model under the probe and return its output (None after an early stop)."""
        return self.run(self.model, *args, **kwargs)

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run any function that uses the model as the forward: `p.run(model.generate, ids)`.

        Float tensors among the arguments become the inputs that gradients are taken for; where
        there are none, the outputs of embeddings do.
        """
        if self._undo is None:
            raise ProbeError("a probe runs only inside its `with`: `with Probe(model) as p: p(x)`")
        if not self._busy.acquire(blocking=False):
            raise ProbeError(
                "this probe is already running; it cannot run itself from inside a forward, or in "
                "two threads at once"
            )
        try:
            return self._run(function, args, kwargs)
        finally:
            self._busy.release()

    def _run(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        self._drop_graph()
        size = picture_size(args, kwargs)
        recording = Recording(
            self.wishes,
            grad=self.grad,
            pending=self._pending(),
            size=size,
            relevance=self.relevance,
            ledger=self.keeps_ledger,
        )
        recording.trace.aliases = self._aliases
        recording.tokens = starts_with_tokens(args, kwargs)
        self._hook(recording)
        self._last, self._ledger = recording, None
        with torch.inference_mode(False), torch.set_grad_enabled(self.grad), eager():
            args, kwargs = lift(recording, args, kwargs)
            output = self._record(recording, function, args, kwargs)
        recording.trace.output = output
        self._finish(recording, output)
        return output

    def _record(
        self, recording: Recording, function: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        self._now.recording = recording
        try:
            with self._eye(recording):
                output = function(*args, **kwargs)
        except Stop:
            return None
        except Exception as error:
            if recording.stopped:  # the model swallowed the stop and stumbled over the rest
                return None
            if recording.grad and "FlexAttention" in str(error):
                raise ProbeError(_FLEX) from error
            raise
        else:
            return None if recording.stopped else output
        finally:
            self._now.recording = None

    def _eye(self, recording: Recording) -> AbstractContextManager[Any]:
        """The mode that sees all ops.

        Where only borders are wanted it guards values against ops in place, and once a forward had
        none it is spared; values that are overwritten all the same say so when read.
        """
        recording.spared = recording.lean and self._calm == self.wishes.version
        return nullcontext() if recording.spared else Eye(recording)

    def _hook(self, recording: Recording) -> None:
        framed = recording.grad or recording.inside
        if self._hooked == (self.wishes.version, framed):
            return
        self._hooked = self.wishes.version, framed
        if framed:
            self._borders.frame(self._canonical)
            return
        for pattern in self.wishes.patterns():
            for module, path in self._canonical.items():
                if pattern.matches(Site(path, pattern.port, pattern.call or 0)):
                    self._borders.watch(module, path, {pattern.port.partition(".")[0]})

    def _pending(self) -> set[Place] | None:
        """The sites after which a forward without gradients may stop; None if that is unknown."""
        if self.grad or self.whole or not self.wishes.watched:
            return None
        if self._complete is not None and self._complete[0] == self.wishes.version:
            return self._complete[1]
        concrete = [
            (p.path, p.port, p.call)
            for p in self.wishes.watched
            if p.concrete and p.call is not None
        ]
        return set(concrete) if len(concrete) == len(self.wishes.watched) else None

    def _finish(self, recording: Recording, output: Any) -> None:
        trace = recording.trace
        if recording.lean:
            calm = not (recording.wrote or recording.overtaken)
            self._calm = self.wishes.version if calm else None
        if not recording.stopped:
            reached = (*trace, *(site for site, _ in trace.edits))
            places = {(site.path, site.port) for site in reached}
            for pattern in self.wishes.patterns():
                named = pattern.call is None and (pattern.path, pattern.port) in places
                if not named and not any(pattern.matches(s) for s in reached):
                    raise no_match(pattern, [*trace, *recording.seen])
            self._complete = (self.wishes.version, {(s.path, s.port, s.call) for s in trace})
        if self.grad:
            trace.holes += recording.tape.close(output)

    @property
    def trace(self) -> Trace:
        """What the last run left behind. Raises ProbeError before the first."""
        return self._ran().trace

    @property
    def size(self) -> tuple[int, ...]:
        """Rows and columns of the picture that ran last; empty where the input was no picture."""
        return self._ran().size

    def _ran(self) -> Recording:
        if self._last is None:
            raise ProbeError("nothing has run under this probe yet; call it on an input first")
        return self._last

    def backward(
        self,
        target: Target | Callable[[Any], Tensor] | int | str,
        *,
        regime: str = "plain",
        sites: Sequence[str | Site] = EVERYWHERE,
        retain: bool = True,
    ) -> Trace:
        """Take the gradient of a target at the watched sites; it is then `trace[site].grad`."""
        values = self.values(sites)
        if tuple(sites) == EVERYWHERE:
            values = [v for v in values if v.edge is not None] or values
        chosen = targets(target)[0].resolve(by_name(self.adapter.labels))
        self.differentiate(chosen, values, _keep_gradient, regime=regime, retain=retain)
        return self.trace

    def values(self, sites: Sequence[str | Site | Pattern] = EVERYWHERE) -> list[Value]:
        """The captured values that can have a gradient of their own, in execution order."""
        patterns = [p for s in sites for p in ([parse(s)] if s in EVERYWHERE else self.resolve(s))]
        trace = self.trace
        return [
            v
            for s, v in trace.items()
            if v.held is not None and any(p.matches(s) for p in patterns)
        ]

    def differentiate(
        self,
        target: Target,
        values: Sequence[Value],
        receive: Callable[[Value, Tensor], None],
        *,
        regime: str | Preset = "plain",
        retain: bool = True,
    ) -> Tensor:
        """One backward; `receive(value, grad)` gets each gradient as it arrives. Returns scores."""
        recording = self._ran()
        if not self.grad or not recording.tape.roots:
            raise ProbeError(
                "there is no graph to differentiate: probe with grad=True, inside the `with`, and "
                "ask for a target that depends on the input"
            )
        with torch.inference_mode(False), torch.enable_grad():
            score = target(recording.trace.output)
            if isinstance(regime, Preset):
                self._ledger = propagate(recording, target, values, receive, regime)
            else:
                recording.tape.backward(score, values, receive, regime_named(regime), retain=retain)
        return score.detach()

    def ledger(self) -> Ledger:
        """The books of the last relevance pass. Raises ProbeError when none were kept."""
        if self._ledger is None:
            raise ProbeError(
                "no ledger was kept; open the probe with Probe(model, ledger=True) and ask for "
                "relevance, or call limelight.ledger(model, x, ...)"
            )
        return self._ledger

    def maps(
        self,
        methods: Sequence[Any] | str,
        *,
        target: Any = None,
        sites: Sequence[str | Site] | str | None = None,
        retain: bool = True,
    ) -> Maps:
        """Maps of site methods at the watched sites: one backward per regime and target.

        Methods that need more passes than that are run by `limelight.maps`.
        """
        from .attribution.site_maps import probe_maps

        return probe_maps(self, methods, target, sites, retain=retain)


def _keep_gradient(value: Value, grad: Tensor) -> None:
    value.gradient = grad.detach()
