"""Many maps from one forward: one backward per regime and target, maps made as gradients arrive."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from ..axes import Layout
from ..errors import MethodError, SiteError
from ..results import About, Maps, SaliencyMap
from ..sites import Pattern, Site, addresses, parse
from ..targets import Target, by_name, targets, top
from ..trace import Value
from .forward import Forward
from .registry import BoundMethod, Method, bound_methods
from .scored_target import UNIFORM, ScoredTarget


@dataclass(frozen=True)
class Part:
    """The channels of a head or channel, among all that a value has as it is laid out.

    keep    which; `dim` is the dimension that they lie along
    zeroed  leave the others as zeros, for methods that compare a value with its module
    """

    keep: Tensor
    dim: int
    zeroed: bool

    def __call__(self, x: Tensor) -> Tensor:
        if self.zeroed:
            return x * self.keep.to(x).reshape(-1, *[1] * (x.ndim - self.dim - 1))
        return x.index_select(self.dim, self.keep.nonzero()[:, 0].to(x.device))


@dataclass(frozen=True)
class MethodAtSite:
    """One method at one captured value, or at one head or channel of it.

    index  which; None for all
    """

    bound: BoundMethod
    value: Value
    index: int | None = None

    @staticmethod
    def uncaptured(bound: BoundMethod, site: Site) -> MethodAtSite:
        """A method at a site whose value it did not read from a probe."""
        return MethodAtSite(bound, Value(site, torch.empty(0), None), site.index)

    @property
    def site(self) -> Site:
        """Where the method reads."""
        whole = self.value.site
        return whole if self.index is None else replace(whole, index=self.index)

    def part(self, layout: Layout) -> Part | None:
        """What the method reads of the value as it is laid out; None for all of it.

        Raises SiteError for an index that the value does not have.
        """
        if self.index is None:
            return None
        along = 2 if layout.axes == "c" else 1
        marks = layout.canonical(self.value.marked(self.index))[0]
        keep = marks.movedim(along - 1, 0).flatten(1).any(1)
        return Part(keep, along, "module" in self.bound.method.needs)


@dataclass(frozen=True)
class RawMap:
    """What a method gave at a site, `b` and the positions; its layout; the input's sizes.

    part  what it read of the value; None for all of it
    """

    source: MethodAtSite
    values: Tensor
    layout: Layout
    sizes: Mapping[str, int]
    part: Part | None = None

    @property
    def axes(self) -> str:
        """What the positions are, "" for one number; a map per channel has `c` in front."""
        extra = self.maps.ndim - 1 - len(self.layout.axes.split())
        return f"c {self.layout.axes}" if extra == 1 else self.layout.axes

    @property
    def maps(self) -> Tensor:
        """The values; a feature is a place and a channel, so `b 1 c` per channel is `b c`."""
        single = self.layout.axes == "c" and self.values.ndim == 3 and self.values.shape[1] == 1
        return self.values[:, 0] if single else self.values


NOT_FINITE = "some values are not finite: this method overflowed, or divided by zero, here"
RAW = Method("raw", lambda grad: grad, "site", "input", needs=("grad",))


def needed(bound: BoundMethod, patterns: Iterable[Pattern]) -> list[Pattern]:
    """The sites to watch for a method: its own, what enters those, what its options name."""
    listed = list(patterns)
    if "inputs" in bound.method.needs:
        listed += [replace(p, port=_entering(p.port), index=None) for p in patterns]
    named = (*getattr(bound.regime, "through", ()), *getattr(bound.regime, "hold", ()))
    return listed + [replace(parse(address), index=None) for address in named]


def methods_at(
    probe: Forward, bound: BoundMethod, patterns: Sequence[Pattern]
) -> list[MethodAtSite]:
    """A method at every captured site of its patterns. Raises SiteError when there is none."""
    if bound.method.kind != "site":
        raise MethodError(
            f"method {bound.name!r} needs passes of its own; "
            "run it with limelight.maps(model, x, ...)"
        )
    values = {(v.site, p.index): v for p in patterns for v in probe.values([p])}
    if not values:
        names = ", ".join(str(p) for p in patterns)
        raise SiteError(f"method {bound.name!r} was asked at {names}, where nothing was captured")
    values = _placed(probe, bound, patterns, values)
    inner = next((site for site, _ in values if site.port != "out"), None)
    if "module" in bound.method.needs and inner is not None:
        raise SiteError(
            f"method {bound.name!r} compares what a module computes with its weights, and {inner} "
            "is not that; name the module alone"
        )
    return [MethodAtSite(bound, value, index) for (_, index), value in values.items()]


Found = dict[tuple[Site, int | None], Value]


def _placed(probe: Forward, bound: BoundMethod, patterns: Sequence[Pattern], found: Found) -> Found:
    """What wildcards found, without that which a method can draw no map over, with a note."""
    named = [p for p in patterns if p.concrete]
    if len(named) == len(patterns):
        return found
    over = {
        (site, index): value
        for (site, index), value in found.items()
        if not any(p.matches(site) for p in named) and not _readable(probe, bound, value)
    }
    if over and len(over) < len(found):
        probe.trace.notes.append(passed_over(bound.name, [site for site, _ in over]))
        return {key: value for key, value in found.items() if key not in over}
    return found


def passed_over(name: str, sites: Sequence[Site]) -> str:
    """The note on a method that can draw no map over some of what wildcards found."""
    return f"{name} passed over {', '.join(map(str, sites))}, which have no positions for it"


def _readable(probe: Forward, bound: BoundMethod, value: Value) -> bool:
    try:
        return bool(_read_as(bound, value, probe.layout(value)))
    except SiteError:
        return False


def gather(
    probe: Forward, sources: Sequence[MethodAtSite], target: Target, *, retain: bool
) -> list[RawMap]:
    """Run the backwards that methods at sites need for one target: one per regime."""
    raw_maps: dict[int, RawMap] = {}
    by_regime: dict[Any, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    with torch.no_grad():
        for i, source in enumerate(sources):
            if {"grad", "relevance"} & set(source.bound.method.needs):
                by_regime[source.bound.regime][id(source.value)].append(i)
            else:
                raw_maps[i] = _read(probe, source, None)
    for turn, (regime, at) in enumerate(by_regime.items(), 1):
        values = list({id(v): v for ids in at.values() for v in [sources[ids[0]].value]}.values())
        keep = retain or turn < len(by_regime)
        spend = not keep and all({"act", "grad"}.issuperset(s.bound.method.needs) for s in sources)
        receive = _receiver(probe, sources, at, raw_maps, spend=spend)
        probe.differentiate(target, values, receive, regime=regime, retain=keep)
    return [raw_maps[i] for i in range(len(sources))]


def _receiver(
    probe: Forward,
    sources: Sequence[MethodAtSite],
    at: dict[int, list[int]],
    raw_maps: dict[int, RawMap],
    *,
    spend: bool,
) -> Callable[[Value, Tensor], None]:
    """What makes the maps of a value as its gradient arrives; `spend` frees the value then."""

    def receive(value: Value, grad: Tensor) -> None:
        with torch.no_grad():
            for i in at[id(value)]:
                raw_maps[i] = _read(probe, sources[i], grad)
        if spend:
            value.spend()

    return receive


def _read(probe: Forward, source: MethodAtSite, grad: Tensor | None) -> RawMap:
    """Call a site method with what its signature names, in the methods' layout."""
    bound, value = source.bound, source.value
    plan = probe.layout(value)
    plan = _read_as(bound, value, plan)
    part = source.part(plan)
    wanted = [_need(need, probe, value, grad, plan, part) for need in bound.method.needs]
    result = bound(*wanted)
    batch = plan.samples(value.act.shape)
    if not isinstance(result, Tensor) or result.shape[:1] != (batch,):
        given = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise MethodError(
            f"method {bound.name!r} at {value.site} must return one map per sample, "
            f"{batch} first, but returned {given}"
        )
    result = result if plan.axes else result.flatten(1).squeeze(1)
    raw = RawMap(source, result.detach().cpu(), plan, probe.input_sizes, part)
    if raw.maps.ndim - 1 != len(raw.axes.split()):
        raise MethodError(
            f"method {bound.name!r} at {value.site} must return maps over {plan.axes!r}, but "
            f"returned shape {tuple(result.shape)}"
        )
    return raw


