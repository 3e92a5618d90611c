"""The samples of an explanation: photos prepared for a model, or inputs given as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, groupby
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn

from ...models.inputs import (
    Picture,
    PreparedPhoto,
    Preprocessing,
    PreprocessingOptions,
    address_fault,
    drawn,
    input_for,
    prepare,
    read,
)
from ...models.inputs import images as pictures_under
from ...probe.engine import Batch, chunks
from ...probe.errors import ImageError, LimelightError, OptionError
from .contents import Photo, Sample
from .given_inputs import Given

SAMPLES_A_CALL = 8
_DRAWN = "the picture is drawn from the model's input"
PICTURE = "b c y x"


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples that the model takes, under names of their own; and those that could not be read.

    photos   what is to be seen of pictures
    others   what is to be seen of series, rows of tables, volumes
    inputs   what the model takes of each, by name, without the batch; of a model of several
             inputs by its arguments
    axes     of a batch of them: `b c y x`
    together what makes a batch of some where it is no plain tensor
    most     samples in a call
    features names of features or channels, by the site of the input that has them
    words    of sentences, by sample
    besides  what else the model is given with a sample, in words
    partners names of photos that are shown beside one
    preprocessing  how photos become inputs, where they do
    skipped  (which, why)
    notes    what a reader must know of how the samples came about
    """

    photos: list[Photo] = field(default_factory=list)
    others: list[Sample] = field(default_factory=list)
    inputs: dict[str, Any] = field(default_factory=dict)
    axes: str = PICTURE
    together: Callable[[Sequence[Any]], Batch] | None = None
    most: int = SAMPLES_A_CALL
    features: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    words: dict[str, tuple[str, ...]] = field(default_factory=dict)
    besides: dict[str, str] = field(default_factory=dict)
    partners: dict[str, tuple[str, ...]] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    def groups(self) -> list[list[str]]:
        """The names in order, a few of one shape at a time."""
        alike = groupby(self.inputs.items(), key=lambda item: _shapes(item[1]))
        runs = [[name for name, _ in group] for _, group in alike]
        return [
            run[places.start : places.stop]
            for run in runs
            for places in chunks(len(run), self.most)
        ]

    def leave_out(self, reasons: Mapping[str, str]) -> None:
        """Skip samples, each with the reason. Raises LimelightError where none is left."""
        self.skipped.extend(reasons.items())
        self.photos[:] = [p for p in self.photos if p.sample not in reasons]
        self.others[:] = [s for s in self.others if s.sample not in reasons]
        for name in reasons:
            self.inputs.pop(name, None)
        if not self.inputs:
            raise LimelightError(next(iter(reasons.values())))

    def batch(self, names: Sequence[str]) -> Tensor | Batch:
        """Some samples as the model takes them."""
        if self.together is not None:
            return self.together([self.inputs[n] for n in names])
        return torch.stack([self.inputs[n] for n in names], dim=self.axes.split().index("b"))


def _shapes(inputs: Any) -> object:
    named = inputs if isinstance(inputs, Mapping) else {"": inputs}
    return [(name, tuple(x.shape)) for name, x in sorted(named.items())]


def prepared(model: nn.Module, preprocessing: Preprocessing, images: Any) -> Samples:
    """Read and prepare every picture once; the crop and the input are kept, the rest let go."""
    samples = Samples(notes=_notes(preprocessing), preprocessing=preprocessing)
    for number, picture in enumerate(_listed(images), 1):
        named = isinstance(picture, (str, Path))
        name = Path(picture).stem if named else f"picture {number}"  # type: ignore[arg-type]
        try:
            image = read(picture)
            ready = prepare(preprocessing, image)
        except ImageError as error:
            samples.skipped.append((str(picture) if named else name, str(error)))
            continue
        name = free_name(name, samples.inputs)
        samples.inputs[name] = input_for(model, ready.tensor)
        samples.photos.append(photo_of(name, ready, image))
    if not samples.photos:
        reason = samples.skipped[0][1] if samples.skipped else "no pictures were given"
        raise ImageError(reason)
    return samples


