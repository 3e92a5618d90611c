"""From photos to an explanation in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn

from ...methods.combine import How
from ...methods.combine import combine as combine_maps
from ...models.inputs import (
    Picture,
    Preprocessing,
    input_for,
    labels,
    prepare,
    preprocessing_of,
    read,
)
from ...models.inputs import images as pictures_under
from ...models.weights import fingerprint
from ...probe.attribution import Methods, Pictures, Sites, Targets, bound_methods
from ...probe.capture import keeps_model
from ...probe.engine import about_model, chunks, maps_and_output
from ...probe.engine import ledger as ledger_of
from ...probe.errors import ImageError
from ...probe.relevance import Ledger, Preset
from ...probe.results import About, Maps
from ...probe.targets import scores, targets, top
from .contents import Guess, Photo
from .explanation import Explanation

_PHOTOS_A_CALL = 8
_BEST = 5
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, eq=False)
class _Photos:
    """Photos that could be read, under names of their own; and those that could not.

    inputs   what the model takes of each, by name
    skipped  (which, why)
    """

    photos: list[Photo] = field(default_factory=list)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)


@keeps_model
def explain(
    model: nn.Module,
    images: Pictures,
    methods: Methods,
    *,
    sites: Sites = None,
    target: Targets = None,
    combine: How | None = None,
    ledger: bool = False,
    batch: int | str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
) -> Explanation:
    """Maps of photos with all that a reader needs, as a page: `explain(...).save("dog.html")`.

    images   one picture or several: paths, PIL images, arrays or bytes
    combine  `product` or `sum`: also one map per method over all its sites
    ledger   also where the relevance goes, for each method that reads it, on the first picture
    The other options are those of `limelight.maps`. A picture that cannot be read is left out and
    named in `.skipped`; ImageError is raised when none can.
    """
    preprocessing = preprocessing_of(model)
    samples = _prepared(model, preprocessing, _listed(images))
    about = _about(model, preprocessing, seed)
    maps = Maps()
    guesses: dict[str, list[Guess]] = {}
    total = len(samples.photos)
    for places in chunks(total, _PHOTOS_A_CALL):
        names = [p.sample for p in samples.photos[places.start : places.stop]]
        x = torch.stack([samples.inputs[name] for name in names])
        more, output = maps_and_output(
            model,
            x,
            methods,
            target=target,
            sites=sites,
            samples=names,
            batch=batch,
            seed=seed,
            about=about,
        )
        maps += more
        guesses.update(zip(names, _guesses(output, labels(model)), strict=True))
        if progress is not None:
            progress(places.stop, total, names[-1])
    if combine is not None:
        maps += combine_maps(maps, combine)
    ledgers = _ledgers(model, samples, methods, target, maps) if ledger else {}
    photos, skipped = tuple(samples.photos), tuple(samples.skipped)
    return Explanation(maps, photos, guesses, about=about, skipped=skipped, ledgers=ledgers)


def _ledgers(
    model: nn.Module, samples: _Photos, methods: Any, target: Any, maps: Maps
) -> dict[str, Ledger]:
    """The ledger of each relevance method on the first picture and its first target."""
    sample, x = next(iter(samples.inputs.items()))
    first = targets(top() if target is None else target)[0].take([0])
    title = next((m.target for m in maps), first.name)
    ledgers: dict[str, Ledger] = {}
    for bound in bound_methods(methods):
        if isinstance(bound.regime, Preset):
            name = _free(f"{bound.name} of {sample} for {title}", ledgers)
            ledgers[name] = ledger_of(model, x[None], bound, target=first)
    return ledgers


def _listed(images: Any) -> list[Picture]:
    if isinstance(images, (str, Path)) and Path(images).expanduser().is_dir():
        return list(pictures_under(images))
    single = isinstance(images, (str, Path, bytes, Image)) or getattr(images, "ndim", 4) == 3
    return [images] if single else list(images)


def _prepared(
    model: nn.Module, preprocessing: Preprocessing, pictures: Sequence[Picture]
) -> _Photos:
    """Read and prepare every picture once; the crop and the input are kept, the rest let go."""
    samples = _Photos()
    for number, picture in enumerate(pictures, 1):
        named = isinstance(picture, (str, Path))
        name = Path(picture).stem if named else f"picture {number}"  # type: ignore[arg-type]
        try:
            image = read(picture)
            ready = prepare(preprocessing, image)
        except ImageError as error:
            samples.skipped.append((str(picture) if named else name, str(error)))
            continue
        name = _free(name, samples.inputs)
        samples.inputs[name] = input_for(model, ready.tensor)
        left, upper, right, lower = ready.box
        size, crop = (image.height, image.width), (upper, left, lower, right)
        samples.photos.append(Photo(name, ready.crop, size, crop))
    if not samples.photos:
        reason = samples.skipped[0][1] if samples.skipped else "no pictures were given"
        raise ImageError(reason)
    return samples


def _free(name: str, taken: Mapping[str, object]) -> str:
    """The name, with a number where another picture has it already."""
    numbers = (f"{name} ({n})" for n in count(2))
    return name if name not in taken else next(n for n in numbers if n not in taken)


def _about(model: nn.Module, preprocessing: Preprocessing, seed: int) -> About:
    used = preprocessing
    size = f"resize {used.resize} {used.interpolation}, crop {used.size[0]} x {used.size[1]}"
    scale = f"mean {_numbers(used.mean)}, std {_numbers(used.std)}"
    about = about_model(model, seed)
    notes = about.notes + used.notes
    return replace(about, weights=fingerprint(model), preprocessing=f"{size}; {scale}", notes=notes)


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{v:.3f}" for v in values)


def _guesses(output: Any, names: Sequence[str]) -> list[list[Guess]]:
    """The five most probable classes of each sample; nothing where outputs are no classes."""
    logits = scores(output).float()
    if logits.shape[1] < 2:
        return [[] for _ in logits]
    best = logits.softmax(1).topk(min(_BEST, logits.shape[1]))
    return [
        [
            Guess(names[c] if c < len(names) else f"class {c}", c, p)
            for p, c in zip(ps, cs, strict=True)
        ]
        for ps, cs in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]
