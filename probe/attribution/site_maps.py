"""Many maps from one forward: one backward per regime and target, maps made as gradients arrive."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import MethodError, SiteError
from ..results import About, Maps, SaliencyMap
from ..sites import Layout, Pattern, Site, layout, parse
from ..targets import Target, by_name, targets, top
from ..trace import Value
from .forward import Forward
from .registry import BoundMethod, Method, bound_methods


@dataclass(frozen=True)
class Job:
    """One method at one captured value."""

    bound: BoundMethod
    value: Value

    @staticmethod
    def at(bound: BoundMethod, site: Site) -> Job:
        """A job that reads a site without a captured value."""
        return Job(bound, Value(site, torch.empty(0), None))


@dataclass(frozen=True)
class Reading:
    """What a job gave, `b` and the positions; its layout; rows and columns of the picture."""

    job: Job
    values: Tensor
    layout: Layout
    size: tuple[int, ...]

    @property
    def axes(self) -> str:
        """What the positions are; a map per channel has `c` in front."""
        extra = self.values.ndim - 1 - len(self.layout.axes.split())
        return f"c {self.layout.axes}" if extra == 1 else self.layout.axes


@dataclass(frozen=True)
class Verdict:
    """What the model says about a target: the target fixed to its classes, names and scores."""

    target: Target
    titles: list[str]
    scores: list[float]
    classes: list[int | None]

    @staticmethod
    def of(target: Target, output: Any, labels: Sequence[str]) -> Verdict:
        with torch.no_grad():
            fixed, scores = target.fix(output), target(output).tolist()
            rows = None if fixed.pick is None else fixed.rows
            classes = [None] * len(scores) if rows is None else rows.expand(len(scores)).tolist()
            return Verdict(fixed, target.titles(output, labels), scores, classes)


RAW = Method("raw", lambda grad: grad, "site", "input", needs=("grad",))


def needed(bound: BoundMethod, patterns: Iterable[Pattern]) -> list[Pattern]:
    """The sites to watch for a method: its own, and what enters the module if it asks for that."""
    listed = list(patterns)
    if "inputs" in bound.method.needs:
        listed += [replace(p, port="in") for p in patterns]
    through = getattr(bound.regime, "through", ())
    return listed + [replace(parse(address), index=None) for address in through]


def jobs_at(probe: Forward, bound: BoundMethod, patterns: Sequence[Pattern]) -> list[Job]:
    """A method at every captured site of its patterns. Raises SiteError when there is none."""
    if bound.method.kind != "site":
        raise MethodError(
            f"method {bound.name!r} needs passes of its own; "
            "run it with limelight.maps(model, x, ...)"
        )
    values = {v.site: v for p in patterns for v in probe.values([p])}
    if not values:
        names = ", ".join(str(p) for p in patterns)
        raise SiteError(f"method {bound.name!r} was asked at {names}, where nothing was captured")
    return [Job(bound, value) for value in values.values()]


def gather(probe: Forward, jobs: Sequence[Job], target: Target, *, retain: bool) -> list[Reading]:
    """Run the backwards that the jobs need for one target: one per regime."""
    readings: dict[int, Reading] = {}
    by_regime: dict[Any, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    with torch.no_grad():
        for i, job in enumerate(jobs):
            if {"grad", "relevance"} & set(job.bound.method.needs):
                by_regime[job.bound.regime][id(job.value)].append(i)
            else:
                readings[i] = _read(probe, job, None)
    for turn, (regime, at) in enumerate(by_regime.items(), 1):
        values = list({id(v): v for ids in at.values() for v in [jobs[ids[0]].value]}.values())
        keep = retain or turn < len(by_regime)
        spend = not keep and all({"act", "grad"}.issuperset(j.bound.method.needs) for j in jobs)
        receive = _receiver(probe, jobs, at, readings, spend=spend)
        probe.differentiate(target, values, receive, regime=regime, retain=keep)
    return [readings[i] for i in range(len(jobs))]


def _receiver(
    probe: Forward,
    jobs: Sequence[Job],
    at: dict[int, list[int]],
    readings: dict[int, Reading],
    *,
    spend: bool,
) -> Callable[[Value, Tensor], None]:
    """What makes the maps of a value as its gradient arrives; `spend` frees the value then."""

    def receive(value: Value, grad: Tensor) -> None:
        with torch.no_grad():
            for i in at[id(value)]:
                readings[i] = _read(probe, jobs[i], grad)
        if spend:
            value.spend()

    return receive


def _read(probe: Forward, job: Job, grad: Tensor | None) -> Reading:
    """Call a site method with what its signature names, in the methods' layout."""
    value = job.value
    plan = layout(value.site, value.act.shape, probe.size, probe.adapter)
    given = {
        "act": lambda: plan.canonical(value.act.to(grad.device) if grad is not None else value.act),
        "grad": lambda: plan.canonical(grad),  # type: ignore[arg-type]
        "relevance": lambda: plan.canonical(grad),  # type: ignore[arg-type]
        "inputs": lambda: _inputs(probe, value),
        "module": lambda: probe.modules[value.site.path],
    }
    result = job.bound(*(given[need]() for need in job.bound.method.needs))
    batch = value.act.shape[0]
    if not isinstance(result, Tensor) or result.shape[:1] != (batch,):
        found = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise MethodError(
            f"method {job.bound.name!r} at {value.site} must return one map per sample, "
            f"{batch} first, but returned {found}"
        )
    reading = Reading(job, result.detach().cpu(), plan, probe.size)
    if result.ndim - 1 != len(reading.axes.split()):
        raise MethodError(
            f"method {job.bound.name!r} at {value.site} must return maps over {plan.axes!r}, but "
            f"returned shape {tuple(result.shape)}"
        )
    return reading


