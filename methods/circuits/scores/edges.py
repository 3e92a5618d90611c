"""Edges between heads: edge attribution patching for all at once, path patching for a few exactly.

An edge u -> v is what head v reads of head u's contribution to the residual stream, by its own
queries, keys and values; what u does to v through layers in between is not part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ....probe.attribution import Count, Natural
from ....probe.probe import Probe
from ....probe.sites import Site
from ....probe.trace import Edit
from ..evidence import Evidence, feed
from ..head_outputs import HeadOutput, longer, stacked
from ..interventions import gap
from ..score import Score, circuit_method
from ..tasks import PairBatch
from .attribution_patching import attribution, entered, placed


@circuit_method("edge_attribution", needs=("activations", "model"))
def edge_attribution(evidence: Evidence, *, steps: Count = 1) -> Score:
    """Edge attribution patching between heads: (result_u corrupt - result_u clean) . slope_v.

    slope_v is the metric's gradient at v's z, pulled back through v's own attention and norm to
    the input of its layer. `edges` holds |mean over pairs| for every u in a lower layer than v;
    a head's score is the sum of its edges, those to the output included. Two forwards and one
    backward, and one backward through its own attention for every head of a layer.
    steps > 1: the mean over inputs between clean and corrupt (EAP-IG, arXiv 2403.17806).
    """
    edges, out = evidence.keep(("edges", steps), lambda: _edges(evidence, steps))
    total = edges.abs().sum(0) + edges.abs().sum(1) + out.abs()
    return Score(total, edges=edges.abs(), facts={"signed edges": edges, "to output": out})


def _edges(evidence: Evidence, steps: int) -> tuple[Tensor, Tensor]:
    """Signed mean effects of edges, `h h`, and of the direct paths to the output, `h`."""
    edges = _Edges(evidence)
    evidence.corrupt  # noqa: B018  first, for the clean pass tells the change from it
    evidence.run("clean", gradient=True, sites=[edges.end], edits=edges.edits, visit=edges.add)
    for k in range(1, steps):
        edges.between(k / steps)
    count = len(evidence.pairs) * steps
    return edges.inner / count, edges.out / count


class _Edges:
    """Sums of effects over pairs: from head to head `h h`, from head to output `h`."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence, self.layers = evidence, evidence.outputs.layers
        self.inner = torch.zeros(evidence.heads, evidence.heads)
        self.out = torch.zeros(evidence.heads)
        self.entries = [Site(block, "in") for block in evidence.outputs.blocks]
        self.end = evidence.outputs.end
        self.live: dict[Site, Tensor] = {}

    @property
    def edits(self) -> dict[str | Site, Edit]:
        """Keep values with their graph as they pass."""

        def catch(value: Tensor, site: Site) -> Tensor:
            self.live[site] = value
            return value

        return dict.fromkeys([*self.entries, *(o.site for o in self.layers), self.end], catch)

    def between(self, mix: float) -> None:
        """Add the effects at inputs of the first layer `mix` of the way to the corrupt ones."""
        for group in self.evidence.pairs.batches(self.evidence.batch):
            start, stop = (
                entered(self.evidence, self.entries[0], x) for x in (group.clean, group.corrupt)
            )
            with Probe(self.evidence.model) as probe:
                probe.watch(*(o.site for o in self.layers), self.end)
                probe.edit({self.entries[0]: placed(torch.lerp(start, stop, mix))})
                probe.edit(self.edits)
                probe(feed(self.evidence.model, group.clean))
                probe.backward(group.pairs.target())
                self.add(group, probe)

    def add(self, group: PairBatch, probe: Probe) -> None:
        """Add the effects of all edges over one group whose graph stands."""
        live, trace, change = self.live, probe.trace, self._change(group)
        tokens = change.shape[1]
        width = self.evidence.outputs.weight.shape[2]
        written = torch.empty(self.evidence.heads, change.shape[0] * tokens * width)
        for layer, (o, entry) in enumerate(zip(self.layers, self.entries, strict=True)):
            span, slope = self.evidence.outputs.span(layer), trace[o.site].grad
            if span.start and slope is not None:
                pulled = _pulled(o, live[o.site], live[entry], slope, tokens)
                self.inner[: span.start, span] += written[: span.start] @ pulled.T
            output = torch.einsum("bnhd,hdm->hbnm", change[:, :, span], o.weight.float().cpu())
            written[span] = output.flatten(1)
        last = trace[self.end].grad
        if last is not None:
            final = longer(last.flatten(1, -2), tokens).float().cpu()
            self.out += written @ final.flatten()

    def _change(self, group: PairBatch) -> Tensor:
        """Corrupt minus clean z of a group, `b n h d`."""
        evidence = self.evidence
        rows = evidence.rows(group.places)
        corrupt = evidence.corrupt.z[rows].unflatten(0, (len(group.places), -1))
        if evidence.knows("clean"):
            return corrupt - evidence.clean.z[rows].view_as(corrupt)
        now = [o.split(self.live[o.site].detach()).float().cpu() for o in self.layers]
        return corrupt - stacked(now)


