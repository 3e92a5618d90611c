"""From photos to an explanation in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...methods.combine import How
from ...methods.combine import combine as combine_maps
from ...models.inputs import (
    Labels,
    Numbers,
    Preprocessing,
    PreprocessingOptions,
    Sides,
    Transform,
    class_names,
    fitted,
    transform_name,
)
from ...models.weights import fingerprint
from ...probe.attribution import Methods, Pictures, Sites, Targets, bound_methods
from ...probe.capture import keeps_model
from ...probe.engine import Batch, about_model, maps_and_output, settled
from ...probe.engine import ledger as ledger_of
from ...probe.errors import OptionError, TargetError
from ...probe.relevance import Ledger, Preset
from ...probe.results import Maps
from ...probe.sites import adapt
from ...probe.targets import Reading, Target, by_name, picked, targets, top
from .contents import Guess
from .explanation import Explanation
from .photos import Photos, free_name, given, prepared

_BEST = 5
Progress = Callable[[int, int, str], None]


@keeps_model
def explain(
    model: nn.Module,
    images: Pictures | None = None,
    methods: Methods = ("gradcam", "normgrad"),
    *,
    sites: Sites = None,
    target: Targets = None,
    combine: How | None = None,
    ledger: bool = False,
    batch: int | str = "auto",
    seed: int = 0,
    labels: Labels | None = None,
    size: Sides | None = None,
    resize: Sides | None = None,
    interpolation: str | None = None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    transform: Transform | None = None,
    inputs: Any = None,
    progress: Progress | None = None,
) -> Explanation:
    """Maps of photos with all that a reader needs, as a page: `explain(...).save("dog.html")`.

    images     one picture or several: paths, PIL images, arrays or bytes
    combine    `product` or `sum`: also one map per method over all its sites
    ledger     also where the relevance goes, for each method that reads it, on the first picture
    labels     class names: a list, a dict by index, or a file with a name a line or in JSON
    size       rows and columns of the model's input; with `resize`, `interpolation`, `mean` and
               `std` in place of what the model tells of itself, see `limelight.preprocess`
    transform  a function that makes the model's input `c y x` of a photo, such as torchvision's;
               the maps then lie over the input as it is drawn from the tensor
    inputs     tensors that the model takes as they are, `b c y x` or `c y x`; `images`, if given,
               are the pictures that its maps lie over
    The other options are those of `limelight.maps`. A picture that cannot be read is left out and
    named in `.skipped`; ImageError is raised when none can.
    """
    asked = PreprocessingOptions(size, resize, interpolation, mean, std, transform)
    if inputs is None:
        preprocessing = fitted(model, asked)
        samples, words = prepared(model, preprocessing, images), _described(preprocessing)
    else:
        samples, words = given(model, inputs, images, asked), "none: inputs as they are"
    names = adapt(model).labels if labels is None else class_names(labels)
    about = about_model(model, seed)
    notes = about.notes + samples.notes
    about = replace(about, weights=fingerprint(model), preprocessing=words, notes=notes)
    wanted = [t.resolve(by_name(names)) for t in targets(top() if target is None else target)]
    options: dict[str, Any] = {
        "target": wanted,
        "sites": sites,
        "batch": batch,
        "seed": seed,
        "about": about,
    }
    if transform is None and inputs is None:
        options["axes"] = {"input": "b c y x"}  # as photos are prepared
    check = _check_count if labels is not None else None
    maps, guesses = _explained(model, samples, methods, names, check, progress, **options)
    if combine is not None:
        maps += combine_maps(maps, combine)
    ledgers = _ledgers(model, samples, methods, wanted, maps) if ledger else {}
    photos, skipped = tuple(samples.photos), tuple(samples.skipped)
    return Explanation(maps, photos, guesses, about=about, skipped=skipped, ledgers=ledgers)


def _explained(
    model: nn.Module,
    samples: Photos,
    methods: Methods,
    names: Sequence[str],
    check: Callable[[Sequence[str], Tensor], None] | None,
    progress: Progress | None,
    **options: Any,
) -> tuple[Maps, dict[str, list[Guess]]]:
    """Maps and guesses, a few samples at a time; `check` sees probabilities with the names."""
    maps = Maps()
    guesses: dict[str, list[Guess]] = {}
    read: Callable[[Any, int], list[Tensor]] | None = None
    for group in samples.groups():
        x = torch.stack([samples.inputs[name] for name in group])
        read = read or _guesser(model, x[:1], options["target"])
        more, parts = maps_and_output(
            model, x, methods, samples=group, labels=names, read=read, **options
        )
        rows = [row for part in parts for row in part or ()]
        if check is not None:
            for row in rows:
                check(names, row)
        maps += more
        guesses.update(zip(group, (_guesses(row, names) for row in rows), strict=True))
        if progress is not None:
            progress(len(guesses), len(samples.photos), group[-1])
    return maps, guesses


def _ledgers(
    model: nn.Module, samples: Photos, methods: Any, target: Any, maps: Maps
) -> dict[str, Ledger]:
    """The ledger of each relevance method on the first picture and its first target."""
    sample, x = next(iter(samples.inputs.items()))
    first = targets(top() if target is None else target)[0].take([0])
    title = next((m.target for m in maps), first.name)
    ledgers: dict[str, Ledger] = {}
    for bound in bound_methods(methods):
        if isinstance(bound.regime, Preset):
            name = free_name(f"{bound.name} of {sample} for {title}", ledgers)
            ledgers[name] = ledger_of(model, x[None], bound, target=first)
    return ledgers


def _described(used: Preprocessing) -> str:
    if used.transform is not None:
        return f"transform {transform_name(used.transform)}"
    resize = " x ".join(map(str, used.resize)) if isinstance(used.resize, tuple) else used.resize
    size = f"resize {resize} {used.interpolation}, crop {used.size[0]} x {used.size[1]}"
    return f"{size}; mean {_numbers(used.mean)}, std {_numbers(used.std)}"


def _check_count(names: Sequence[str], probabilities: Tensor) -> None:
    """Raise OptionError where as many names were given as the model has no classes."""
    classes = len(probabilities)
    if classes > 1 and classes != len(names):
        raise OptionError(
            f"labels= names {len(names)} classes, but the model tells {classes} apart: give a "
            "name for each, in the order of its outputs"
        )


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{v:.3f}" for v in values)


def _guesser(model: nn.Module, x: Tensor, target: Targets) -> Callable[[Any, int], list[Tensor]]:
    """What reads the probabilities of all classes, sample by sample, off an output.

    The part that the first target reads is read, as that target reads it. Nothing is read where
    outputs are no classes, or classes of places.
    """
    first = targets(top() if target is None else target)[0]
    reading = first.reading if first.pick is not None and first.reading else Reading()
    reading = replace(reading, of="probability")

    def read(output: Any, samples: int) -> list[Tensor]:
        nonlocal reading
        try:
            if reading.open and reading.part(output).grad_fn is None:  # it hides what made it
                asked = Target("probabilities", picked, reading=reading)
                reading = settled(model, Batch.of(x), [asked])[0].reading or reading
            places = reading.places(output, samples).detach().float()
        except TargetError:
            return [torch.empty(0)] * samples
        usable = places.ndim == 2 and places.shape[1] > 1
        return list(places) if usable else [torch.empty(0)] * samples

    return read


def _guesses(probabilities: Tensor, names: Sequence[str]) -> list[Guess]:
    """The five most probable classes of a sample."""
    best = probabilities.topk(min(_BEST, len(probabilities)))
    return [
        Guess(names[c] if c < len(names) else f"class {c}", c, p)
        for p, c in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
