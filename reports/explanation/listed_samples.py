"""The samples of a data set, each with what a reader sees of every input that the model takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from PIL.Image import Image
from torch import nn

from ...models.inputs import Preprocessing, PreprocessingOptions, drawn, transform_name
from ...probe.errors import LimelightError, OptionError
from ...probe.results import Maps
from ..datasets import Preparation, Seen, Signal, described, preparation
from ..datasets import Samples as Rows
from .contents import KINDS, Photo, Sample
from .given_inputs import PICTURES
from .samples import SAMPLES_A_CALL, Samples, free_name

_SPACE = ("z", "y", "x")


def data_samples(
    model: nn.Module,
    rows: Rows,
    inputs: Any,
    asked: PreprocessingOptions,
    axes: dict[str, str],
    features: Sequence[str],
) -> tuple[Samples, str, tuple[Any, Any]]:
    """The samples of a data set; what was said of inputs is taken out of the axes of sites."""
    if inputs is not None or features:
        raise OptionError(
            f"{'inputs' if inputs is not None else 'features'}= goes with tensors; what "
            "limelight.samples read has inputs and names of its own"
        )
    used = preparation(model, rows, asked, axes)
    axes.clear()
    axes.update(used.sites)
    photos = None if used.photos is None else described_photos(used.photos)
    scale = (used.photos.mean, used.photos.std) if used.photos else ((), ())
    words = "; ".join(filter(None, (photos, described(used))))
    opened = _opened(model, rows, used)
    return replace(opened, features=used.features, preprocessing=used.photos), words, scale


def _opened(model: nn.Module, rows: Rows, used: Preparation) -> Samples:
    """Every sample opened and prepared once; those that cannot be had are skipped with the reason.

    Raises LimelightError where none can be had.
    """
    most = 1 if used.alone else SAMPLES_A_CALL
    samples = Samples(together=partial(used.batch, model), most=most, notes=used.notes)
    for place, row in enumerate(rows.rows):
        try:
            item, completed = rows.open(place, row)
            ready = used(item)
        except Exception as error:
            kind = "" if isinstance(error, LimelightError) else f"{type(error).__name__}: "
            samples.skipped.append((row.name, f"{kind}{error}"))
            continue
        name = free_name(completed.name, samples.inputs)
        samples.inputs[name] = ready.inputs
        show(samples, name, ready.seen, used)
    if not samples.inputs:
        reason = samples.skipped[0][1] if samples.skipped else "the data hold no sample"
        raise LimelightError(f"no sample can be had: {reason}")
    return samples


def show(samples: Samples, name: str, seen: tuple[Seen, ...], used: Preparation) -> None:
    """Add what a reader sees of one sample: of the explained input under its own name."""
    besides = []
    for one in seen:
        own = one.argument == used.explained
        place = name if own else f"{name}: {one.argument}"
        if isinstance(one.what, tuple):
            samples.words[place] = one.what
        elif isinstance(one.what, Image):
            samples.photos.append(_photo(place, one, one.what))
            if not own and used.kinds.get(one.argument) == "picture":
                samples.partners[name] = (*samples.partners.get(name, ()), place)
        else:
            _add_numbers(samples, place, one.what)
        if not own:
            text = "".join(one.what).strip() if isinstance(one.what, tuple) else ""
            kind = used.kinds.get(one.argument, "input")
            besides.append(f"{kind} {text!r}" if text else f"{kind} {place!r}")
    if besides:
        samples.besides[name] = ", ".join(besides)


def _photo(name: str, seen: Seen, image: Image) -> Photo:
    crop = None
    if seen.box:
        left, upper, right, lower = seen.box
        crop = (upper, left, lower, right)
    return Photo(name, image, seen.original, crop)


def _add_numbers(samples: Samples, name: str, signal: Signal) -> None:
    """A series, a row of a table or a volume; a spectrogram is drawn as the picture it is."""
    values = signal.values.abs() if signal.values.is_complex() else signal.values
    places = signal.axes.split()[1:]
    if sorted(places) == sorted(_SPACE):  # however the model keeps its rows and columns
        values = values.permute(0, *(1 + places.index(axis) for axis in _SPACE))
        places = list(_SPACE)
    if " ".join(places) in PICTURES:
        samples.photos.append(Photo(name, drawn(values)))
    elif (axes := " ".join(["c", *places])) in KINDS:
        features = () if KINDS[axes] == "volume" else signal.names
        samples.others.append(Sample(name, values, axes, features))


def place_of(sample: str, site: str) -> str:
    """The name under which a page shows what of a sample lies at a site."""
    word, _, argument = site.partition(".")
    return f"{sample}: {argument}" if word == "input" and argument else sample


def by_input(maps: Maps, samples: Samples) -> Maps:
    """Maps at a model's other inputs, each under the name that this input of the sample has.

    What is seen of an input without a map is taken away.
    """
    moved = []
    for m in maps:
        place = place_of(m.sample, str(m.site))
        moved.append(m if place == m.sample else replace(m, sample=place))
    known = {photo.sample for photo in samples.photos}
    for name in samples.partners.keys() - known:
        del samples.partners[name]
    names = {m.sample for m in moved} | set(samples.inputs)
    names |= {place for beside in samples.partners.values() for place in beside}
    samples.photos[:] = [photo for photo in samples.photos if photo.sample in names]
    samples.others[:] = [other for other in samples.others if other.sample in names]
    return Maps(moved)


def described_photos(used: Preprocessing) -> str:
    """How photos become inputs, in words."""
    if used.transform is not None:
        return f"transform {transform_name(used.transform)}"
    resize = " x ".join(map(str, used.resize)) if isinstance(used.resize, tuple) else used.resize
    size = f"resize {resize} {used.interpolation}, crop {used.size[0]} x {used.size[1]}"
    return f"{size}; mean {_numbers(used.mean)}, std {_numbers(used.std)}"


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{v:.3f}" for v in values)
