"""The engine of `limelight.maps`, and what a pass method may ask of a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ..attribution import (
    RAW,
    BoundMethod,
    MethodAtSite,
    Owned,
    Path,
    RawMap,
    ScoredTarget,
    Sites,
    asked_sites,
    gather,
    heads_of,
    mappable,
    measured,
    passed_over,
    results,
    token_ids,
    watched,
)
from ..axes import Layout
from ..capture import guarded
from ..errors import MethodError, SiteError
from ..probe import Probe
from ..results import About
from ..sites import Adapter, Address, Pattern, Site, adapt, addresses
from ..targets import Target
from .batch import Batch, chunks, readdressed
from .layer_path import layer_maps
from .moved_inputs import (
    INPUT,
    MovedInput,
    inputs_among,
    name_at,
    noting_still,
    reads_layers,
    unread,
)
from .passes import Passes
from .path_walk import Walker, bases_of, walk
from .settled import given_to, settled


@dataclass(eq=False)
class Runner:
    """Passes over one batch of samples: raw maps, scores, generators.

    limit    how many samples, or copies of one, pass the model at a time
    site     what the running pass method was asked to read
    known    the model's adapter, where the caller has read it
    shared   whether other methods of the call read what `sites` names
    moved    the inputs that the running pass method moves at once, where `sites=` names them
    remarks  what the running pass method has said of its maps, which carry it in their notes
    """

    model: nn.Module
    batch: Batch
    sites: Sites = None
    seed: int = 0
    limit: int = 1 << 30
    about: About = field(default_factory=About)
    site: Sites = None
    known: InitVar[Adapter | None] = None
    shared: bool = False
    moved: Sequence[MovedInput] = ()
    remarks: list[str] = field(default_factory=list, repr=False)
    adapter: Adapter = field(init=False, repr=False)
    _layouts: dict[Site, Layout | SiteError] = field(default_factory=dict, repr=False)
    _sizes: dict[str, int] = field(default_factory=dict, repr=False)
    _unseen: list[str] = field(default_factory=list, repr=False)
    _prepared: dict[Any, Passes] = field(default_factory=dict, repr=False)
    _of_inputs: dict[Site, Runner] = field(default_factory=dict, repr=False)
    _wild: dict[Any, tuple[list[Site], list[Site]]] = field(default_factory=dict, repr=False)

    def __post_init__(self, known: Adapter | None) -> None:
        self.adapter = known or adapt(self.model)

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names of the model."""
        return self.adapter.labels

    @property
    def layout(self) -> Layout:
        """How methods read the input: its order of dimensions, its places.

        Raises SiteError where that is not known.
        """
        return self.layout_of(INPUT)

    @property
    def moving(self) -> Sequence[MovedInput]:
        """The inputs that a method moves at once: those that it was asked for, else the input."""
        return self.moved or [MovedInput(INPUT, self.batch.explained, self.batch.x, self.layout)]

    @property
    def unseen(self) -> Sequence[str]:
        """What a graph of the model holds that the probe did not see being made, in words."""
        if INPUT not in self._layouts:
            self.look()
        return self._unseen

    def note(self, words: str) -> None:
        """Say of the maps being made what a reader must know; said once, however often."""
        if words not in self.remarks:
            self.remarks.append(words)

    def layout_of(self, site: Site) -> Layout:
        """How methods read the value at a site, by one more forward where none has told.

        Raises SiteError where that is not known.
        """
        if site not in self._layouts:
            self.look([site])
        known = self._layouts[site]
        if isinstance(known, SiteError):
            raise known
        return known

    def look(self, sites: Sequence[Site] = ()) -> None:
        """One forward with a graph that reads how the input and some sites are laid out."""
        with self.probe(ops=False) as probe:
            self._watch(probe, sites)
            probe(*self.batch.args, **self.batch.kwargs)
            self._learn(probe, sites)

    def _watch(self, probe: Probe, sites: Sequence[Site]) -> None:
        probe.watch(*(replace(site, index=None) for site in sites if site != INPUT))

    def _learn(self, probe: Probe, sites: Sequence[Site]) -> None:
        """Keep what a probe that has run knows of layouts."""
        self._sizes.update(probe.input_sizes)
        self._unseen += [words for words in _holes(probe) if words not in self._unseen]
        for site in (INPUT, *sites):
            try:
                self._layouts[site] = (
                    probe.input_layout()
                    if site == INPUT
                    else probe.layout(probe.trace[replace(site, index=None)])
                )
            except SiteError as error:
                self._layouts[site] = error

    def generators(self, x: Tensor | None = None) -> list[Generator]:
        """One CPU generator per sample, the same however the batch is split."""
        index = self.batch.index
        if x is not None and len(index) != len(x):
            raise MethodError(
                f"generators are one per sample: there are {len(index)}, not {len(x)}"
            )
        return [Generator().manual_seed((self.seed * 1_000_003 + i) % (1 << 62)) for i in index]

    def scores(self, x: Tensor, target: Target) -> Tensor:
        """Scores `b` of inputs without gradients, in micro-batches."""
        whole, parts = self.batch.with_x(x), []
        for places in chunks(len(whole), self.limit):
            part = whole.take(places)
            parts.append(target.take(places)(self.output(part), len(part)))
        return torch.cat(parts)

    def output(self, batch: Batch) -> Any:
        """The model's output without a graph."""
        batch = batch.copied()  # a forward may write into what it is given
        with torch.no_grad(), guarded(self.model, grad=False, evaluate=True):
            return self.model(*batch.args, **batch.kwargs)

    def classes(self, x: Tensor, target: Target) -> Tensor:
        """The class index per sample. Raises MethodError when the target is no class."""
        if target.pick is None:
            raise MethodError(f"target {target.name!r} is no class, and this method needs one")
        batch = self.batch.with_x(x)
        rows = target.rows
        if rows is None:
            rows = target.fix(self.output(batch), given_to(batch)).rows
        return rows.expand(len(batch))  # type: ignore[union-attr]

    def maps(
        self,
        x: Tensor,
        target: Target,
        bounds: Sequence[BoundMethod],
        sites: Sites = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> list[Tensor]:
        """Maps of site methods, each `b` and the positions, in one pass."""
        with self._kept(bounds, sites) as passes:
            raw_maps = passes.raw_maps(self.batch.with_x(x), target, weights)
            for words in _holes(passes.probe):
                self.note(words)
            return [raw.values for raw in raw_maps]

    def probe(self, *, grad: bool = True, relevance: bool = False, ops: bool = True) -> Probe:
        """A probe of the model that need not read its adapter again."""
        return Probe(
            self.model,
            grad=grad,
            relevance=relevance,
            adapter=self.adapter,
            explained=self.batch.explained,
            members=self.batch.members,
            ops=ops,
        )

    def passes(self, bounds: Sequence[BoundMethod], sites: Sites = None) -> Passes:
        """One probe for some site methods, to be run inside its `with` on batch after batch."""
        return self._reading(
            [(b, addresses(b.sites or sites or self.sites or b.method.sites)) for b in bounds]
        )

    def _reading(self, asked: Sequence[tuple[BoundMethod, Sequence[Address]]]) -> Passes:
        """One probe for site methods at addresses."""
        relevance = any("relevance" in bound.method.needs for bound, _ in asked)
        ops = relevance or any(bound.regime != "plain" for bound, _ in asked)
        return Passes(self.probe(relevance=relevance, ops=ops), asked)

    def _kept(self, bounds: Sequence[BoundMethod], sites: Sites) -> Passes:
        """The passes that the last sample took, where they are the same."""
        key = (*bounds, None if sites is None else tuple(addresses(sites)))
        try:
            hash(key)
        except TypeError:  # an option that cannot be looked up
            return self.passes(bounds, sites)
        if key not in self._prepared:
            self._prepared.clear()
            self._prepared[key] = self.passes(bounds, sites)
        return self._prepared[key]

    def site_maps(
        self,
        bounds: Sequence[BoundMethod],
        wanted: Sequence[Target],
        samples: Sequence[str],
        also: Sequence[BoundMethod] = (),
    ) -> tuple[list[Owned], list[ScoredTarget], Any]:
        """All site methods for all targets on one forward; the targets scored; the output.

        also  methods that will run on their own, and must know how what they read is laid out
        """
        saliency_maps: list[Owned] = []
        with self.passes(bounds) as passes:
            more = [site for bound in also for site in self._sites_of(bound)]
            self._watch(passes.probe, more)
            probe, sources = passes.probe, passes.forward(self.batch)
            if also:
                self._learn(probe, more)
            output = probe.trace.output
            given = given_to(self.batch, probe)
            scored = [ScoredTarget.of(t, output, self.labels, given) for t in wanted]
            about = replace(self.about, notes=self.about.notes + _remarks(probe))
            for i, one in enumerate(scored):
                raw_maps = gather(probe, sources, one.target, retain=i < len(wanted) - 1)
                saliency_maps += results(raw_maps, one, samples, about)
            return saliency_maps, scored, output

    def scored(
        self, wanted: Sequence[Target], also: Sequence[BoundMethod] = ()
    ) -> tuple[list[ScoredTarget], Any]:
        """The targets scored; the output.

        also  methods that will run on their own: the forward has a graph then, which tells how
              what they read is laid out, and what the output is
        """
        if not also:
            output, given = self.output(self.batch), given_to(self.batch)
            known = settled(self.model, self.batch, wanted, output, self.adapter)
            return [ScoredTarget.of(t, output, self.labels, given) for t in known], output
        sites = [site for bound in also for site in self._sites_of(bound)]
        with self.probe(ops=False) as probe:
            self._watch(probe, sites)
            output = probe(*self.batch.args, **self.batch.kwargs)
            self._learn(probe, sites)
            given = given_to(self.batch, probe)
            scored = [ScoredTarget.of(t, output, self.labels, given) for t in wanted]
        return scored, probe.trace.output

    def path_maps(
        self, bounds: Sequence[BoundMethod], scored: ScoredTarget, samples: Sequence[str]
    ) -> list[Owned]:
        """Path methods; those with equal points share every pass."""
        groups: dict[Any, list[Walker]] = defaultdict(list)
        saliency_maps: list[Owned] = []
        for bound in bounds:
            path, (named, others) = bound(), self._named(bound)
            line = path.line is not None
            sites = tuple(dict.fromkeys(replace(site, index=None) for site in named)) or (INPUT,)
            paths = tuple(self._path(path, site) for site in sites)
            reads: Any = named or sites if line else self._read_by(bound)
            own = Walker(bound, paths, tuple(reads))
            if line and others:
                saliency_maps += self._layer_maps(own, others, sites, scored, samples)
            if named or not (line and others):
                groups[sites, tuple(path.points for path in paths)].append(own)
        for (sites, _), group in groups.items():
            moved = [self._moved(site) for site in sites]
            target = scored.target
            about = noting_still(self.about, self.batch, [one.name for one in moved])
            with self._reading(bases_of(group)) as passes:
                raw_maps = walk(
                    passes, group, self.batch, moved, target, self.generators(), self.limit
                )
                said = tuple(passes.probe.trace.notes) + _holes(passes.probe)
                about = replace(about, notes=about.notes + said)
            saliency_maps += results(raw_maps, scored, samples, about)
        return sorted(saliency_maps, key=self._turn)

    def _turn(self, owned: Owned) -> int:
        """Where the site of a map stands among those that were asked for."""
        asked, site = owned[0].sites or self.sites, owned[1].site
        patterns = self._patterns(asked) if asked else []
        means = (i for i, p in enumerate(patterns) if p.matches(site) and p.index == site.index)
        return next(means, 0)

    def _layer_maps(
        self,
        own: Walker,
        others: Sequence[Pattern],
        sites: Sequence[Site],
        scored: ScoredTarget,
        samples: Sequence[str],
    ) -> list[Owned]:
        """A straight path at layers."""
        moved = [self._moved(site) for site in sites]
        about, used = noting_still(self.about, self.batch, [one.name for one in moved]), []

        def reading(patterns: Sequence[Pattern]) -> Passes:
            used.append(Passes(self.probe(ops=False), [(BoundMethod(RAW), list(patterns))]))
            return used[-1]

        raw_maps = layer_maps(reading, own, others, self.batch, moved, scored.target)
        about = replace(about, notes=about.notes + _holes(used[0].probe))
        return results(raw_maps, scored, samples, about)

    def _path(self, path: Path, site: Site) -> Path:
        """A path as it runs through an input."""
        if path.at is None:
            return path
        one = self._moved(site)
        return path.at(one.layout, one.x)

    def _moved(self, site: Site) -> MovedInput:
        of_input = self._explaining(site)
        return MovedInput(site, of_input.batch.explained, of_input.batch.x, of_input.layout)

    def _read_by(self, bound: BoundMethod) -> list[Address]:
        """What a method was asked to read, or its usual place."""
        return addresses(bound.sites or self.sites or bound.method.sites)

    def _named(self, bound: BoundMethod) -> tuple[list[Site], list[Pattern]]:
        """The inputs that a method was asked for, and what else."""
        asked = bound.sites or self.sites
        return inputs_among(self._patterns(asked), self.batch) if asked else ([], [])

    def unread(self, bound: BoundMethod) -> list[str]:
        """What to say of a method that reads inputs alone and was asked for other things, or that
        wildcards led where nothing has positions.

        Raises MethodError where nobody reads them.
        """
        method, asked = bound.method, tuple(self._read_by(bound))
        if reads_layers(method):
            over = self._wild.get(asked, ([], []))[1]
            return [passed_over(bound.name, over)] if over else []
        named, others = self._named(bound)
        strange = [s for s in named if s.index is not None or (s != INPUT and not method.perturbs)]
        unread_sites = [*strange, *others]
        shared = self.shared and bound.sites is None
        return [unread(bound.name, unread_sites, shared=shared)] if unread_sites else []

    def _input_sites(self, bound: BoundMethod) -> list[Site]:
        """The inputs that a method perturbs."""
        whole = [site for site in self._named(bound)[0] if site.index is None]
        return whole or [INPUT]

    def _patterns(self, asked: Any) -> list[Pattern]:
        probe = self.probe(grad=False)
        return [p for address in addresses(asked) for p in probe.resolve(address)]

    def pass_maps(
        self, bound: BoundMethod, scored: ScoredTarget, samples: Sequence[str]
    ) -> list[Owned]:
        """A method with passes of its own, sample by sample, at each site it was asked for."""
        if bound.method.together:
            return self._joint_maps(bound, scored, samples)
        if bound.method.perturbs:
            return [
                m
                for site in self._input_sites(bound)
                for m in self._explaining(site)._pass_maps(bound, INPUT, site, scored, samples)
            ]
        return [
            m
            for site in self._sites_of(bound)
            for m in self._pass_maps(bound, site, site, scored, samples)
        ]

    def _joint_maps(
        self, bound: BoundMethod, scored: ScoredTarget, samples: Sequence[str]
    ) -> list[Owned]:
        """The maps of all inputs that a method moves at once."""
        moved = [self._moved(site) for site in self._input_sites(bound)]
        remarks = self.unread(bound)
        parts = self._own_passes(bound, moved[0].site, scored.target, remarks, moved)
        about = noting_still(self.about, self.batch, [one.name for one in moved])
        about = replace(about, notes=(*about.notes, *remarks))
        raw_maps = []
        for one, values in zip(moved, parts, strict=True):
            source = MethodAtSite.uncaptured(bound, one.site)
            sizes = self._explaining(one.site)._sizes
            raw_maps.append(RawMap(source, values, one.layout, sizes))
        return results(raw_maps, scored, samples, about)

    def _pass_maps(
        self,
        bound: BoundMethod,
        site: Site,
        address: Site,
        scored: ScoredTarget,
        samples: Sequence[str],
    ) -> list[Owned]:
        """The maps at a site, which the call around them knows by `address`."""
        remarks = self.unread(bound)
        (values,) = self._own_passes(bound, site, scored.target, remarks)
        about = replace(self.about, notes=(*self.about.notes, *remarks))
        source = MethodAtSite.uncaptured(bound, address)
        plan = self._laid_out(bound, site, values.ndim - 1)
        return results([RawMap(source, values, plan, self._sizes)], scored, samples, about)

    def _explaining(self, site: Site) -> Runner:
        """A runner over the same batch in which the tensor at an input's site is the input."""
        if site in self._of_inputs:
            return self._of_inputs[site]
        name = name_at(site, self.batch)
        about = noting_still(self.about, self.batch, [name], together=False)
        if name == self.batch.explained:
            other = replace(self, about=about, known=self.adapter, _of_inputs={})
        else:
            other = replace(
                self,
                batch=Batch.of(self.batch.explaining(name), None, self.model),
                known=replace(
                    self.adapter,
                    axes=readdressed(self.adapter.axes, self.batch.explained, name),
                ),
                about=about,
                _layouts={},
                _sizes={},
                _prepared={},
                _wild={},
                _of_inputs={},
            )
        self._of_inputs[site] = other
        return other

    def _laid_out(self, bound: BoundMethod, site: Site, dims: int) -> Layout:
        """The layout of the maps of a method: that of the site; or one row of tokens."""
        plan = self.layout_of(site)
        if dims in (places := len(plan.axes.split()), places + 1):
            return plan
        if dims == 1:
            return replace(plan, axes="n")
        if dims == 0 and plan.axes == "c":
            return plan.at_one_place()
        raise MethodError(
            f"method {bound.name!r} at {site} must return maps over {plan.axes!r}, but returned "
            f"{dims} dimensions"
        )

    def _own_passes(
        self,
        bound: BoundMethod,
        site: Site,
        target: Target,
        remarks: list[str],
        moved: Sequence[MovedInput] = (),
    ) -> list[Tensor]:
        """A method's maps of each input that it moves, or of its site, sample by sample."""
        parts: list[Sequence[Tensor]] = []
        prepared: dict[Any, Passes] = {}
        for i in range(len(self.batch)):
            batch = self.batch.take([i])
            one = replace(
                self,
                batch=batch,
                site=[site],
                known=self.adapter,
                moved=[replace(m, x=batch.explaining(m.name).x) for m in moved],
                remarks=remarks,
                _prepared=prepared,
                _of_inputs={},
            )
            made = bound(one, one.moved[0].x if moved else one.batch.x, target.take([i]))
            parts.append([made] if isinstance(made, Tensor) else made)
        return [torch.cat(of_one).detach().cpu() for of_one in zip(*parts, strict=True)]

    def head_values(self, bounds: Sequence[BoundMethod], samples: Sequence[str]) -> list[Owned]:
        """Metrics of attention: one forward without gradients; maps in blocks of rows."""
        values: list[Owned] = []
        groups: dict[Any, list[BoundMethod]] = defaultdict(list)
        for bound in bounds:
            groups[tuple(asked_sites(bound.sites, self.sites))].append(bound)
        with self.probe(grad=False) as probe:
            wanted = [(watched(probe, asked), group) for asked, group in groups.items()]
            probe(*self.batch.args, **self.batch.kwargs)
            tokens = token_ids(self.batch.args, self.batch.kwargs)
            about = replace(self.about, notes=self.about.notes + _remarks(probe))
            for patterns, group in wanted:
                heads = heads_of(probe, patterns, tokens)
                values += [
                    (bound, m) for bound in group for m in measured(heads, bound, samples, about)
                ]
        return values

    def _sites_of(self, bound: BoundMethod) -> list[Site]:
        """Concrete sites for a pass method; those about the input read the input."""
        if bound.method.sites == "input":
            return [INPUT]
        asked = self._read_by(bound)
        patterns, modules = self._patterns(asked), self.probe(grad=False).modules
        if not all(p.concrete for p in patterns):
            return self._met(asked)[0]
        return [
            Site(path, p.port, p.call or 0, p.index)
            for p in patterns
            for path in modules
            if p.matches(Site(path, p.port, p.call or 0))
        ]

    def _met(self, asked: Sequence[Address]) -> tuple[list[Site], list[Site]]:
        """What one forward has where wildcards lead: sites with positions, and those without."""
        key = tuple(asked)
        if key not in self._wild:
            with self.probe() as probe:
                probe.watch(*asked)
                probe(*self.batch.args, **self.batch.kwargs)
                values = probe.values(asked)
                over = [v.site for v in values if not mappable(probe, v)]
            sites = [v.site for v in values if v.site not in over]
            self._wild[key] = (sites, over) if sites else (over, [])
        return self._wild[key]


def _remarks(probe: Probe) -> tuple[str, ...]:
    """What a result must say about the pass it came from."""
    return probe.adapter.notes + tuple(probe.trace.notes) + _holes(probe)


def _holes(probe: Probe) -> tuple[str, ...]:
    """What the pass went through without the probe seeing it made."""
    return tuple(f"unseen by the probe: {hole}" for hole in probe.trace.holes)