def _read_as(bound: BoundMethod, value: Value, plan: Layout) -> Layout:
    """The layout of a value as a method reads it. Raises SiteError where that says nothing."""
    if plan.axes != "c" or bound.method.places == "any":
        return plan
    if bound.method.places == "one":
        return plan.at_one_place()
    raise SiteError(
        f"{value.site} has shape {value.shape} and no positions to draw a map over, which "
        f"{bound.name!r} compares; choose a site before the pooling, a token sequence, or a method "
        "without that comparison, such as input_x_gradient"
    )


def _need(
    need: str,
    probe: Forward,
    value: Value,
    grad: Tensor | None,
    plan: Layout,
    part: Part | None,
) -> Tensor | nn.Module:
    """What a parameter of a site method's signature means."""
    if need == "module":
        return probe.modules[value.site.path]
    if need == "inputs":
        return _inputs(probe, value)
    if grad is None:
        whole = plan.canonical(value.act)
    else:
        whole = plan.canonical(value.act.to(grad.device) if need == "act" else grad)
    return whole if part is None else part(whole)


def _entering(port: str) -> str:
    """The port by which what a site's module computes enters it."""
    return port if port.partition(".")[0] == "in" else "in"


def _inputs(probe: Forward, value: Value) -> Tensor:
    entered = probe.trace[Site(value.site.path, _entering(value.site.port), value.site.call)]
    return probe.layout(entered).canonical(entered.act)


