"""The relevance regime: layer-wise relevance propagation over the graph of any forward.

Its currency is the modified gradient g: the relevance of a value x is x g. Nodes that no rule
speaks of hand g on as autograd does, which conserves x g for everything linear. A first-layer
rule yields relevance itself; it travels beside g through everything that only moves values, and
becomes a gradient again where values are computed with.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from ..errors import ProbeError
from ..ops import LINEAR, Call, Edge, Operand, kind_of, wide
from ..trace import Value, exchange, leaves
from .assignment import Group, Scheme
from .conditional import Masks, masks
from .ledger import Books, Ledger
from .linear_map import affine
from .linear_rules import ratio
from .messages import Flow, backward_of, ends
from .op_rules import RULES, NoRule, Turn, no_rule
from .presets import Preset, recommended

if TYPE_CHECKING:
    from ..backward import Tape
    from ..capture import Recording
    from ..ops import OpRecord

__all__ = ["NoRule", "Propagation", "propagate"]
Seed = tuple[Edge, Tensor]
_TINY = 1e-10


class Propagation:
    """One backward of the relevance regime over a tape."""

    def __init__(
        self,
        tape: Tape,
        preset: Preset,
        deliver: Callable[[Value, Tensor], None],
        only: Masks | None = None,
        books: Books | None = None,
    ) -> None:
        self.tape, self.preset, self.deliver, self.only = tape, preset, deliver, only or {}
        self.flow = Flow(books=books)
        self.scheme = Scheme(tape, preset)
        self.wanted: dict[Node, list[Value]] = defaultdict(list)

    def run(self, seeds: Iterable[Seed], values: Sequence[Value]) -> None:
        """Carry relevance from the output down; each value gets its share on arrival."""
        for value in values:
            if value.edge is not None:
                self.wanted[value.edge[0]].append(value)
        for edge, start in seeds:
            self.flow.add(edge, start)
        useful, done = self._useful(), set[Node]()
        with torch.no_grad():
            for node in reversed(self.tape.order()):
                if node in done or node not in useful:
                    continue
                g, r = self.flow.take(node)
                self._arrive(node, g, r)
                self._enter(node, g, r)
                if not (g or r) or not any(n in useful for n, _ in node.next_functions):
                    continue
                group = self.scheme.groups.get(node)
                if group is None:
                    self._through(node, g, r)
                else:
                    done.update(group.nodes)
                    self._apply(group, g, r)

    def _enter(self, node: Node, g: dict[int, Tensor], r: dict[int, Tensor]) -> None:
        """Open the account of the op that now receives relevance."""
        books = self.flow.books
        if books is None:
            return
        group = self.scheme.groups.get(node)
        books.giver = group.op.place if group is not None else self.tape.claimed.get(node, "")
        for nr in {**g, **r}:
            books.receive(books.giver, (node, nr), g.get(nr), r.get(nr))

    def _useful(self) -> set[Node]:
        """The nodes from which a wanted value can be reached, and all of an op with one of them."""
        useful: set[Node] = set()
        for node in self.tape.order():
            if node in self.wanted or any(n in useful for n, _ in node.next_functions):
                useful.add(node)
        return useful

    def _arrive(self, node: Node, g: dict[int, Tensor], r: dict[int, Tensor]) -> None:
        """What has come to a node: cut down to what the pass is conditioned on, and delivered."""
        for nr, mask in self.only.get(node, ()):
            for at in (g, r):
                if nr in at:
                    at[nr] = at[nr] * mask.to(at[nr].dtype)
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

    def _through(self, node: Node, g: Mapping[int, Tensor], r: Mapping[int, Tensor]) -> None:
        """One autograd node that no rule speaks of."""
        if ends(node):
            return
        if node not in self.tape.claimed:
            raise NoRule(
                f"relevance met {node.name()}, which the probe did not see being made (a script, a "
                "user-written autograd Function or another thread); write it as plain torch ops"
            )
        op = self.scheme.maker.get(node)
        if op is not None and self.preset.unknown == "error" and kind_of(op.name) == "none":
            raise no_rule(op)
        for edge, x in backward_of(node, g) if g else ():
            self.flow.add(edge, x)
        for edge, x in backward_of(node, r) if r else ():
            self.flow.add(edge, x, relevance=True)

    def _apply(self, group: Group, g: dict[int, Tensor], r: dict[int, Tensor]) -> None:
        """One op by its rule."""
        call = group.op.call
        if call is None:
            raise NoRule(f"op {group.op.name!r} at {group.op.place} was not kept for relevance")
        if group.kind in LINEAR:
            self._linear(group, call, g.get(0), r.get(0))
            return
        own = self._as_gradient(call, g.get(0), r.get(0))
        if own is None:
            own = torch.zeros_like(call.out.act) if call.out is not None else None
        more = {nr: x for nr, x in g.items() if nr}
        turn = Turn(group.op, call, own, r.get(0), self.flow, self.scheme, more)  # type: ignore[arg-type]
        RULES[group.kind](turn)

    def _as_gradient(self, call: Call, g: Tensor | None, r: Tensor | None) -> Tensor | None:
        if r is None or call.out is None:
            return g if g is not None else r
        own = ratio(wide(r), wide(call.out.act), _TINY).to(call.out.act.dtype)
        return own if g is None else g + own

    def _linear(self, group: Group, call: Call, g: Tensor | None, r: Tensor | None) -> None:
        """A linear map, with the batch norm that follows it if there is one."""
        product = call.map_of(group.op.name)
        x: Operand = product[0] if product is not None else call.named["input"]
        a, out = affine(group.op.name, call), call.out
        books = self.flow.books
        a = a if books is None else replace(a, book=books.absorb)
        if group.norm is not None and group.norm.call is not None:
            a = a.scaled(*_folded(group.norm.call))
            out = group.norm.call.out
        if out is None:
            return
        z = wide(out.act)
        if group.norm is not None:
            self._pass_by(group.op, z, g, r)
        place = self.preset.rule(group.kind, group.op, first=group.first, last=group.last)
        if place is not None:
            back = place(a, _total(z, g, r))
            self.flow.add(x.edge, back.to(x.act.dtype), relevance=not place.gradient)
            return
        whole = g if r is None else ratio(_total(z, g, r), z, _TINY)
        if whole is not None:
            a.absorb(wide(whole), z, z, a.bias, 1.0)
            self.flow.add(x.edge, a.adjoint(wide(whole), a.weight).to(x.act.dtype))

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
    got = {id(v): v for v in values}

    def deliver(value: Value, relevance: Tensor) -> None:
        if got.pop(id(value), None) is not None:
            receive(value, relevance)

    outputs = [t for _, t in leaves(recording.trace.output) if t.grad_fn is not None]
    seeds = _seeds(recording.trace.output, outputs, target, preset)
    chosen = preset if preset.name != "auto" else _settled(preset, recording.tape.ops)
    only = masks(recording.trace, chosen.through)
    books = _books(recording, outputs, seeds)
    Propagation(recording.tape, chosen, deliver, only, books).run(seeds, values)
    for value in got.values():
        receive(value, torch.zeros_like(wide(value.act)))
    return None if books is None else books.close(recording.tape)


def _seeds(
    output: Any, outputs: Sequence[Tensor], target: Callable[[Any], Tensor], preset: Preset
) -> list[Seed]:
    """Where a pass starts, and with what: the target's gradient in each tensor of the output.

    One may be made of another, as a mean of two heads is: each receives what is read from itself.
    """

    def cut(_: str, x: Tensor) -> Tensor:
        return x.detach().requires_grad_() if x.grad_fn is not None else x

    apart = exchange(output, cut)
    score = target(apart)
    ends = [t for _, t in leaves(apart) if t.requires_grad]
    grads = torch.autograd.grad(score.sum(), ends, allow_unused=True)
    return [
        ((t.grad_fn, t.output_nr), _start(t, g, score, preset))
        for t, g in zip(outputs, grads, strict=True)
        if g is not None and t.grad_fn is not None
    ]


def _books(recording: Recording, outputs: Sequence[Tensor], seeds: Sequence[Seed]) -> Books | None:
    """Opened books, with the relevance at the start; None where no ledger is kept."""
    if not recording.ledger:
        return None
    for t in outputs:
        recording.book(t)
    return Books(recording.tape.values).opened(seeds)


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


def _settled(asked: Preset, ops: list[OpRecord]) -> Preset:
    found = recommended(ops)
    own = ("init", "pool", "unknown", "sites", "through")
    return replace(found, **{name: getattr(asked, name) for name in own})


def _start(output: Tensor, g: Tensor, score: Tensor, preset: Preset) -> Tensor:
    """The modified gradient at the output: plain, over the score, or against the other classes."""
    if preset.init == "one":
        return g / score.detach().reshape(-1, *[1] * (g.ndim - 1))
    if preset.init == "softmax-contrast":
        classes = -1 if g.ndim == 3 else 1
        others = wide(output.detach()).masked_fill(g > 0, float("-inf")).softmax(classes)
        return g - (others * wide(g).sum(classes, keepdim=True)).to(g)
    if preset.init == "clrp":
        classes = -1 if g.ndim == 3 else 1
        z = wide(output.detach())
        whole = (z * wide(g)).sum(classes, keepdim=True) / (z.shape[classes] - 1)
        return g - ratio(whole.expand_as(z).masked_fill(g != 0, 0), z, _TINY).to(g)
    return g


def _folded(norm: Call) -> tuple[Tensor, Tensor, Tensor]:
    """Scale, shift and mean of a batch norm in eval mode."""
    n = norm.plain()
    mean, var = wide(n["running_mean"]), wide(n["running_var"])
    scale = torch.rsqrt(var + n.get("eps", 1e-5))
    if n.get("weight") is not None:
        scale = scale * wide(n["weight"])
    shift = wide(n["bias"]) if n.get("bias") is not None else torch.zeros_like(mean)
    return scale, shift, mean