def photo_of(name: str, ready: PreparedPhoto, image: Image) -> Photo:
    """A prepared photo under a name, with the place of its crop in the file."""
    crop = None
    if ready.box:
        left, upper, right, lower = ready.box
        crop = (upper, left, lower, right)
    return Photo(name, ready.crop, (image.height, image.width), crop)


def given(
    model: nn.Module,
    inputs: Given,
    images: Any,
    asked: PreprocessingOptions,
    features: Sequence[str],
) -> Samples:
    """Inputs as they are, each with what is to be seen of it.

    Raises ImageError, and OptionError for options that say how photos become inputs.
    """
    said = asked.said.keys() - {"mean", "std"}
    if said:
        raise OptionError(f"{min(said)}= prepares photos, and inputs= need none: leave one out")
    if inputs.is_picture:
        if features:
            raise OptionError("features= names what is no picture, but inputs= are pictures")
        return _pictures(model, inputs, images, asked)
    if images is not None:
        raise OptionError(
            f"pictures were given for inputs over {inputs.axes!r}, over which they cannot lie: "
            "leave them out"
        )
    samples = Samples(axes=inputs.axes, notes=_notes_of(inputs))
    for number, part in enumerate(inputs.parts, 1):
        name = f"sample {number}"
        samples.inputs[name] = input_for(model, part)
        if inputs.kind:
            seen = Sample(name, *inputs.channels_first(part), tuple(features))
            samples.others.append(seen)
    return samples


def _notes_of(inputs: Given) -> tuple[str, ...]:
    if inputs.kind:
        return inputs.notes
    return (*inputs.notes, f"inputs over {inputs.axes!r} are not drawn; their maps are")


def _pictures(model: nn.Module, inputs: Given, images: Any, asked: PreprocessingOptions) -> Samples:
    """Pictures as tensors, each with the picture it was made of or one that is drawn from it."""
    pictures = None if images is None else _listed(images)
    if pictures is not None and len(pictures) != len(inputs.parts):
        raise ImageError(
            f"{len(pictures)} pictures were given for {len(inputs.parts)} inputs: give one for each"
        )
    mean, std = asked.mean or (), asked.std or ()
    note = _drawn_note(mean, std) if pictures is None else "the given pictures lie under the maps"
    samples = Samples(axes=inputs.axes, notes=(*inputs.notes, note))
    for number, part in enumerate(inputs.parts):
        x, _ = inputs.channels_first(part)
        shown, size, name = drawn(x, mean, std), None, f"picture {number + 1}"  # type: ignore[arg-type]
        if pictures is not None:
            picture = pictures[number]
            image = read(picture)
            shown, size = image.resize((x.shape[2], x.shape[1])), (image.height, image.width)
            name = Path(picture).stem if isinstance(picture, (str, Path)) else name
        name = free_name(name, samples.inputs)
        samples.inputs[name] = input_for(model, part)
        samples.photos.append(Photo(name, shown, size))
    return samples


def _listed(images: Any) -> Sequence[Picture]:
    if images is None:
        return []
    path = isinstance(images, (str, Path)) and not address_fault(images, "picture")
    if path and Path(images).expanduser().is_dir():
        return list(pictures_under(images))
    single = isinstance(images, (str, Path, bytes, Image)) or getattr(images, "ndim", 4) < 4
    return [images] if single else list(images)


def free_name(name: str, taken: Mapping[str, object]) -> str:
    """The name, with a number where another picture has it already."""
    numbers = (f"{name} ({n})" for n in count(2))
    return name if name not in taken else next(n for n in numbers if n not in taken)


def _notes(preprocessing: Preprocessing) -> tuple[str, ...]:
    if preprocessing.transform is None:
        return preprocessing.notes
    return (*preprocessing.notes, _drawn_note(preprocessing.mean, preprocessing.std))


def _drawn_note(mean: Any, std: Any) -> str:
    return _DRAWN if mean and std else f"{_DRAWN}, from its least value to its greatest"
