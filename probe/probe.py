"""The probe: one object that sees, captures, edits and differentiates any PyTorch model.

with Probe(net) as p:
    p.watch("encoder.*", "decoder.2:in")
    p(x)
    maps = p.maps(["gradcam", "normgrad"], target=label(3))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from torch import Tensor, enable_grad, inference_mode, nn

from .axes import Layout
from .capture import (
    Claim,
    ForwardCapture,
    ForwardOptions,
    Keep,
    ModelModules,
    Recording,
    Replay,
    Requests,
    Undo,
    check_devices,
    prepare,
    release,
    take,
    undoes,
)
from .errors import ProbeError
from .ops import OpRecord
from .regimes import Regime, backward_of
from .relevance import Ledger
from .sites import (
    Adapter,
    Address,
    AddressLike,
    ModuleTree,
    Pattern,
    addresses,
    hookable,
    is_script,
    parse,
    resolve,
    sealed,
    tree_of,
)
from .targets import Given, Target, by_name, targets
from .trace import Edit, Trace, Value, exchange

if TYPE_CHECKING:
    from .attribution import Methods, Output, Sites, Targets
    from .results import Maps

EVERYWHERE = ("**", "**:**")


class Probe:
    """Probe a model inside a `with`; on leaving, the model is exactly as it was.

    grad      build a graph, so that gradients and maps can be asked for (weights are frozen)
    evaluate  run in eval mode
    ledger    keep books of relevance passes, for `probe.ledger()`; holds every value
    relevance  also hold what relevance rules need, so that the relevance regime can be asked for
    whole     run to the end also without gradients, where a forward stops once every site is found
    adapter   how to read the model; by default what the registered readers say of it
    explained  the name of the input that `input` means, `"image"` or `"1"`; by default the first
              that is no mask
    members   of inputs known to have a row a sample, by name, the dimension that counts them
    axes      what dimensions mean where no op tells, by address: `{"input": "b c y x"}`
    ops       see every op: `probe.ops`, guided and deconv need it. Without, plain gradients at
              modules' borders cost a hook each, once a forward like this one has been seen

    Values outlive the `with`; graphs do not. What a model caches by itself is not undone.

    Threads: each may probe another model. A model is probed by one thread at a time: entering a
    probe while another thread (or another task of this one) has one open on the same model, or on
    a part of it, raises ProbeError; `limelight.maps`, `trace` and `patch` wait instead. Nothing
    stops a thread that uses the model without a probe: beside an open one it runs in eval mode
    with frozen weights, so train a copy.

    Example:
        >>> with ll.Probe(net) as p:
        ...     logits = p.watch("0")(x)
        ...     maps = p.maps(["gradcam", "normgrad"], target=ll.label(1))
        >>> len(maps)
        4
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
        adapter: Adapter | None = None,
        axes: Mapping[str, str] | None = None,
        explained: str = "",
        members: Mapping[str, int] | None = None,
        ops: bool = True,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ProbeError(f"a probe needs a torch.nn.Module, not {type(model).__name__}")
        self.model, self.evaluate = hookable(model), evaluate
        rows = tuple((members or {}).items())
        relevance = relevance or ledger
        self.options = ForwardOptions(
            grad, relevance, ledger, whole, explained, rows, evaluate, ops
        )
        self._adapter, self._axes = adapter, axes
        self.requests = Requests()
        self._capture: ForwardCapture | None = None
        self._replayed: tuple[Trace | Mapping[str, Any], str | None] | None = None
        self._last: Recording | None = None
        self._ledger: Ledger | None = None
        self._undo: Undo | None = None
        self._claim = Claim(())
        self._in_order = True
        self._running: dict[str, object] = {}  # who runs it: one at a time

    @property
    def capture(self) -> ForwardCapture:
        """How forwards are seen, and what is known of the model's modules."""
        if self._capture is None:
            self._look_again(tree_of(self.model))
        return self._capture  # type: ignore[return-value]

    def _look_again(self, tree: ModuleTree) -> None:
        """Forget what was learnt about the model if its modules are no longer the same."""
        old = self._capture
        if old is None or old.hooks.broken or old.modules.tree != tree:
            modules = ModelModules(self.model, tree, self._adapter, self._axes)
            self._capture = ForwardCapture(modules, self.requests, self.options)
            self._capture.replay = self._replay_in(modules)

    @property
    def running(self) -> Recording | None:
        """The forward that is being recorded."""
        return None if self._capture is None else self._capture.active.recording

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Every module by path; a module with several names answers to all of them."""
        return self.capture.modules.by_path

    @property
    def adapter(self) -> Adapter:
        """What the model's family calls its layers and tokens."""
        return self.capture.modules.adapter

    def __enter__(self) -> Probe:
        if self._undo is not None:
            raise ProbeError("this probe is already open; leave its `with` before entering again")
        undo = Undo()
        try:  # returning is part of it: what an interrupt stops is put back as well
            self._undo = undo
            self._open(undo)
            return self
        except BaseException:
            self._undo = None
            undo.close()
            raise

    def _open(self, undo: Undo) -> None:
        check_devices(self.model)
        tree = tree_of(self.model)
        self._claim = Claim(tree.modules)
        undo.note(self._release)
        undo.note(self._drop_graph)
        take(self._claim)
        prepare(self.model, tree.modules, undo, grad=self.options.grad, evaluate=self.evaluate)
        self._look_again(tree)
        undo.note(self.capture.close)
        self.capture.hooks.put_on()

    def _release(self) -> None:
        self._in_order = release(self._claim)

    def _close(self) -> None:
        if self._undo is not None:
            self._undo.close()
        self._undo = None

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
            self._last.axes.close(v for v in self._last.trace.values() if v.held is not None)
            for value in self._last.trace.values_by_site.values() if self.options.grad else ():
                value.edge = None
            self._last.trace.output = exchange(self._last.trace.output, lambda _, x: x.detach())
            self._last.tape.drop()

    def watch(self, *addresses: Address, keep: Keep = "device") -> Probe:
        """Ask for sites: addresses with wildcards, `hidden`, `last`, `heads`, `input`, modules.

        keep="cpu" moves captured values off the device; keep="call" holds whole calls of modules,
        arguments and all that they return, in `trace.calls`. Raises SiteError when nothing matches.
        """
        self.requests.watch([p for a in addresses for p in self.resolve(a)], keep)
        return self

    @property
    def watched(self) -> Sequence[Pattern]:
        """What was asked for."""
        return list(self.requests.watched)

    def edit(self, edits: Mapping[AddressLike, Edit]) -> Probe:
        """Change values as they pass: `{"blocks.3.attn:heads.6": zero}`; later edits on top."""
        for address, edit in edits.items():
            for pattern in self.resolve(address):
                self.requests.edit(pattern, edit)
        return self

    def replay(
        self, values: Trace | Mapping[str, object] | None, start: str | None = None
    ) -> Probe:
        """Start the runs to come at a module; what lies before answers with the values given.

            clean = limelight.trace(model, x, "blocks.*")
            with Probe(model, grad=False) as p:
                p.replay(clean, start="blocks.5").edit({"blocks.5.attn:heads.2": zero})
                p(x)  # blocks.0 to blocks.4 are not computed again

        values  a trace of watched modules, or what modules return, by path; modules without a
                value are computed, and so are all from `start` on. None ends the replay.
                A trace replays modules that return more than one tensor, as many of Hugging Face
                do, if they were watched with keep="call"
        start   a module, or a later call of it, `layer@1`; None: all that have a value answer
        Where a graph is built, gradients start at the values that were replayed.
        Raises SiteError for a module that is not there; the run raises ProbeError if it never
        comes to `start`.
        """
        self._replayed = None if values is None else (values, start)
        self.capture.replay = self._replay_in(self.capture.modules)
        return self

    def _replay_in(self, modules: ModelModules) -> Replay | None:
        return None if self._replayed is None else Replay.of(*self._replayed, modules)

    def resolve(self, address: Address) -> list[Pattern]:
        """The patterns an address, a word or a module means in this model. Raises SiteError."""
        modules = self.capture.modules
        return resolve(address, modules.by_path, modules.first, lambda: modules.adapter)

    def __call__(self, *args: object, **kwargs: object) -> Output:
        """Run the model under the probe and return its output (None after an early stop)."""
        return self.run(self.model, *args, **kwargs)

    @undoes
    def run(self, function: Callable[..., Output], *args: object, **kwargs: object) -> Output:
        """Run any function that uses the model as the forward: `p.run(model.generate, ids)`.

        Float tensors among the arguments become the inputs that gradients are taken for; where
        there are none, the outputs of embeddings do.
        """
        if self._undo is None:
            raise ProbeError("a probe runs only inside its `with`: `with Probe(model) as p: p(x)`")
        turn = object()
        Undo().note(self._leave, turn)  # with this call
        if self._running.setdefault("turn", turn) is not turn:
            raise ProbeError(
                "this probe is already running; it cannot run itself from inside a forward, or in "
                "two threads at once"
            )
        self._drop_graph()
        if not self.options.grad and self.capture.wants_axes:
            self._learn_axes(function, args, kwargs)
        output, confirmed = self._run(function, args, kwargs)
        if not confirmed:  # the model went another way than it did before
            output, _ = self._run(function, args, kwargs)
        return output

    def _leave(self, turn: object) -> None:
        if self._running.get("turn") is turn:
            del self._running["turn"]

    def _run(self, function: Callable[..., Output], args: Any, kwargs: Any) -> tuple[Output, bool]:
        """One forward; whether what was believed of it has been confirmed."""
        recording = self.capture.begin(function, args, kwargs)
        self._last, self._ledger = recording, None
        return self.capture.run(recording, function, args, kwargs), recording.confirmed

    def _learn_axes(self, function: Callable[..., Any], args: Any, kwargs: Any) -> None:
        """One run with a graph, which tells where the channels lie that are asked for by number."""
        wanted = {replace(p, index=None) for p in self.requests.by_channel()}
        learner = Probe(
            self.model,
            adapter=self.adapter,
            axes=self._axes,
            explained=self.options.explained,
            members=dict(self.options.members),
        )
        with learner:
            learner.watch(*wanted).run(function, *args, **kwargs)
        self.capture.learn_axes(learner.capture)

    @property
    def trace(self) -> Trace:
        """What the last run left behind. Raises ProbeError before the first."""
        return self._ran().trace

    @property
    def ops(self) -> Sequence[OpRecord]:
        """The ops of the last forward that depend on its input, until the probe is left."""
        return self._ran().tape.ops

    @property
    def input_sizes(self) -> Mapping[str, int]:
        """How long the input that ran last is along each axis: `{"b": 4, "c": 3, "y": 224}`."""
        return self._ran().axes.input_sizes()

    def input_layout(self) -> Layout:
        """How methods read the input that ran last. Raises SiteError where that is not known."""
        return self._ran().axes.input_layout()

    def layout(self, value: Value) -> Layout:
        """How methods read a captured value. Raises SiteError where its axes are not known."""
        return self._ran().axes.layout(value)

    @property
    def given(self) -> Given:
        """What the model was given last: how many samples, how many token ids each."""
        return self._ran().given

    def _ran(self) -> Recording:
        if self._last is None:
            raise ProbeError("nothing has run under this probe yet; call it on an input first")
        return self._last

    def backward(
        self,
        target: Target | Callable[[Any], Tensor] | int | str,
        *,
        regime: Regime = "plain",
        sites: Sequence[Address] = EVERYWHERE,
        retain: bool = True,
    ) -> Trace:
        """Take the gradient of a target at the watched sites; it is then `trace[site].grad`."""
        values = self.values(sites)
        if tuple(sites) == EVERYWHERE:
            values = [v for v in values if v.edge is not None] or values
        chosen = targets(target)[0].resolve(by_name(self.adapter.labels))
        self.differentiate(chosen, values, _keep_gradient, regime=regime, retain=retain)
        return self.trace

    def values(self, sites: Sequence[Address] = EVERYWHERE) -> list[Value]:
        """The captured values that can have a gradient of their own, in execution order."""
        patterns = [
            p
            for s in addresses(sites)
            for p in ([parse(s)] if s in EVERYWHERE else self.resolve(s))
        ]
        trace = self.trace
        return [
            v
            for s, v in trace.items()
            if v.held is not None and any(p.matches(s) for p in patterns)
        ]

    @undoes
    def differentiate(
        self,
        target: Target,
        values: Sequence[Value],
        receive: Callable[[Value, Tensor], None],
        *,
        regime: Regime = "plain",
        retain: bool = True,
    ) -> Tensor:
        """One backward; `receive(value, grad)` gets each gradient as it arrives. Returns scores."""
        recording = self._ran()
        if regime != "plain" and is_script(self.model):
            raise sealed(f"the backward {getattr(regime, 'name', regime)!r}")
        if not recording.grad or not recording.tape.roots:
            raise _no_graph(recording)
        if regime != "plain" and not self.options.ops:
            raise ProbeError(f"the backward {regime!r} changes ops: open the probe with ops=True")
        backward = backward_of(regime)
        with inference_mode(False), enable_grad():
            target = target.settle(recording.trace.output, recording.given)
            score = target(recording.trace.output, recording.given.samples)
            ledger = backward(recording, target, score, values, receive, retain=retain)
        self._ledger = ledger or self._ledger
        return score.detach()

    def ledger(self) -> Ledger:
        """The books of the last relevance pass. Raises ProbeError when none were kept."""
        if self._ledger is None:
            raise ProbeError(
                "no ledger was kept; open the probe with Probe(model, ledger=True) and ask for "
                "relevance, or call limelight.ledger(model, x, ...)"
            )
        return self._ledger

    @undoes
    def maps(
        self,
        methods: Methods,
        *,
        target: Targets = None,
        sites: Sites = None,
        retain: bool = True,
    ) -> Maps:
        """Maps of site methods at the watched sites: one backward per regime and target.

        Methods that need more passes than that are run by `limelight.maps`.
        """
        from .attribution.site_maps import probe_maps

        return probe_maps(self, methods, target, sites, retain=retain)


def _no_graph(recording: Recording) -> ProbeError:
    """The error for a forward that left nothing to differentiate."""
    quantised = [str(hole) for hole in recording.trace.holes if "quantised" in hole.node]
    if quantised:
        return ProbeError(
            f"there is no graph to differentiate: {', '.join(quantised)}; load the float model, or "
            "use occlusion or rise, which run it forwards only"
        )
    return ProbeError(
        "there is no graph to differentiate: probe with grad=True, inside the `with`, and ask for "
        "a target that depends on the input"
    )


def _keep_gradient(value: Value, grad: Tensor) -> None:
    value.gradient = grad.detach()
