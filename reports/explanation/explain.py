"""From photos, or inputs of any kind, to an explanation in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from ...methods.combine import How
from ...methods.combine import combine as combine_maps
from ...models.inputs import (
    Labels,
    Numbers,
    PreprocessingOptions,
    Sides,
    Transform,
    class_names,
    fitted,
)
from ...models.weights import fingerprint
from ...probe.attribution import Axes, Methods, Pictures, Sites, Targets, bound_methods
from ...probe.capture import keeps_model
from ...probe.engine import about_model, maps_and_output, worded
from ...probe.engine import ledger as ledger_of
from ...probe.errors import OptionError
from ...probe.relevance import Ledger, Preset
from ...probe.results import Maps
from ...probe.sites import adapt
from ...probe.targets import by_name, targets, top
from ..datasets import Samples as Rows
from ..datasets import with_embeddings, with_names
from .answers import Answers
from .drawn_outputs import DrawnOutput, kind_of_output
from .explanation import Explanation
from .given_inputs import given_inputs
from .listed_samples import by_input, data_samples, described_photos
from .mixer import mixer_on
from .pairs import Pairs
from .samples import PICTURE, Samples, free_name, given, prepared

_ON_SCALE = "the output is drawn as a picture on the scale of the input"
Progress = Callable[[int, int, str], None]


@worded
@keeps_model
def explain(
    model: nn.Module,
    images: Pictures | Rows | None = None,
    methods: Methods = ("gradcam", "normgrad"),
    *,
    sites: Sites = None,
    target: Targets = None,
    combine: How | None = None,
    ledger: bool = False,
    mixer: bool = False,
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
    axes: Axes = None,
    features: Sequence[str] = (),
    output: DrawnOutput | None = None,
    progress: Progress | None = None,
) -> Explanation:
    """Maps of samples with all that a reader needs, as a page: `explain(...).save("dog.html")`.

    images     one picture or several: paths, PIL images, arrays or bytes; or what
               `limelight.samples` read: series, rows of a table, volumes, inputs of several kinds
    combine    `product` or `sum`: also one map per method over all its sites
    ledger     also where the relevance goes, for each method that reads it, on the first picture
    mixer      also what the token mixer does on the first picture: the figures that the model's
               card names, or those of any attention
    labels     class names: a list, a dict by index, or a file with a name a line or in JSON
    size       rows and columns of the model's input; with `resize`, `interpolation`, `mean` and
               `std` in place of what the model tells of itself, see `limelight.preprocess`
    transform  a function that makes the model's input `c y x` of a photo, such as torchvision's;
               the maps then lie over the input as it is drawn from the tensor
    inputs     tensors that the model takes as they are, with or without a batch: pictures
               `b c y x`, series `b c t`, rows of a table `b c`, volumes `b c z y x` or films
               `b c t y x`; `images`, if given, are the pictures that maps of pictures lie over
    axes       what the dimensions of inputs mean where the model does not tell:
               `{"input": "b c t"}`
    features   names of a table's columns, or of a series' channels
    output     what the output holds: of a dense one `b c y x` "classes", whose areas are outlined
               on the photo, or a "picture", shown beside the photo; "boxes" as torchvision's
               detectors return them, drawn with their scores; or a function that makes shapes of
               it, a list of `limelight.Shape` a picture. By default what the model's family or
               card tells
    The other options are those of `limelight.maps`. A picture that cannot be read is left out and
    named in `.skipped`; ImageError is raised when none can.

    Example:
        >>> page = ll.explain(digits, ll.example("flower"), ["gradcam"])
        >>> page.save("flower.html").name, page.maps[0].method
        ('flower.html', 'gradcam')
    """
    asked = PreprocessingOptions(size, resize, interpolation, mean, std, transform)
    axes = dict(axes or {})
    if isinstance(images, Rows):
        samples, words, scale = data_samples(model, images, inputs, asked, axes, features)
    else:
        samples, words, scale = _samples(model, images, inputs, asked, axes, features)
    drawn = kind_of_output(model, output, pictures=bool(samples.photos))
    names = adapt(model).labels if labels is None else class_names(labels)
    about = about_model(model, seed)
    wanted = [t.resolve(by_name(names)) for t in targets(top() if target is None else target)]
    pairs = Pairs.of(model, wanted, samples.preprocessing)
    wanted = with_embeddings(model, wanted, samples.preprocessing)
    notes = about.notes + samples.notes + (() if output != "picture" else (_ON_SCALE,))
    about = replace(
        about, weights=fingerprint(model), preprocessing=words, notes=notes + pairs.notes
    )
    options = {"sites": sites, "batch": batch, "seed": seed, "about": about, "axes": axes}
    answers = Answers(model, names, wanted, drawn, scale, strict=labels is not None)
    maps = _explained(model, samples, methods, answers, pairs, progress, **options)
    maps = _with_values(maps, samples, answers)
    if combine is not None:
        maps += combine_maps(maps, combine)
    ledgers = _ledgers(model, samples, methods, wanted, maps) if ledger else {}
    named = samples.features or {"input": tuple(features)}
    maps = maps.each(lambda m: with_names(m, named))
    maps = by_input(maps, samples) if samples.together is not None else maps
    what_mixes = mixer_on(model, samples, axes, wanted[0].take([0])) if mixer else None
    return Explanation(
        maps,
        tuple(samples.photos),
        answers.guesses,
        samples.words,
        about=about,
        skipped=tuple(samples.skipped),
        ledgers=ledgers,
        samples=tuple(samples.others),
        areas=answers.areas,
        restored=answers.restored,
        shapes=answers.shapes,
        besides=samples.besides,
        partners=samples.partners,
        mixer=what_mixes,
    )


def _samples(
    model: nn.Module,
    images: Pictures | None,
    inputs: Any,
    asked: PreprocessingOptions,
    axes: dict[str, str],
    features: Sequence[str],
) -> tuple[Samples, str, tuple[Any, Any]]:
    """The samples, how they came about in words, and the mean and std of their pictures.

    Photos are prepared as `b c y x`, which goes into `axes`: a network that only flattens its
    input tells nothing of it.
    """
    if inputs is not None:
        if images is not None:
            axes.setdefault("input", PICTURE)
        taken = given_inputs(model, inputs, axes.get("input"))
        samples = given(model, taken, images, asked, features)
        words = "none: inputs as they are"
        words += "" if taken.is_picture else f", {taken.axes}"
        return samples, words, (asked.mean or (), asked.std or ())
    if features:
        raise OptionError("features= names what is no picture: give it with inputs=")
    if axes.setdefault("input", PICTURE) != PICTURE:
        raise OptionError(
            f"photos are prepared as {PICTURE!r}, but axes={axes!r} were said: give inputs= for a "
            "model that takes others"
        )
    preprocessing = fitted(model, asked)
    scale = preprocessing.mean, preprocessing.std
    return prepared(model, preprocessing, images), described_photos(preprocessing), scale


def _explained(
    model: nn.Module,
    samples: Samples,
    methods: Methods,
    answers: Answers,
    pairs: Pairs,
    progress: Progress | None,
    **options: Any,
) -> Maps:
    """Maps, a few samples at a time; the answers are told what the model says."""
    maps, done = Maps(), 0
    options["labels"] = answers.names
    for group in samples.groups():
        if progress is not None:
            progress(done, len(samples.inputs), group[0])
        x = samples.batch(group)
        answers.start(x)
        more, parts = maps_and_output(
            model, x, methods, target=answers.targets, samples=group, read=answers.read, **options
        )
        answers.add(group, [row for part in parts for row in part or ()])
        maps += more + pairs.maps(x, group, samples, methods, **options)
        done += len(group)
        if progress is not None:
            progress(done, len(samples.inputs), group[-1])
    return maps


def _with_values(maps: Maps, samples: Samples, answers: Answers) -> Maps:
    """The maps of samples whose score is finite; the others are skipped with the reason."""
    lost = {m.sample: m.about.cautions[-1] for m in maps if m.about.lost}
    if not lost:
        return maps
    samples.leave_out(lost)
    for held in (answers.guesses, answers.areas, answers.restored, answers.shapes):
        for name in lost:
            held.pop(name, None)
    return Maps(m for m in maps if m.sample not in lost)


def _ledgers(
    model: nn.Module, samples: Samples, methods: Any, target: Any, maps: Maps
) -> dict[str, Ledger]:
    """The ledger of each relevance method on the first sample and its first target."""
    sample = next(iter(samples.inputs))
    x = samples.batch([sample])
    first = targets(top() if target is None else target)[0].take([0])
    title = next((m.target for m in maps), first.name)
    ledgers: dict[str, Ledger] = {}
    for bound in bound_methods(methods):
        if isinstance(bound.regime, Preset):
            name = free_name(f"{bound.name} of {sample} for {title}", ledgers)
            ledgers[name] = ledger_of(model, x, bound, target=first)
    return ledgers
