"""The calls most users need: maps of many methods, traces, patched outputs, and their plan."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn

from ..attribution import (
    Axes,
    BoundMethod,
    Inputs,
    MethodLike,
    Methods,
    Output,
    Owned,
    Sites,
    Targets,
    bound_methods,
    needed,
    use,
)
from ..capture import Keep, keeps_model
from ..errors import LimelightError, MethodError, OptionError
from ..probe import Probe
from ..relevance import Ledger, Preset
from ..results import About, Maps, SaliencyMap
from ..sites import Adapter, AddressLike, adapt, addresses
from ..targets import Target, by_name, targets, top
from ..trace import Edit, Trace
from .arguments import check_arguments
from .batch import Batch, chunks
from .foreign_errors import worded
from .membership import told_apart
from .moved_inputs import reads_layers
from .not_finite import with_causes
from .plan import ALONE, MANY, Plan, Split, is_out_of_memory, make_plan, split_of
from .provenance import about_model
from .runner import Runner
from .settled import given_to, settled

T = TypeVar("T")


def _nothing(output: Output, samples: int) -> None:
    """What `maps` reads of outputs."""


def maps(
    model: nn.Module,
    x: Inputs | Batch,
    methods: Methods,
    *,
    target: Targets = None,
    sites: Sites = None,
    samples: Sequence[str] | None = None,
    batch: int | str = "auto",
    seed: int = 0,
    about: About | None = None,
    axes: Axes = None,
) -> Maps:
    """Maps of any methods, for every target, at every site: one forward, one backward per regime.

    x        a batch: a tensor, a tuple of arguments, or a mapping of keyword arguments. Which of
             several tensors hold a row a sample is what `limelight.inputs` says, else it is found
             by running one sample apart
    target   what `limelight.label`, `top`, `margin` ... give; several in a list; default top()
    sites    read by every method that does not carry its own; default: each method's usual place
    batch    samples at a time, and copies of one where a method runs many; "auto" measures when
             there are many samples and halves when memory fills
    axes     what dimensions mean where no op of the model tells: `{"input": "b c y x"}`

    Order: sample, target, then methods and sites as asked; metrics of heads, which have no target,
    come once, with the first. Raises LimelightErrors.

    Example:
        >>> maps = ll.maps(net, x, ["gradcam", "smoothgrad,n=2"], sites="0", target=[1, ll.top()])
        >>> [(m.method, m.target) for m in maps][:2]
        [('gradcam', 'class 1'), ('smoothgrad,n=2', 'class 1')]
    """
    saliency_maps, _ = maps_and_output(
        model,
        x,
        methods,
        target=target,
        sites=sites,
        samples=samples,
        batch=batch,
        seed=seed,
        about=about,
        axes=axes,
    )
    return saliency_maps


@worded
@keeps_model
def maps_and_output(
    model: nn.Module,
    x: Inputs | Batch,
    methods: Methods,
    *,
    target: Targets = None,
    sites: Sites = None,
    samples: Sequence[str] | None = None,
    batch: int | str = "auto",
    seed: int = 0,
    about: About | None = None,
    axes: Axes = None,
    labels: Sequence[str] | None = None,
    read: Callable[[Output, int], T | None] = _nothing,
) -> tuple[Maps, list[T | None]]:
    """As `maps`, and what `read(output, samples)` makes of the model's output, part by part.

    labels  class names in place of those that the model tells
    """
    check_arguments(sites=sites, axes=axes, seed=seed)
    whole, bounds, wanted, adapter = _prepare(model, x, methods, target, axes, labels)
    if batch != "auto" or len(whole) > MANY or any(b.method.kind in ALONE for b in bounds):
        whole = told_apart(model, whole)
    names = [str(i) for i in range(len(whole))] if samples is None else list(samples)
    if len(names) != len(whole):
        raise LimelightError(f"{len(names)} sample names were given for {len(whole)} samples")
    about = about or about_model(model, seed)
    split = split_of(model, whole, bounds) if batch == "auto" else _split(batch)
    shared = any(b.sites is None and reads_layers(b.method) for b in bounds)
    saliency_maps: list[SaliencyMap] = []
    readings: list[T | None] = []

    def run(places: range, limit: int) -> None:
        part = whole.take(places)
        runner = Runner(model, part, sites, seed, limit, about, known=adapter, shared=shared)
        of_part = [t.take(places) for t in wanted]
        part_maps, output = _run(runner, bounds, of_part, names[places.start : places.stop])
        saliency_maps.extend(part_maps)
        readings.append(read(output, len(part)))

    _each(len(whole), split, run)
    place = {name: i for i, name in enumerate(names)}
    by_sample = sorted(saliency_maps, key=lambda m: place[m.sample])
    return Maps(with_causes(by_sample, model, whole, place)), readings


@worded
@keeps_model
def plan(
    model: nn.Module,
    x: Inputs | Batch,
    methods: Methods,
    *,
    target: Targets = None,
    sites: Sites = None,
) -> Plan:
    """What `maps` would do: passes by kind, memory for a sample and for the batch, the split.

    Runs one sample forward to measure.

    Example:
        >>> print(ll.plan(net, x, ["gradcam", "smoothgrad,n=4"]))  # doctest: +ELLIPSIS
        2 samples, ...
    """
    whole, bounds, wanted, _ = _prepare(model, x, methods, target)
    return make_plan(model, told_apart(model, whole), bounds, len(wanted), sites)


@worded
@keeps_model
def trace(
    model: nn.Module,
    x: Inputs | Batch,
    sites: Sites = "hidden",
    *,
    target: Targets = None,
    edits: Mapping[AddressLike, Edit] | None = None,
    keep: Keep = "device",
    axes: Axes = None,
) -> Trace:
    """The values at sites in one forward; with a target their gradients as well.

    Without a target no graph is built, and the forward stops once all sites are known and found.

    Example:
        >>> t = ll.trace(net, x, ["0", "1"], target=ll.label(1))
        >>> t["0"].act.shape, t["0"].grad.shape
        (torch.Size([2, 6, 6, 6]), torch.Size([2, 6, 6, 6]))
    """
    check_arguments(axes=axes)
    batch = Batch.of(x, axes, model)
    with _probe(model, batch, axes, grad=target is not None) as probe:
        listed = addresses(sites) if sites is not None else []
        probe.watch(*(listed or ["hidden"]), keep=keep).edit(edits or {})
        probe(*batch.args, **batch.kwargs)
        if target is not None:
            probe.backward(targets(target)[0].resolve(by_name(probe.adapter.labels)), retain=False)
        return probe.trace


@worded
@keeps_model
def ledger(
    model: nn.Module, x: Inputs | Batch, method: MethodLike = "lrp", *, target: Targets = None
) -> Ledger:
    """The books of one relevance pass over a batch: what each op received, kept and handed on.

    Raises MethodError for a method that reads no relevance, NoRule where a rule is missing.

    Example:
        >>> books = ll.ledger(net, x, "lrp:epsilon", target=1)
        >>> books.leaks()
        ()
    """
    bound = use(method)
    if not isinstance(bound.regime, Preset):
        raise MethodError(
            f"method {bound.name!r} reads no relevance, so there are no books; use 'lrp'"
        )
    batch = Batch.of(x, None, model)
    with _probe(model, batch, ledger=True) as probe:
        probe.watch("input", *needed(bound, ()))
        probe(*batch.args, **batch.kwargs)
        chosen = targets(top() if target is None else target)[0]
        chosen = chosen.resolve(by_name(probe.adapter.labels))
        probe.differentiate(chosen, probe.values(), lambda value, r: None, regime=bound.regime)
        return probe.ledger()


@worded
@keeps_model
def patch(
    model: nn.Module,
    x: Inputs | Batch,
    edits: Mapping[AddressLike, Edit],
    *,
    target: Targets = None,
    axes: Axes = None,
) -> Output:
    """The model's output with some sites edited; with a target its score per sample instead.

    Example:
        >>> other = ll.trace(net, x.flip(0), "0")
        >>> ll.patch(net, x, {"0:out[5]": ll.swap(other), "1": ll.scale(0.5)}, target=1).shape
        torch.Size([2])
    """
    check_arguments(axes=axes)
    batch = Batch.of(x, axes, model)
    with _probe(model, batch, axes, grad=False) as probe:
        output = probe.edit(edits)(*batch.args, **batch.kwargs)
        if target is None:
            return output
        chosen = targets(target)[0].resolve(by_name(probe.adapter.labels))
        given, adapter = given_to(batch), probe.adapter
    (chosen,) = settled(model, batch, [chosen], output, adapter)
    return chosen.settle(output, given)(output, given.samples)


def _probe(
    model: nn.Module,
    batch: Batch,
    axes: Axes = None,
    *,
    grad: bool = True,
    ledger: bool = False,
) -> Probe:
    """A probe that knows what was said of a batch."""
    said = {**batch.axes, **(axes or {})}
    return Probe(
        model,
        grad=grad,
        ledger=ledger,
        axes=said,
        explained=batch.explained,
        members=batch.members,
    )


def _prepare(
    model: nn.Module,
    x: Inputs | Batch,
    methods: Methods,
    target: Targets,
    axes: Axes = None,
    labels: Sequence[str] | None = None,
) -> tuple[Batch, list[BoundMethod], list[Target], Adapter]:
    whole = Batch.of(x, axes, model)
    bounds = [replace(bound) for bound in bound_methods(methods)]  # asked twice, it is two
    circuits = [b.name for b in bounds if b.method.kind == "circuit"]
    if circuits:
        raise MethodError(
            f"method {circuits[0]!r} scores the heads of a circuit and makes no map: "
            "call limelight.circuit"
        )
    for bound in bounds:
        if bound.method.kind == "path":
            bound()  # options that do not go together are refused before anything runs
    adapter = adapt(model)
    said = {**whole.axes, **(axes or {})}
    adapter = replace(adapter, axes=(*said.items(), *adapter.axes))
    adapter = adapter if labels is None else replace(adapter, labels=tuple(labels))
    names = by_name(adapter.labels)
    wanted = [t.resolve(names) for t in targets(top() if target is None else target)]
    for one in wanted:
        one.check(len(whole))
    return whole, bounds, wanted, adapter


def _run(
    runner: Runner, bounds: list[BoundMethod], wanted: list[Target], names: Sequence[str]
) -> tuple[list[SaliencyMap], Any]:
    """All methods on one micro-batch; and the model's output."""
    kinds: dict[str, list[BoundMethod]] = {"site": [], "path": [], "pass": [], "heads": []}
    for bound in bounds:
        kinds[bound.method.kind].append(bound)
    at_sites: list[Owned] = []
    alone = kinds["path"] + kinds["pass"]
    for bound in kinds["pass"]:
        runner.unread(bound)  # what cannot be done is refused before anything runs
    if kinds["site"]:
        at_sites, scored, output = runner.site_maps(kinds["site"], wanted, names, alone)
    else:
        scored, output = runner.scored(wanted, alone)
    turn = {id(b): i for i, b in enumerate(bounds)}
    of_any = runner.head_values(kinds["heads"], names) if kinds["heads"] else []
    ordered: list[SaliencyMap] = []
    each = len(at_sites) // len(scored)
    for i, one in enumerate(scored):
        of_target = at_sites[i * each : (i + 1) * each]
        if kinds["path"]:
            of_target += runner.path_maps(kinds["path"], one, names)
        for bound in kinds["pass"]:
            of_target += runner.pass_maps(bound, one, names)
        of_target += of_any if i == 0 else []
        ordered += [m for _, m in sorted(of_target, key=lambda owned: turn[id(owned[0])])]
    return ordered, output


def _split(batch: int | str) -> Split:
    if not isinstance(batch, int) or batch < 1:
        raise OptionError(f"batch is 'auto' or a number of samples from 1, not {batch!r}")
    return Split(batch, batch)


def _each(count: int, split: Split, run: Callable[[range, int], None]) -> None:
    """Run over all samples; when memory fills, halve what runs at a time and go on.

    run(places, limit): some samples, and how many copies of one may pass the model at a time.
    """
    todo = list(reversed(chunks(count, split.samples)))
    while todo:
        places = todo.pop()
        full = False
        try:
            run(places, split.copies)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or split.copies == 1:
                raise
            full = True
        if full:  # outside the except, whose traceback holds the tensors
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            split = split.halved
            parts = chunks(len(places), split.samples)
            todo += [places[part.start : part.stop] for part in reversed(parts)]