def _inputs(probe: Forward, value: Value) -> Tensor:
    entered = probe.trace[Site(value.site.path, "in", value.site.call)]
    plan = layout(entered.site, entered.act.shape, probe.size, probe.adapter)
    return plan.canonical(entered.act)


def results(
    readings: Sequence[Reading], verdict: Verdict, samples: Sequence[str], about: About
) -> list[SaliencyMap]:
    """Readings of a batch as maps, one per sample."""
    found = []
    for r in readings:
        grid = r.layout.grid
        notes = (f"token grid guessed: {grid}",) if grid is not None and grid.guessed else ()
        said = replace(
            about,
            options=tuple((k, str(v)) for k, v in r.job.bound.options),
            notes=about.notes + notes,
        )
        extent = extent_of(r.axes, r.size, r.values.shape[1:])
        for i, sample in enumerate(samples):
            score, of_class = verdict.scores[i], verdict.classes[i]
            own = replace(said, score=score, of_class=of_class, kept=_kept(r, i, score))
            name, site = r.job.bound.name, r.job.value.site
            found.append(
                SaliencyMap(r.values[i], r.axes, sample, verdict.titles[i], name, site, extent, own)
            )
    return found


def _kept(r: Reading, i: int, score: float) -> float | None:
    """The share of the starting relevance that a map of the input holds."""
    job = r.job
    if "relevance" not in job.bound.method.needs or (job.value.site.path, job.value.site.port) != (
        "",
        "in",
    ):
        return None
    start = 1.0 if getattr(job.bound.regime, "init", "logit") == "one" else score
    return r.values[i].double().sum().item() / start if start else None


def extent_of(axes: str, size: Sequence[int], shape: Sequence[int]) -> tuple[float, ...]:
    """The part of the input that a map covers."""
    if axes.endswith("y x") and len(size) == 2:
        return (0.0, 0.0, float(size[0]), float(size[1]))
    return (0.0, float(shape[0])) if axes == "n" else ()


def probe_maps(probe: Forward, methods: Any, target: Any, sites: Any, *, retain: bool) -> Maps:
    """`Probe.maps`: site methods at the sites that are already captured."""
    patterns = [parse("**"), parse("**:**")] if sites is None else _patterns(probe, sites)
    jobs: list[Job] = []
    for bound in bound_methods(methods):
        own = _patterns(probe, bound.sites) if bound.sites is not None else patterns
        jobs += jobs_at(probe, bound, own)
    if sites is None:
        jobs = [job for job in jobs if _mappable(probe, job.value)] or jobs
    wanted = targets(top() if target is None else target)
    about = About(versions=(("torch", torch.__version__),), notes=probe.adapter.notes)
    found: list[SaliencyMap] = []
    for i, one in enumerate(wanted):
        one = one.resolve(by_name(probe.adapter.labels))
        verdict = Verdict.of(one, probe.trace.output, probe.adapter.labels)
        readings = gather(probe, jobs, verdict.target, retain=retain or i < len(wanted) - 1)
        found += results(readings, verdict, [str(n) for n in range(len(verdict.scores))], about)
    return Maps(found)


def _patterns(probe: Forward, sites: Any) -> list[Pattern]:
    listed = [sites] if isinstance(sites, (str, Site, Pattern)) else sites
    return [p for address in listed for p in probe.resolve(address)]


def _mappable(probe: Forward, value: Value) -> bool:
    """Whether a value has positions; sites without any are passed over when none were named."""
    try:
        layout(value.site, value.act.shape, probe.size, probe.adapter)
    except SiteError:
        return False
    return value.edge is not None
