"""The relevance regime: layer-wise relevance propagation over the graph of any forward.

Its currency is the modified gradient g: the relevance of a value x is x g. Nodes that no rule
speaks of hand g on as autograd does, which conserves x g for everything linear. A first-layer
rule yields relevance itself; it travels beside g through everything that only moves values, and
becomes a gradient again where values are computed with.

A pass reads in three files: this one walks the graph, assignment.py says which rule of op_rules.py
sits where, messages.py holds what is on its way.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from ...kernels.shared import wide
from ..errors import ProbeError
from ..ops import LINEAR, Edge, OpCall, OpInput, kind_of
from ..trace import Value, leaves
from .assignment import AssignedOp, Assignment
from .conditional import Masks, edges, masks
from .ledger import Ledger, LedgerRecorder
from .linear_map import around_zeros, linear_map
from .linear_rules import as_gradient
from .messages import Arrived, Message, Messages, backward_of, ends
from .op_rules import OP_RULES, NoRule, RuleContext, no_rule
from .presets import Preset, settled
from .seeds import Seed, seeds

if TYPE_CHECKING:
    from ..backward import Tape
    from ..capture import Recording
    from ..ops import OpRecord

Deliver = Callable[[Value, Tensor], None]


class Propagation:
    """One backward by relevance, and all that it holds.

    tape        the graph of the forward, and the ops that made it
    assignment  which rule sits where
    messages    what is on its way down
    deliver     called with each wanted value and its relevance, on arrival
    only        the part of what arrives at a node that goes on, where the pass is conditional
    held        edges of values that take no relevance in a product
    recorder    what writes the ledger, where one is kept
    """

    def __init__(
        self,
        tape: Tape,
        preset: Preset,
        deliver: Deliver,
        only: Masks | None = None,
        held: Iterable[Edge] = (),
        recorder: LedgerRecorder | None = None,
    ) -> None:
        self.tape, self.preset, self.deliver = tape, preset, deliver
        self.only, self.recorder = only or {}, recorder
        self.assignment = Assignment(tape, preset, held)
        self.messages = Messages()
        self.wanted: dict[Node, list[Value]] = defaultdict(list)

    def run(self, start: Iterable[Seed], values: Sequence[Value]) -> None:
        """Carry relevance from the output down; each value gets its share on arrival."""
        for value in values:
            if value.edge is not None:
                self.wanted[value.edge[0]].append(value)
        for edge, g in start:
            self.messages.send(Message(edge, g))
            if self.recorder is not None:
                self.recorder.begin(edge, g)
        useful, done = self._useful(), set[Node]()
        with torch.no_grad():
            for node in reversed(self.tape.order()):
                if node in useful and node not in done:
                    done.update(self._visit(node, useful))

    def _useful(self) -> set[Node]:
        """The nodes from which a wanted value can be reached, and all of an op with one of them."""
        useful: set[Node] = set()
        for node in self.tape.order():
            if node in self.wanted or any(n in useful for n, _ in node.next_functions):
                useful.add(node)
        return useful

    def _visit(self, node: Node, useful: set[Node]) -> tuple[Node, ...]:
        """One node, with the rest of the op whose rule sits there; the nodes that are done."""
        g, r = self.messages.take(node)
        self._arrive(node, g, r)
        assigned = self.assignment.ops.get(node)
        if self.recorder is not None:
            place = self.tape.claimed.get(node, "") if assigned is None else assigned.op.place
            self.recorder.enter(place, node, g, r)
        if not (g or r) or not any(n in useful for n, _ in node.next_functions):
            return ()
        if assigned is None:
            self._send(self._through(node, g, r))
            return ()
        self._send(self._by_rule(assigned, g, r))
        return assigned.nodes

    def _send(self, messages: Iterable[Message]) -> None:
        for message in messages:
            if self.recorder is not None:
                self.recorder.sent(message)
            self.messages.send(message)

    def _arrive(self, node: Node, g: dict[int, Tensor], r: dict[int, Tensor]) -> None:
        """What has come to a node: cut down to what the pass is conditioned on, and delivered."""
        for nr, mask in self.only.get(node, ()):
            for arrived in (g, r):
                if nr in arrived:
                    arrived[nr] = arrived[nr] * mask.to(arrived[nr].dtype)
        for value in self.wanted.get(node, ()):
            nr = value.edge[1] if value.edge is not None else 0
            self._deliver(value, g.get(nr), r.get(nr))

    def _deliver(self, value: Value, g: Tensor | None, r: Tensor | None) -> None:
        act = wide(value.act)
        if value.flipped:
            g = None if g is None else g.transpose(-1, -2)
            r = None if r is None else r.transpose(-1, -2)
        total = torch.zeros_like(act.real if act.is_complex() else act)
        if g is not None:
            total = (act.conj() * g.to(act)).real if act.is_complex() else act * g.to(act)
        self.deliver(value, total if r is None else total + r.to(total))

    def _through(self, node: Node, g: Arrived, r: Arrived) -> Iterator[Message]:
        """One autograd node that no rule speaks of."""
        if ends(node):
            return
        if node not in self.tape.claimed:
            raise NoRule(
                f"relevance met {node.name()}, which the probe did not see being made (a script, a "
                "user-written autograd Function or another thread); write it as plain torch ops"
            )
        op = self.assignment.maker.get(node)
        if op is not None and self.preset.unknown == "error" and kind_of(op.name) == "none":
            raise no_rule(op)
        for edge, x in backward_of(node, g) if g else ():
            yield Message(edge, x)
        for edge, x in backward_of(node, r) if r else ():
            yield Message(edge, x, relevance=True)

    def _by_rule(self, assigned: AssignedOp, g: Arrived, r: Arrived) -> Iterable[Message]:
        """One op by its rule; relevance becomes a gradient of its result."""
        op, call = assigned.op, assigned.op.call
        if call is None or call.out is None:
            raise NoRule(f"op {op.name!r} at {op.place} was not kept for relevance")
        if assigned.kind in LINEAR:
            return self._linear(assigned, call, call.out, g.get(0), r.get(0))
        out, grad = call.out, g.get(0)
        if 0 in r:
            more = as_gradient(wide(r[0]), wide(out.act)).to(out.act.dtype)
            grad = more if grad is None else grad + more
        grad = torch.zeros_like(out.act) if grad is None else grad
        others = {nr: x for nr, x in g.items() if nr}
        context = RuleContext(op, call, out, grad, r.get(0), others, self.assignment)
        return OP_RULES[assigned.kind](context)

    def _linear(
        self, assigned: AssignedOp, call: OpCall, out: OpInput, g: Tensor | None, r: Tensor | None
    ) -> Iterator[Message]:
        """A linear map, with the batch norm that follows it if there is one."""
        op, norm = assigned.op, assigned.norm
        product = call.value_and_weight(op.name)
        x: OpInput = product[0] if product is not None else call.named["input"]
        a = replace(linear_map(op.name, call), places=around_zeros(x))
        a = a if self.recorder is None else replace(a, record=self.recorder.absorb)
        if norm is not None and norm.call is not None and norm.call.out is not None:
            a, out = a.followed_by(norm.call), norm.call.out
        z = wide(out.act)
        if norm is not None:
            self._pass_by(op, z, g, r)
        rule = self.preset.rule(assigned.kind, op, first=assigned.first, last=assigned.last)
        if rule is not None:
            if r is None and g is not None and out.act.dtype == z.dtype:  # nothing was rounded away
                a = replace(a, y=z, grad=wide(g))
            back = rule(a, _total(z, g, r))
            yield Message(x.edge, back.to(x.act.dtype), relevance=not rule.gradient)
            return
        grad = g if r is None else as_gradient(_total(z, g, r), z)
        if grad is not None:
            a.absorb(wide(grad), z, z, a.bias, 1.0)
            yield Message(x.edge, a.transpose(wide(grad), a.weight).to(x.act.dtype))

    def _pass_by(self, op: OpRecord, z: Tensor, g: Tensor | None, r: Tensor | None) -> None:
        """Values between a linear map and its batch norm: they carry what the norm received."""
        for value in self.wanted.get(op.nodes[0], ()):
            self._deliver(value, None, _total(z, g, r))


def _total(z: Tensor, g: Tensor | None, r: Tensor | None) -> Tensor:
    """The relevance of a value z that received a gradient, relevance, or both."""
    total = torch.zeros_like(z) if g is None else z * wide(g)
    return total if r is None else total + wide(r)


def propagate(
    recording: Recording,
    target: Callable[[Any], Tensor],
    values: Sequence[Value],
    receive: Callable[[Value, Tensor], None],
    preset: Preset,
) -> Ledger | None:
    """One backward of the relevance regime: `receive(value, relevance)` for each value.

    Returns the ledger where the forward held values for one.

    Raises ProbeError when the forward kept nothing for it, NoRule where a rule is missing.
    """
    _check(recording, values)
    waiting = {id(v): v for v in values}

    def deliver(value: Value, relevance: Tensor) -> None:
        if waiting.pop(id(value), None) is not None:
            receive(value, relevance)

    trace, tape = recording.trace, recording.tape
    outputs = [t for _, t in leaves(trace.output) if t.grad_fn is not None]
    start = seeds(trace.output, outputs, target, preset)
    preset = settled(preset, tape.ops)
    recorder = _recorder(recording, outputs)
    only, held = masks(trace, preset.through), edges(trace, preset.hold)
    Propagation(tape, preset, deliver, only, held, recorder).run(start, values)
    for value in waiting.values():
        receive(value, torch.zeros_like(wide(value.act)))
    return None if recorder is None else recorder.close(tape)


def _recorder(recording: Recording, outputs: Sequence[Tensor]) -> LedgerRecorder | None:
    """What writes the ledger; None where none is kept."""
    if not recording.ledger:
        return None
    for t in outputs:
        recording.book(t)
    return LedgerRecorder(recording.tape.values)


def _check(recording: Recording, values: Sequence[Value]) -> None:
    if not recording.relevance:
        raise ProbeError(
            "relevance was asked of a forward that held nothing for it; open the probe with "
            "Probe(model, relevance=True)"
        )
    half = next((str(v.site) for v in values if v.act.dtype == torch.float16), None)
    for op in recording.tape.ops:
        if op.call is not None and op.call.out is not None:
            half = half or (op.place if op.call.out.act.dtype == torch.float16 else None)
    if half:
        raise ProbeError(
            f"{half} is float16, whose range is too small for relevance; use bfloat16 or float32"
        )