def _pulled(o: HeadOutput, z: Tensor, entry: Tensor, slope: Tensor, tokens: int) -> Tensor:
    """The slope at each head's z, back at the input of its layer: `h (t m)`."""
    split = o.split(slope)
    alone = torch.eye(o.heads, dtype=split.dtype, device=split.device)[:, None, None, :, None]
    each = torch.stack([o.join(only, slope) for only in split[None] * alone])
    try:
        (back,) = torch.autograd.grad(z, entry, each, retain_graph=True, is_grads_batched=True)
    except RuntimeError:  # an op whose backward takes no batch of gradients
        rows = [torch.autograd.grad(z, entry, row, retain_graph=True)[0] for row in each]
        back = torch.stack(rows)
    return torch.stack([longer(row.flatten(1, -2), tokens).float().cpu().flatten() for row in back])


@circuit_method("path_patching", needs=("activations", "gradient", "model"))
def path_patching(evidence: Evidence, *, heads: Count = 8, pairs: Natural = 8) -> Score:
    """Path patching between the heads that attribution ranks first: exact effects of edges.

    For u -> v: on the clean input u gives its corrupt output, all other heads keep theirs, layers
    in between are computed; what v then gives replaces v's output in a second clean run. The
    effect is the metric lost, as a share of the fall from clean to corrupt (arXiv 2211.00593).
    A head's score is the sum of |effect| over its edges; heads not tried have 0.
    """
    order = attribution(evidence).values.argsort(descending=True)[:heads]
    chosen = sorted(order.tolist())
    edges = path_effects(evidence, chosen, chosen, pairs=pairs)
    return Score(
        edges.abs().sum(0) + edges.abs().sum(1),
        edges=edges.abs(),
        facts={"signed edges": edges, "tried": chosen},
    )


def path_effects(
    evidence: Evidence, senders: Sequence[int], receivers: Sequence[int], *, pairs: int = 0
) -> Tensor:
    """Effects of the edges from senders to receivers in later layers, `h h`, 0 for the others."""
    subset = evidence.pairs[: pairs or None]
    layer = evidence.outputs.layer
    fall = gap(evidence)
    effects = torch.zeros(evidence.heads, evidence.heads)
    for group in subset.batches(evidence.batch):
        rows = evidence.rows(group.places)
        clean, corrupt = (
            side.z[rows].unflatten(0, (len(group.places), -1))
            for side in (evidence.clean, evidence.corrupt)
        )
        base = evidence.clean.metric[group.places].sum()
        for u in senders:
            later = [v for v in receivers if layer[v] > layer[u]]
            if not later:
                continue
            heard = _heard(evidence, group, clean, corrupt, u)
            for v in later:
                metric = run_exchanged(evidence, group, {v: heard[:, :, v]})
                effects[u, v] += (base - metric.sum()) / fall
    return effects / len(subset)


def _heard(evidence: Evidence, group: PairBatch, clean: Tensor, corrupt: Tensor, u: int) -> Tensor:
    """What every head gives when u is corrupt and all other heads speak as on the clean input."""
    outputs: dict[int, Tensor] = {}
    held = clean.clone()
    held[:, :, u] = corrupt[:, :, u]

    def freeze(layer: int) -> Callable[[Tensor], Tensor]:
        span = evidence.outputs.span(layer)

        def change(z: Tensor) -> Tensor:
            outputs[layer] = z.detach().float().cpu()
            return held[:, -z.shape[1] :, span].to(z)

        return change

    layers = evidence.outputs.layers
    with Probe(evidence.model, grad=False, whole=True) as probe:
        probe.edit({o.site: o.edit(freeze(i)) for i, o in enumerate(layers)})
        probe(feed(evidence.model, group.clean))
    return stacked([outputs[i] for i in range(len(layers))])


def run_exchanged(evidence: Evidence, group: PairBatch, new: Mapping[int, Tensor]) -> Tensor:
    """The metric of a group's clean inputs with some heads' z exchanged, each `b n d`: `b`."""
    outputs = evidence.outputs
    edits: dict[str | Site, Edit] = {}
    for layer, o in enumerate(outputs.layers):
        span = outputs.span(layer)
        replaced = {v - span.start: z for v, z in new.items() if span.start <= v < span.stop}
        if replaced:
            edits[o.site] = o.edit(_exchange(replaced))
    with Probe(evidence.model, grad=False, whole=True) as probe:
        output = probe.edit(edits)(feed(evidence.model, group.clean))
        with torch.no_grad():
            return group.pairs.target()(output).float().cpu()


def _exchange(new: Mapping[int, Tensor]) -> Callable[[Tensor], Tensor]:
    def change(z: Tensor) -> Tensor:
        z = z.clone()
        for head, value in new.items():
            z[:, :, head] = value[:, -z.shape[1] :].to(z)
        return z

    return change