Owned = tuple[BoundMethod, SaliencyMap]
"""A map, and the very method that was asked for it, among others of the same name."""


def results(
    raw_maps: Sequence[RawMap], scored: ScoredTarget, samples: Sequence[str], about: About
) -> list[Owned]:
    """Raw maps of a batch as saliency maps, one per sample, with their methods."""
    return [
        (raw.source.bound, m)
        for raw in raw_maps
        for m in _one_per_sample(raw, scored, samples, _about(raw, about))
    ]


def _about(raw: RawMap, about: About) -> About:
    """Provenance with the method's options and what was guessed about the layout."""
    grid = raw.layout.grid
    notes = () if grid is None else (f"token grid by the picture's proportions: {grid}",)
    options = tuple((k, str(v)) for k, v in raw.source.bound.options)
    return replace(about, options=options, notes=about.notes + notes)


def _one_per_sample(
    raw: RawMap, scored: ScoredTarget, samples: Sequence[str], about: About
) -> list[SaliencyMap]:
    name, site = raw.source.bound.name, raw.source.site
    maps = raw.maps
    extent = extent_of(raw.axes, raw.sizes, maps.shape[1:])
    about = replace(about, notes=about.notes + scored.target.notes)
    finite = maps.reshape(len(maps), -1).isfinite().all(1).tolist()
    saliency_maps = []
    for i, sample in enumerate(samples):
        score, of_class, title = scored.scores[i], scored.classes[i], scored.titles[i]
        of_sample = replace(about, score=score, of_class=of_class, kept=_kept(raw, i, score))
        doubts = (UNIFORM,) * scored.uniform[i] + (NOT_FINITE,) * (
            isfinite(score) and not finite[i]
        )
        of_sample = of_sample.cautioned(*doubts)
        saliency_maps.append(
            SaliencyMap(maps[i], raw.axes, sample, title, name, site, extent, of_sample)
        )
    return saliency_maps


def _kept(raw: RawMap, i: int, score: float) -> float | None:
    """The share of the starting relevance that a map of the input holds."""
    bound, site = raw.source.bound, raw.source.site
    if "relevance" not in bound.method.needs or site != Site("", "in"):
        return None
    start = 1.0 if getattr(bound.regime, "init", "logit") == "one" else score
    return raw.values[i].double().sum().item() / start if start else None


def extent_of(axes: str, sizes: Mapping[str, int], shape: Sequence[int]) -> tuple[float, ...]:
    """The part of the input that a map covers: where it starts along each axis, where it ends.

    A map per channel says it of the places alone. Tokens and features count themselves.
    """
    places = [(a, n) for a, n in zip(axes.split(), shape, strict=True) if a != "c" or axes == "c"]
    ends = [float(n if a in ("n", "c") else sizes.get(a, 0)) for a, n in places]
    return (*[0.0] * len(ends), *ends) if all(ends) else ()


def probe_maps(probe: Forward, methods: Any, target: Any, sites: Any, *, retain: bool) -> Maps:
    """`Probe.maps`: site methods at the sites that are already captured."""
    patterns = _patterns(probe, sites) if sites is not None else _everywhere(probe)
    sources: list[MethodAtSite] = []
    for bound in bound_methods(methods):
        asked = _patterns(probe, bound.sites) if bound.sites is not None else patterns
        sources += methods_at(probe, bound, asked)
    if sites is None:
        sources = [source for source in sources if mappable(probe, source.value)] or sources
    labels, output = probe.adapter.labels, probe.trace.output
    wanted = [t.resolve(by_name(labels)) for t in targets(top() if target is None else target)]
    about = About(versions=(("torch", torch.__version__),), notes=probe.adapter.notes)
    saliency_maps: list[SaliencyMap] = []
    for i, one in enumerate(wanted):
        scored = ScoredTarget.of(one, output, labels, probe.given)
        raw_maps = gather(probe, sources, scored.target, retain=retain or i < len(wanted) - 1)
        samples = [str(n) for n in range(len(scored.scores))]
        saliency_maps += [m for _, m in results(raw_maps, scored, samples, about)]
    return Maps(saliency_maps)


def _patterns(probe: Forward, sites: Any) -> list[Pattern]:
    return [p for address in addresses(sites) for p in probe.resolve(address)]


def _everywhere(probe: Forward) -> list[Pattern]:
    """Where a probe looks: every value that it holds, or those parts of some that it was told."""
    parts = [p for p in probe.watched if p.index is not None]
    whole = [p for p in probe.watched if p.index is None]
    return [*whole, *parts] if parts else [parse("**"), parse("**:**")]


def mappable(probe: Forward, value: Value) -> bool:
    """Whether a value has positions; sites without any are passed over when none were named."""
    try:
        plan = probe.layout(value)
    except SiteError:
        return False
    return value.edge is not None and plan.axes != "c"
