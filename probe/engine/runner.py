"""The engine of `limelight.maps`, and what a pass method may ask of a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.func import functional_call

from ..attribution import (
    RAW,
    BoundMethod,
    Job,
    Path,
    Reading,
    Verdict,
    asked_sites,
    gather,
    heads_of,
    jobs_at,
    measured,
    needed,
    results,
    token_ids,
    use,
    watched,
)
from ..capture import guarded
from ..errors import MethodError
from ..probe import Probe
from ..results import About, SaliencyMap
from ..sites import Layout, Pattern, Site
from ..targets import Target
from .batch import Batch, chunks

Sites = str | Site | Sequence[str | Site] | None


@dataclass(eq=False)
class Runner:
    """Passes over one batch of samples: readings, scores, generators.

    site  what the running pass method was asked to read
    """

    model: nn.Module
    batch: Batch
    sites: Sites = None
    seed: int = 0
    limit: int = 1 << 30
    about: About = field(default_factory=About)
    site: Sites = None

    def generators(self, x: Tensor) -> list[Generator]:
        """One CPU generator per sample, the same however the batch is split."""
        index = self.batch.index
        if len(index) != len(x):
            raise MethodError(
                f"generators are one per sample: there are {len(index)}, not {len(x)}"
            )
        return [Generator().manual_seed((self.seed * 1_000_003 + i) % (1 << 62)) for i in index]

    def scores(self, x: Tensor, target: Target) -> Tensor:
        """Scores `b` of inputs without gradients, in micro-batches."""
        whole, parts = self.batch.with_x(x), []
        for places in chunks(len(x), self.limit):
            part = whole.take(places)
            parts.append(target.take(places)(self.output(part)))
        return torch.cat(parts)

    def output(self, batch: Batch) -> Any:
        """The model's output without a graph."""
        with torch.no_grad(), guarded(self.model, grad=False, evaluate=True):
            return self.model(*batch.args, **batch.kwargs)

    def classes(self, x: Tensor, target: Target) -> Tensor:
        """The class index per sample. Raises MethodError when the target is no class."""
        if target.pick is None:
            raise MethodError(f"target {target.name!r} is no class, and this method needs one")
        if target.rows is not None:
            return target.rows.expand(len(x))
        return target.pick(self.output(self.batch.with_x(x)), None)

    def maps(
        self,
        x: Tensor,
        target: Target,
        bounds: Sequence[BoundMethod],
        sites: Sites = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> list[Tensor]:
        """Readings of site methods, each `b` and the positions, in one pass."""
        return [r.values for r in self.read(self.batch.with_x(x), target, bounds, sites, weights)]

    def read(
        self,
        batch: Batch,
        target: Target,
        bounds: Sequence[BoundMethod],
        sites: Sites = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> list[Reading]:
        """One forward and one backward per regime for some samples."""
        with self._probing(batch, bounds, sites, weights) as (probe, jobs):
            return gather(probe, jobs, target, retain=False)

    @contextmanager
    def _probing(
        self,
        batch: Batch,
        bounds: Sequence[BoundMethod],
        sites: Sites,
        weights: Mapping[str, Tensor] | None,
    ) -> Iterator[tuple[Probe, list[Job]]]:
        needs = {need for bound in bounds for need in bound.method.needs}
        with Probe(self.model, relevance="relevance" in needs) as probe:
            wanted = [(bound, self._watch(probe, bound, sites)) for bound in bounds]
            if weights is None:
                probe(*batch.args, **batch.kwargs)
            else:
                probe.run(self._call(weights), *batch.args, **batch.kwargs)
            yield (
                probe,
                [job for bound, patterns in wanted for job in jobs_at(probe, bound, patterns)],
            )

    def _call(self, weights: Mapping[str, Tensor]) -> Callable[..., Any]:
        """The model with other weights; they are no inputs of it."""
        return lambda *args, **kwargs: functional_call(self.model, dict(weights), args, kwargs)

    def _watch(self, probe: Probe, bound: BoundMethod, sites: Sites) -> list[Pattern]:
        asked = bound.sites or sites or self.sites or bound.method.sites
        listed = [asked] if isinstance(asked, (str, Site)) else asked
        patterns = [p for address in listed for p in probe.resolve(address)]
        probe.watch(*needed(bound, patterns))
        return patterns

    def site_maps(
        self,
        bounds: Sequence[BoundMethod],
        wanted: Sequence[Target],
        samples: Sequence[str],
        labels: Sequence[str],
    ) -> tuple[list[SaliencyMap], list[Verdict], Any]:
        """All site methods for all targets on one forward; and what the model said."""
        found: list[SaliencyMap] = []
        with self._probing(self.batch, bounds, None, None) as (probe, jobs):
            verdicts = [Verdict.of(t, probe.trace.output, labels) for t in wanted]
            about = replace(self.about, notes=self.about.notes + _remarks(probe))
            for i, verdict in enumerate(verdicts):
                readings = gather(probe, jobs, verdict.target, retain=i < len(wanted) - 1)
                found += results(readings, verdict, samples, about)
            return found, verdicts, probe.trace.output

    def path_maps(
        self, bounds: Sequence[BoundMethod], verdict: Verdict, samples: Sequence[str]
    ) -> list[SaliencyMap]:
        """Path methods; those with equal points share every pass."""
        groups: dict[Any, list[tuple[BoundMethod, Path]]] = defaultdict(list)
        for bound in bounds:
            path = bound()
            groups[path.points].append((bound, path))
        ends = [
            end
            for points, group in groups.items()
            for end in self._walk(points, group, verdict.target)
        ]
        return results(ends, verdict, samples, self.about)

    def _walk(
        self, points: Any, group: list[tuple[BoundMethod, Path]], target: Target
    ) -> list[Reading]:
        x, generators = self.batch.x, self.generators(self.batch.x)
        bases = [self._base(bound, path) for bound, path in group]
        states: dict[int, Any] = {}
        readings: list[Reading] = []
        for k in range(points.count):
            moved = torch.stack([points(x[i], k, g) for i, g in enumerate(generators)])
            readings = self.read(self.batch.with_x(moved), target, bases)
            owners = [
                next(g for g, b in zip(group, bases, strict=True) if b is r.job.bound)
                for r in readings
            ]
            for j, (reading, (_, path)) in enumerate(zip(readings, owners, strict=True)):
                states[j] = path.fold(states.get(j), reading.values, k)
        return [
            replace(
                r,
                job=replace(r.job, bound=bound),
                values=path.finish(states[j], points.count, x.cpu()),
            )
            for j, (r, (bound, path)) in enumerate(zip(readings, owners, strict=True))
        ]

    def _base(self, bound: BoundMethod, path: Path) -> BoundMethod:
        if path.base == "raw":
            return BoundMethod(RAW, (), "input")
        sites = bound.sites or self.sites or bound.method.sites
        return replace(use(path.base), sites=sites)  # type: ignore[arg-type]

    def pass_maps(
        self, bound: BoundMethod, verdict: Verdict, samples: Sequence[str]
    ) -> list[SaliencyMap]:
        """A method with passes of its own, sample by sample, at each site it was asked for."""
        found: list[Reading] = []
        for site in self._sites_of(bound):
            parts = []
            for i in range(len(self.batch)):
                one = replace(self, batch=self.batch.take([i]), site=[site])
                target = verdict.target.take([i])
                parts.append(bound.method.function(one, one.batch.x, target, **dict(bound.options)))
            values = torch.cat(parts).detach().cpu()
            plan = Layout(site, "n" if values.ndim == 2 else "y x")
            size = tuple(self.batch.x.shape[-2:]) if self.batch.x.ndim > 3 else ()
            found.append(Reading(Job.at(bound, site), values, plan, size))
        return results(found, verdict, samples, self.about)

    def head_values(
        self, bounds: Sequence[BoundMethod], samples: Sequence[str]
    ) -> list[SaliencyMap]:
        """Metrics of attention: one forward without gradients; maps in blocks of rows."""
        made: list[SaliencyMap] = []
        groups: dict[Any, list[BoundMethod]] = defaultdict(list)
        for bound in bounds:
            groups[tuple(asked_sites(bound.sites, self.sites))].append(bound)
        with Probe(self.model, grad=False) as probe:
            wanted = [(watched(probe, asked), group) for asked, group in groups.items()]
            probe(*self.batch.args, **self.batch.kwargs)
            tokens = token_ids(self.batch.args, self.batch.kwargs)
            about = replace(self.about, notes=self.about.notes + _remarks(probe))
            for patterns, group in wanted:
                made += measured(heads_of(probe, patterns, tokens), group, samples, about)
        return made

    def _sites_of(self, bound: BoundMethod) -> list[Site]:
        """Concrete sites for a pass method; those about the input read the input."""
        usual = bound.method.sites
        asked = bound.sites or (usual if usual == "input" else self.sites or usual)
        listed = [asked] if isinstance(asked, (str, Site)) else asked
        probe = Probe(self.model, grad=False)
        patterns = [p for address in listed for p in probe.resolve(address)]
        return [
            Site(path, p.port, p.call or 0, p.index)
            for p in patterns
            for path in probe.modules
            if p.matches(Site(path, p.port, p.call or 0))
        ]


def _remarks(probe: Probe) -> tuple[str, ...]:
    """What a result must say about the pass it came from."""
    holes = tuple(f"unseen by the probe: {hole}" for hole in probe.trace.holes)
    return probe.adapter.notes + tuple(probe.trace.notes) + holes
