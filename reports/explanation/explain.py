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
from ...models.inputs import Picture, crop_image, labels, prepare, read, recipe
from ...models.inputs import images as folder
from ...models.weights import fingerprint
from ...probe.attribution import bound_methods
from ...probe.engine import Sites, about_model, chunks, maps_and_output
from ...probe.engine import ledger as ledger_of
from ...probe.errors import ImageError
from ...probe.relevance import Ledger, Preset
from ...probe.results import About, Maps
from ...probe.targets import scores, targets, top
from .contents import Guess, Photo
from .explanation import Explanation

_TOGETHER = 8
_BEST = 5
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, eq=False)
class _Samples:
    """Photos that could be read, under names of their own; and those that could not."""

    photos: list[Photo] = field(default_factory=list)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def explain(
    model: nn.Module,
    images: Any,
    methods: Any,
    *,
    sites: Sites = None,
    target: Any = None,
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
    taken = _take(model, _listed(images))
    about = _about(model, seed)
    found = Maps()
    best: dict[str, list[Guess]] = {}
    total = len(taken.photos)
    for places in chunks(total, _TOGETHER):
        names = [p.sample for p in taken.photos[places.start : places.stop]]
        x = torch.stack([taken.inputs[name] for name in names])
        options = {"target": target, "sites": sites, "batch": batch, "seed": seed, "about": about}
        new, output = maps_and_output(model, x, methods, samples=names, **options)
        found += new
        best.update(zip(names, _guesses(output, labels(model)), strict=True))
        if progress is not None:
            progress(places.stop, total, names[-1])
    if combine is not None:
        found += combine_maps(found, combine)
    books = _ledgers(model, taken, methods, target, found) if ledger else {}
    photos, skipped = tuple(taken.photos), tuple(taken.skipped)
    return Explanation(found, photos, best, about=about, skipped=skipped, ledgers=books)


def _ledgers(
    model: nn.Module, taken: _Samples, methods: Any, target: Any, maps: Maps
) -> dict[str, Ledger]:
    """The books of each relevance method on the first picture and its first target."""
    sample, x = next(iter(taken.inputs.items()))
    one = targets(top() if target is None else target)[0].take([0])
    title = next((m.target for m in maps), one.name)
    found: dict[str, Ledger] = {}
    for bound in bound_methods(methods):
        if isinstance(bound.regime, Preset):
            name = _free(f"{bound.name} of {sample} for {title}", found)
            found[name] = ledger_of(model, x[None], bound, target=one)
    return found


def _listed(images: Any) -> list[Picture]:
    if isinstance(images, (str, Path)) and Path(images).expanduser().is_dir():
        return list(folder(images))
    single = isinstance(images, (str, Path, bytes, Image)) or getattr(images, "ndim", 4) == 3
    return [images] if single else list(images)


def _take(model: nn.Module, pictures: Sequence[Picture]) -> _Samples:
    """Read every picture once; what the model sees of it is kept, the rest is let go."""
    taken = _Samples()
    for number, picture in enumerate(pictures, 1):
        named = isinstance(picture, (str, Path))
        name = Path(picture).stem if named else f"picture {number}"  # type: ignore[arg-type]
        try:
            image = read(picture)
            ready = prepare(model, image)
        except ImageError as error:
            taken.skipped.append((str(picture) if named else name, str(error)))
            continue
        name = _free(name, taken.inputs)
        taken.inputs[name] = ready.tensor[0]
        left, upper, right, lower = ready.crops[0]
        crop = (upper, left, lower, right)
        taken.photos.append(
            Photo(name, crop_image(model, image), (image.height, image.width), crop)
        )
    if not taken.photos:
        raise ImageError(taken.skipped[0][1] if taken.skipped else "no pictures were given")
    return taken


def _free(name: str, taken: Mapping[str, object]) -> str:
    """The name, with a number where another picture has it already."""
    numbers = (f"{name} ({n})" for n in count(2))
    return name if name not in taken else next(n for n in numbers if n not in taken)


def _about(model: nn.Module, seed: int) -> About:
    how = recipe(model)
    size = f"resize {how.resize} {how.interpolation}, crop {how.size[0]} x {how.size[1]}"
    scale = f"mean {_numbers(how.mean)}, std {_numbers(how.std)}"
    known = about_model(model, seed)
    notes = known.notes + how.notes
    return replace(known, weights=fingerprint(model), preprocessing=f"{size}; {scale}", notes=notes)


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
