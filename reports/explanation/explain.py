"""From photos, or inputs of any kind, to an explanation in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

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
from ...probe.engine import Batch, about_model, maps_and_output, settled
from ...probe.engine import ledger as ledger_of
from ...probe.errors import OptionError, TargetError
from ...probe.relevance import Ledger, Preset
from ...probe.results import Maps
from ...probe.sites import adapt
from ...probe.targets import Reading, Target, by_name, picked, targets, top
from ..datasets import Samples as Rows
from ..datasets import with_names
from .contents import Areas, Guess
from .dense_outputs import DenseOutput, areas_of, check_kind, restored_of
from .explanation import Explanation
from .given_inputs import given_inputs
from .listed_samples import by_input, data_samples, described_photos
from .mixer import mixer_on
from .samples import PICTURE, Samples, free_name, given, prepared

if TYPE_CHECKING:
    from PIL.Image import Image

_BEST = 5
_ON_SCALE = "the output is drawn as a picture on the scale of the input"
Progress = Callable[[int, int, str], None]


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
    output: DenseOutput | None = None,
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
    output     what a dense output `b c y x` holds: "classes", whose areas are outlined on the
               photo, or a "picture", shown beside the photo
    The other options are those of `limelight.maps`. A picture that cannot be read is left out and
    named in `.skipped`; ImageError is raised when none can.
    """
    asked = PreprocessingOptions(size, resize, interpolation, mean, std, transform)
    axes = dict(axes or {})
    if isinstance(images, Rows):
        samples, words, scale = data_samples(model, images, inputs, asked, axes, features)
    else:
        samples, words, scale = _samples(model, images, inputs, asked, axes, features)
    check_kind(output, pictures=bool(samples.photos))
    names = adapt(model).labels if labels is None else class_names(labels)
    about = about_model(model, seed)
    notes = about.notes + samples.notes + (() if output != "picture" else (_ON_SCALE,))
    about = replace(
        about,
        weights=fingerprint(model),
        preprocessing=words,
        notes=notes,
    )
    wanted = [t.resolve(by_name(names)) for t in targets(top() if target is None else target)]
    options = {"target": wanted, "sites": sites, "batch": batch, "seed": seed, "about": about}
    answers = _Answers(model, names, wanted[0], output, scale, strict=labels is not None)
    maps = _explained(model, samples, methods, answers, progress, axes=axes, **options)
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
        besides=samples.besides,
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


@dataclass
class _Answers:
    """What the model says of each sample, by name.

    target   whose part of the output is read, and how
    strict   whether names were given for classes, and must be as many
    example  one input, in case an output hides what made it
    """

    model: nn.Module
    names: Sequence[str]
    target: Target
    output: DenseOutput | None
    scale: tuple[Any, Any]
    strict: bool
    example: Tensor | Batch | None = None
    guesses: dict[str, list[Guess]] = field(default_factory=dict)
    areas: dict[str, Areas] = field(default_factory=dict)
    restored: dict[str, Image] = field(default_factory=dict)

    def __post_init__(self) -> None:
        usable = self.target.pick is not None or self.output is not None
        self.reading = (self.target.reading if usable else None) or Reading()

    def read(self, output: Any, samples: int) -> list[Any]:
        """What an output says, sample by sample: areas, a picture, or probabilities of classes.

        Raises OptionError where it is not as was said.
        """
        if self.output == "classes":
            return list(areas_of(self.reading.part(output).detach(), self.names))
        if self.output == "picture":
            return list(restored_of(self.reading.part(output).detach(), *self.scale))
        return self._probabilities(output, samples)

    def _probabilities(self, output: Any, samples: int) -> list[Tensor]:
        """Of all classes, as the first target reads them; nothing where there are none."""
        reading = replace(self.reading, of="probability")
        try:
            if reading.open and reading.part(output).grad_fn is None:  # it hides what made it
                asked = Target("probabilities", picked, reading=reading)
                reading = settled(self.model, Batch.of(self.example), [asked])[0].reading or reading
                self.reading = replace(self.reading, made=reading.made, axes=reading.axes)
            places = reading.places(output, samples).detach().float()
        except TargetError:
            return [torch.empty(0)] * samples
        usable = places.ndim == 2 and places.shape[1] > 1
        return list(places) if usable else [torch.empty(0)] * samples

    def add(self, samples: Sequence[str], rows: Sequence[Any]) -> None:
        """Keep what was read of some samples. Raises OptionError for names of other classes."""
        if self.output is not None:
            kept: dict[str, Any] = self.areas if self.output == "classes" else self.restored
            kept.update(zip(samples, rows, strict=True))
            return
        for row in rows if self.strict else ():
            _check_count(self.names, row)
        self.guesses.update(zip(samples, (_guesses(r, self.names) for r in rows), strict=True))


def _explained(
    model: nn.Module,
    samples: Samples,
    methods: Methods,
    answers: _Answers,
    progress: Progress | None,
    **options: Any,
) -> Maps:
    """Maps, a few samples at a time; the answers are told what the model says."""
    maps, done, labels = Maps(), 0, answers.names
    for group in samples.groups():
        x = samples.batch(group)
        answers.example = x.take([0]) if isinstance(x, Batch) else x[:1]
        more, parts = maps_and_output(
            model, x, methods, samples=group, labels=labels, read=answers.read, **options
        )
        answers.add(group, [row for part in parts for row in part or ()])
        maps += more
        done += len(group)
        if progress is not None:
            progress(done, len(samples.inputs), group[-1])
    return maps


def _with_values(maps: Maps, samples: Samples, answers: _Answers) -> Maps:
    """The maps of samples whose score is finite; the others are skipped with the reason."""
    lost = {m.sample: m.about.cautions[-1] for m in maps if m.about.lost}
    if not lost:
        return maps
    samples.leave_out(lost)
    for held in (answers.guesses, answers.areas, answers.restored):
        for name in lost:
            held.pop(name, None)  # type: ignore[attr-defined]
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


def _check_count(names: Sequence[str], probabilities: Tensor) -> None:
    """Raise OptionError where as many names were given as the model has no classes."""
    classes = len(probabilities)
    if classes > 1 and classes != len(names):
        raise OptionError(
            f"labels= names {len(names)} classes, but the model tells {classes} apart: give a "
            "name for each, in the order of its outputs"
        )


def _guesses(probabilities: Tensor, names: Sequence[str]) -> list[Guess]:
    """The five most probable classes of a sample."""
    best = probabilities.topk(min(_BEST, len(probabilities)))
    return [
        Guess(names[c] if c < len(names) else f"class {c}", c, p)
        for p, c in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
