"""ACDC on heads: take edges away one by one, from the output back, while the output stays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from ....probe.attribution import Count, Natural, Spread
from ....probe.probe import Probe
from ....probe.sites import Pattern, Site
from ....probe.targets import scores
from ....probe.trace import exchange, leaves
from ..evidence import Evidence, feed
from ..interventions import watched_calls
from ..score import Score, circuit_method
from ..tasks import PairBatch
from .attribution_patching import attribution


@circuit_method("acdc", needs=("activations", "gradient", "model"))
def acdc(
    evidence: Evidence,
    *,
    threshold: Spread = 0.01,
    by: Literal["kl", "metric"] = "kl",
    heads: Count = 12,
    pairs: Natural = 8,
) -> Score:
    """Automatic circuit discovery (arXiv 2304.14997) on a graph of heads.

    Nodes: the input, heads, the output; an edge u -> v carries what u adds to the residual stream
    into v's queries, keys and values (or the output), MLPs are part of the ground. From the output
    back, each edge is made corrupt; where that costs less than `threshold` it stays so.
    by       the cost: mean KL divergence of the output from the clean one, in nats, or the loss
             of the metric as a share of its fall from clean to corrupt
    heads    the graph holds the heads that attribution ranks first; 0 for all (slow: one forward
             for every edge). pairs: how many are run.
    A head's score is the cost of taking it off, summed over its edges that stayed; 0 if none did.
    """
    ranked = attribution(evidence).values.argsort(descending=True)
    chosen = sorted(ranked[: heads or evidence.heads].tolist())
    wiring = Wiring(evidence, pairs)
    cost = 0.0
    layer = evidence.outputs.layer
    edges = torch.zeros(evidence.heads + 2, evidence.heads + 2)
    for v in [wiring.output, *reversed(chosen)]:
        for u in [*reversed([u for u in chosen if wiring.before(u, v, layer)]), wiring.input]:
            wiring.corrupt[u, v] = True
            new = wiring.cost(by)
            if new - cost < threshold:
                cost = new
            else:
                wiring.corrupt[u, v] = False
                edges[u, v] = new - cost
    inner = edges[: evidence.heads, : evidence.heads]
    values = edges[: evidence.heads].sum(1) + edges[:, : evidence.heads].sum(0)
    facts = {"from input": edges[wiring.input, : evidence.heads], "tried": chosen, "cost": cost}
    facts["to output"] = edges[: evidence.heads, wiring.output]
    return Score(values, edges=inner, facts=facts)


class Wiring:
    """The model as a graph of heads, of which some edges carry what the corrupt input gives.

    corrupt  `h + 2` square, from and to; the last two are the input and the output
    """

    def __init__(self, evidence: Evidence, pairs: int) -> None:
        self.evidence = evidence
        self.outputs = evidence.outputs
        self.input, self.output = evidence.heads, evidence.heads + 1
        self.corrupt = torch.zeros(self.output + 1, self.output + 1, dtype=torch.bool)
        self.paths = [p for p in evidence.outputs.adapter.hidden if p]
        self.states = [
            _State(evidence, group, self.paths) for group in evidence.pairs[:pairs].batches(16)
        ]

    def before(self, u: int, v: int, layer: Tensor) -> bool:
        """Whether an edge from head u may lead to v."""
        return v == self.output or bool(layer[u] < layer[v])

    def cost(self, by: str) -> float:
        """What the corrupt edges cost, mean over pairs."""
        costs = [self._cost(state, by) for state in self.states]
        return float(torch.cat(costs).mean())

    def _cost(self, state: _State, by: str) -> Tensor:
        output = self._run(state)
        with torch.no_grad():
            if by == "metric":
                target = state.group.pairs.target()
                sides = self.evidence.clean.metric, self.evidence.corrupt.metric
                fall = (sides[0] - sides[1]).mean()
                return (sides[0][state.group.places] - target(output).float().cpu()) / fall
            new = scores(output, state.group.pairs.given).float().log_softmax(-1)
            old = state.clean.float().log_softmax(-1)
            return (old.exp() * (old - new)).sum(-1).cpu()

    def _run(self, state: _State) -> Any:
        """The output with the corrupt edges."""
        now: dict[int, Tensor] = {}
        x = state.entry
        for path in self.paths:
            layers = [i for i, block in enumerate(self.outputs.blocks) if block == path]
            new: dict[int, Tensor] = {}
            for layer in layers:
                span = self.outputs.span(layer)
                for v in range(span.start, span.stop):
                    if self.corrupt[:, v].any():
                        moved = x + self._change(state, v, now, x)
                        new[v] = self._z(state, path, layer, moved)[:, :, v - span.start]
            x = self._block(state, path, layers, x, new, now)
        last = x + self._change(state, self.output, now, x)
        answers = {path: call.output for path, call in state.calls.items()}
        answers[self.paths[-1]] = _with_first(answers[self.paths[-1]], last)
        with Probe(self.evidence.model, grad=False) as probe:
            return probe.replay(answers)(state.x)

    def _change(self, state: _State, v: int, now: Mapping[int, Tensor], like: Tensor) -> Tensor:
        """What v's corrupt edges put in place of what was written: `b n m`, as `like`."""
        total = torch.zeros_like(like)
        for u in self.corrupt[:, v].nonzero()[:, 0].tolist():
            if u == self.input:
                part = state.other - state.entry
            else:
                wrong = state.corrupt[:, -now[u].shape[1] :, u].to(total) - now[u]
                part = wrong @ self.outputs.weight[u].to(total)
            places = total.flatten(1, -2)
            places[:, -part.flatten(1, -2).shape[1] :] += part.flatten(1, -2)
        return total

    def _z(self, state: _State, path: str, layer: int, x: Tensor) -> Tensor:
        """The heads of a layer that reads x, `b n h d`."""
        o = self.outputs.layers[layer]
        site = Site(o.site.path[len(path) + 1 :], o.site.port)
        with Probe(self.evidence.model.get_submodule(path), grad=False) as probe:
            probe.watch(site)
            state.call(probe, path, x)
            return o.split(probe.trace[site].act)

    def _block(
        self,
        state: _State,
        path: str,
        layers: list[int],
        x: Tensor,
        new: Mapping[int, Tensor],
        now: dict[int, Tensor],
    ) -> Tensor:
        """What a layer returns for x when some heads give a new z; `now` learns what all gave."""
        edits = {}
        for layer in layers:
            o, span = self.outputs.layers[layer], self.outputs.span(layer)

            def change(z: Tensor, span: slice = span) -> Tensor:
                z = z.clone()
                for v in range(span.start, span.stop):
                    if v in new:
                        z[:, :, v - span.start] = new[v]
                    now[v] = z[:, :, v - span.start]
                return z

            edits[Pattern(o.site.path[len(path) + 1 :], o.site.port)] = o.edit(change)
        with Probe(self.evidence.model.get_submodule(path), grad=False, whole=True) as probe:
            result = state.call(probe.edit(edits), path, x)
        return _first(result)


