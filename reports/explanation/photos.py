"""The pictures of an explanation: photos prepared for a model, or inputs given as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, groupby
from pathlib import Path
from typing import Any

from PIL.Image import Image
from torch import Tensor, nn

from ...models.inputs import (
    Picture,
    Preprocessing,
    PreprocessingOptions,
    drawn,
    input_for,
    inputs_of,
    prepare,
    read,
)
from ...models.inputs import images as pictures_under
from ...probe.engine import chunks
from ...probe.errors import ImageError, OptionError
from .contents import Photo

_PHOTOS_A_CALL = 8
_DRAWN = "the picture is drawn from the model's input"


@dataclass(frozen=True, eq=False)
class Photos:
    """Photos that could be read, under names of their own; and those that could not.

    inputs   what the model takes of each, by name
    skipped  (which, why)
    notes    what a reader must know of how the pictures came about
    """

    photos: list[Photo] = field(default_factory=list)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    def groups(self) -> list[list[str]]:
        """The names in order, a few of one shape at a time."""
        alike = groupby(self.inputs.items(), key=lambda item: item[1].shape)
        runs = [[name for name, _ in group] for _, group in alike]
        return [
            run[places.start : places.stop]
            for run in runs
            for places in chunks(len(run), _PHOTOS_A_CALL)
        ]


def prepared(model: nn.Module, preprocessing: Preprocessing, images: Any) -> Photos:
    """Read and prepare every picture once; the crop and the input are kept, the rest let go."""
    samples = Photos(notes=_notes(preprocessing))
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
        size, crop = (image.height, image.width), None
        if ready.box:
            left, upper, right, lower = ready.box
            crop = (upper, left, lower, right)
        samples.photos.append(Photo(name, ready.crop, size, crop))
    if not samples.photos:
        reason = samples.skipped[0][1] if samples.skipped else "no pictures were given"
        raise ImageError(reason)
    return samples


def given(model: nn.Module, inputs: Any, images: Any, asked: PreprocessingOptions) -> Photos:
    """Inputs as they are, each with the picture it was made of or one that is drawn from it.

    Raises ImageError, and OptionError for options that say how photos become inputs.
    """
    said = asked.said.keys() - {"mean", "std"}
    if said:
        raise OptionError(f"{min(said)}= prepares photos, and inputs= need none: leave one out")
    tensors = inputs_of(inputs)
    pictures = None if images is None else _listed(images)
    if pictures is not None and len(pictures) != len(tensors):
        raise ImageError(
            f"{len(pictures)} pictures were given for {len(tensors)} inputs: give one for each"
        )
    mean, std = asked.mean or (), asked.std or ()
    note = _drawn_note(mean, std) if pictures is None else "the given pictures lie under the maps"
    samples = Photos(notes=(note,))
    for number, x in enumerate(tensors):
        shown, size, name = drawn(x, mean, std), None, f"picture {number + 1}"  # type: ignore[arg-type]
        if pictures is not None:
            picture = pictures[number]
            image = read(picture)
            shown, size = image.resize((x.shape[2], x.shape[1])), (image.height, image.width)
            name = Path(picture).stem if isinstance(picture, (str, Path)) else name
        name = free_name(name, samples.inputs)
        samples.inputs[name] = input_for(model, x)
        samples.photos.append(Photo(name, shown, size))
    return samples


def _listed(images: Any) -> Sequence[Picture]:
    if images is None:
        return []
    if isinstance(images, (str, Path)) and Path(images).expanduser().is_dir():
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
