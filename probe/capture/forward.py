"""One forward under a probe: hooks where they are needed, a mode over ops, early stop, audit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..axes import Declared, Known, ValueAxes, tells_axes
from ..errors import ProbeError
from ..sites import no_match
from .attention import fused_attention, matmul, multi_head, softmax
from .embedding import BYTE_HANDLERS, embedding
from .ids import check_met
from .inputs import explained_input, input_tensors, is_tokens, is_whole, lift
from .kernels import mixer
from .learnt import Learnt, learnt_of
from .model_modules import ModelModules
from .model_state import run_eagerly
from .module_hooks import ActiveForward, ModuleHooks
from .op_mode import OpHandler, OpMode, recurrent
from .recording import Recording, Stop
from .replay import Replay
from .requests import Place, Requests
from .undo import Undo

# Ops that are more than one value to see: what runs in their place, by op name.
OP_HANDLERS: dict[str, OpHandler] = {
    "embedding": embedding,
    "kernel": mixer,
    "matmul": matmul,
    "gru": recurrent,
    "lstm": recurrent,
    "multi_head_attention_forward": multi_head,
    "rnn_relu": recurrent,
    "rnn_tanh": recurrent,
    "scaled_dot_product_attention": fused_attention,
    "softmax": softmax,
}
_FLEX = (
    "this model computes its attention by FlexAttention, which has no gradient on this device; "
    "load it with attn_implementation='sdpa' or 'eager', or probe with grad=False"
)


@dataclass(frozen=True)
class ForwardOptions:
    """What a forward keeps: a graph, what relevance rules need, every value for a ledger.

    whole      run to the end also without a graph, where a forward stops once every site is found
    explained  the name of the input that is explained; "" for the first that is no mask
    members    the dimension that counts samples, by name, of inputs known to have a row a sample
    evaluate   in eval mode
    ops        see every op, which relevance and regimes need; else a forward like one that was seen
               is believed to go the same way, and only its graph is compared with that one's
    """

    grad: bool = True
    relevance: bool = False
    ledger: bool = False
    whole: bool = False
    explained: str = ""
    members: tuple[tuple[str, int], ...] = ()
    evaluate: bool = True
    ops: bool = True


class ForwardCapture:
    """How the forwards of one probe are seen, while its model's modules stay the same."""

    def __init__(self, modules: ModelModules, requests: Requests, options: ForwardOptions) -> None:
        self.modules, self.requests, self.options = modules, requests, options
        self.active = ActiveForward()
        self.hooks = ModuleHooks(self.active)
        self._hooked: tuple[int, bool] | None = None  # requests that hooks were registered for
        self._complete: tuple[int, set[Place]] | None = None  # sites that a whole forward reached
        self.replay: Replay | None = None
        self._axes_read: tuple[int, dict[Any, Known]] = (0, {})  # of the requests of a version
        self._learnt: Learnt | None = None  # what forwards like the one that runs have taught
        self._calm: int | None = None  # requests whose forward had no op in place

    def begin(self, function: object, args: Any, kwargs: Any) -> Recording:
        """An empty recording for a forward on these arguments; the hooks it needs are there."""
        options = self.options
        tensors = input_tensors(args, kwargs)
        explained = options.explained or explained_input(tensors, names=self.modules.argument_names)
        main = tensors.get(explained)
        recording = Recording(
            self.requests,
            grad=options.grad,
            pending=self._pending(),
            axes=self._axes(),
            shape=() if main is None else tuple(main.shape),
            relevance=options.relevance,
            ledger=options.ledger,
        )
        recording.axes.order = recording.tape.order
        recording.trace.aliases = self.modules.aliases
        ids = is_tokens(main) and (main is None or self.modules.takes_ids)
        recording.explained, recording.tokens = explained, ids
        recording.bytes = is_whole(main) and not ids
        recording.members = dict(options.members)
        if not (options.grad or recording.tokens or main is None):
            recording.axes.main_shape = tuple(main.shape)
        self._recall(recording, function, tensors)
        self._register(recording)
        return recording

    def _recall(self, recording: Recording, function: object, tensors: dict[str, Tensor]) -> None:
        """Let a forward know what one like it has taught; it is spared if nothing is in the way."""
        options, requests, modules = self.options, self.requests, self.modules
        self._learnt = None
        plain = recording.grad and options.evaluate and not (options.ops or recording.relevance)
        plain = plain and not (recording.tokens or recording.bytes)
        odd = recording.inside or requests.edited or recording.keeps_calls
        if not plain or odd or self.replay is not None or function is not modules.model:
            return
        if any(is_whole(t) for t in tensors.values()) and requests.names_inputs:
            return
        kinds = tuple((name, t.shape, t.dtype, t.device) for name, t in tensors.items())
        said = (*modules.adapter.axes, *requests.axes.items(), *modules.said)
        key = (recording.explained, options.members, kinds, tuple(requests.watched), said,
               torch.is_autocast_enabled(), torch.is_autocast_enabled("cpu"))  # fmt: skip
        self._learnt = learnt_of(modules.tree, key)
        if self._learnt is not None:
            recording.axes.cache = {}
            if self._learnt.calm:
                recording.axes.cache, recording.axes.learnt = self._learnt.axes, True
                recording.spare()

    def _axes(self) -> ValueAxes:
        """What this forward will know of axes; a probe reads each place once."""
        if self._axes_read[0] != self.requests.version:
            self._axes_read = self.requests.version, {}
        modules = self.modules
        return ValueAxes(
            lambda: Declared({**self.requests.axes, **modules.declared}),
            modules.by_path,
            lambda: modules.adapter.prefix,
            self._axes_read[1],
        )

    def run(
        self, recording: Recording, function: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        """Run the function; its output, None where the forward stopped early."""
        grad = recording.grad
        with Undo() as undo, torch.inference_mode(False), torch.set_grad_enabled(grad):
            run_eagerly(undo)
            args, kwargs = lift(recording, args, kwargs)
            if self.replay is None:
                output = self._record(recording, function, args, kwargs)
            else:
                output = self._replayed(self.replay, recording, function, args, kwargs)
        recording.trace.output = output
        self._finish(recording, output)
        return output

    def _replayed(
        self,
        replay: Replay,
        recording: Recording,
        function: Callable[..., Any],
        args: Any,
        kwargs: Any,
    ) -> Any:
        with Undo() as undo:
            player = replay.install(recording, self.modules, undo)
            output = self._record(recording, function, args, kwargs)
        if not recording.stopped:
            player.check()
        return output

    @property
    def wants_axes(self) -> bool:
        """Whether channels are asked for by number where no module says which dimension they are.

        Only a graph tells then; asked once for each version of the requests.
        """
        if self._axes_read[0] == self.requests.version:
            return False
        by_path = self.modules.by_path
        return any(
            not (pattern.port == "out" and tells_axes(by_path.get(pattern.path)))
            for pattern in self.requests.by_channel()
        )

    def learn_axes(self, other: ForwardCapture) -> None:
        """Take over what a forward with a graph has read."""
        self._axes_read = self.requests.version, other._axes_read[1]

    def close(self) -> None:
        """Leave the model: no hook stays on it, no forward is open."""
        self.active.recording = None
        self.hooks.take_off()

    def _record(
        self, recording: Recording, function: Callable[..., Any], args: Any, kwargs: Any
    ) -> Any:
        self.active.recording = recording
        try:
            with self._mode(recording):
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
            self.active.recording = None
            recording.settle()

    def _mode(self, recording: Recording) -> AbstractContextManager[Any]:
        """The mode that sees all ops.

        Where only borders are wanted it guards values against ops in place, and once a forward had
        none it is spared; values that are overwritten all the same say so when read.
        """
        if recording.spared:
            return nullcontext()
        if not recording.lean or self._calm != self.requests.version:
            return OpMode(
                recording, OP_HANDLERS | BYTE_HANDLERS if recording.bytes else OP_HANDLERS
            )
        recording.spare()
        return nullcontext()

    def _register(self, recording: Recording) -> None:
        """The hooks that the requests need, once for each version of them."""
        followed = recording.grad and not recording.spared
        framed = followed or recording.inside or recording.keeps_calls
        if self._hooked == (self.requests.version, framed):
            return
        if framed:
            self.hooks.frame(self.modules.first)
        for pattern in () if framed else self.requests.patterns():
            for module, path in self.modules.meant_by(pattern):
                self.hooks.watch(module, path, {pattern.port.partition(".")[0]})
        self._hooked = self.requests.version, framed

    def _pending(self) -> set[Place] | None:
        """The sites after which a forward without gradients may stop; None if that is unknown."""
        watched = self.requests.watched
        if self.options.grad or self.options.whole or not watched or "call" in watched.values():
            return None
        if self._complete is not None and self._complete[0] == self.requests.version:
            return self._complete[1]
        concrete = [(p.path, p.port, p.call) for p in watched if p.concrete and p.call is not None]
        return set(concrete) if len(concrete) == len(watched) else None

    def _finish(self, recording: Recording, output: Any) -> None:
        """What the forward taught about the model; the audit. Raises SiteError for a lost site."""
        trace = recording.trace
        if recording.lean:
            calm = not (recording.wrote or recording.overtaken)
            self._calm = self.requests.version if calm else None
        recording.ids.clear()
        if not recording.stopped:
            check_met(recording)
            self._check_reached(recording)
            places = {(s.path, s.port, s.call) for s in trace}
            self._complete = (self.requests.version, places)
        if recording.grad:
            self._audit(recording, output)

    def _audit(self, recording: Recording, output: Any) -> None:
        """What of the graph nobody saw made; of a forward that was spared, what is known of it."""
        learnt, tape = self._learnt, recording.tape
        if learnt is None or not recording.spared:
            recording.trace.holes += tape.close(output)
            if learnt is not None:
                learnt.learn(recording, output)
            return
        tape.begin_at(output, plain=learnt.plain)
        recording.confirmed = learnt.confirms(recording, output)
        recording.trace.holes += learnt.holes

    def _check_reached(self, recording: Recording) -> None:
        trace = recording.trace
        reached = (*trace, *(site for site, _ in trace.edits))
        places = {(site.path, site.port) for site in reached}
        patterns = self.requests.patterns()
        missed = [
            p
            for p in patterns
            if not (p.call is None and (p.path, p.port) in places)
            and not any(p.matches(s) for s in reached)
        ]
        met = {p.word for p in patterns if p.word and p not in missed}
        for pattern in missed:
            if pattern.word not in met:  # of what a word means, a part need not run
                raise no_match(pattern, [*trace, *recording.seen])