class _State:
    """One group of pairs: its inputs, how its layers are called, what they answer."""

    def __init__(self, evidence: Evidence, group: PairBatch, paths: list[str]) -> None:
        self.group = group
        self.x = feed(evidence.model, group.clean)
        trace = watched_calls(evidence.model, self.x, paths)
        other = watched_calls(evidence.model, feed(evidence.model, group.corrupt), paths[:1])
        self.calls = {path: trace.calls[path, 0] for path in paths}
        self.clean = scores(trace.output, group.pairs.given).detach()
        self.entry, self.other = (_first(t.calls[paths[0], 0].given) for t in (trace, other))
        rows = evidence.rows(group.places)
        self.corrupt = evidence.corrupt.z[rows].unflatten(0, (len(group.places), -1))

    def call(self, probe: Probe, path: str, x: Tensor) -> Any:
        """Run a layer on x, its other arguments as the model gave them."""
        args, kwargs = _with_first(self.calls[path].given, x)
        return probe(*args, **kwargs)


def _first(value: Any) -> Tensor:
    """The first float tensor in a value."""
    return next(t for _, t in leaves(value) if t.is_floating_point())


def _with_first(value: Any, new: Tensor) -> Any:
    """The value with its first float tensor exchanged."""
    old = _first(value)
    return exchange(value, lambda _, t: new if t is old else t)
