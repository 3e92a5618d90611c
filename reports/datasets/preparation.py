"""From what a data set holds to a model's arguments: prepared, in order, and what is to be seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ...models.inputs import (
    FILTERS,
    Box,
    Preprocessing,
    geometry,
    input_for,
    prepare,
    read,
)
from ...probe.engine import Batch
from ...probe.errors import LimelightError, OptionError
from ...probe.results import SaliencyMap
from ...probe.sites import LONGEST, check_length
from .orders import arranged, batch_of
from .parts import Part, Parts
from .signals import Signal, of_numbers

PICTURE, TOKENS = "b c y x", "b n"


@dataclass(frozen=True, eq=False)
class Seen:
    """What a reader is shown of one input of a sample.

    argument  of the model that takes it
    what      a picture as it was cropped, numbers in the order of the file, words of a sentence
    original  rows and columns of the picture's file
    box       where the crop lies in it: left, top, right, bottom
    """

    argument: str
    what: Image.Image | Signal | tuple[str, ...]
    original: tuple[int, int] | None = None
    box: Box | tuple[()] = ()


@dataclass(frozen=True, eq=False)
class Ready:
    """A sample as a model takes it, by the model's arguments, without a batch.

    box  the part of the explained picture that the model sees; empty without one
    """

    inputs: dict[str, Tensor]
    seen: tuple[Seen, ...] = ()
    box: Box | tuple[()] = ()


@dataclass(frozen=True, eq=False)
class Preparation:
    """How the inputs of a model are made of samples.

    photos     how pictures become inputs; None where there are none
    axes       of a batch of each input, by the model's arguments; those of tensors only if said
    sites      axes of other sites that were said
    kinds      of the inputs by argument; empty for photos and for tensors that are ready
    fixed      masks, which no method moves
    explained  the input whose maps are made at `input`
    names      of features or channels, by argument
    mean, std  of numbers, one for all channels or one each; () leaves them as they are
    tokenizer  of sentences, which hold `longest` tokens at most
    notes      what a reader must know
    """

    photos: Preprocessing | None = None
    axes: Mapping[str, str] = field(default_factory=dict)
    sites: Mapping[str, str] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()
    explained: str = "0"
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    tokenizer: Any = None
    notes: tuple[str, ...] = ()
    longest: int = LONGEST

    def __call__(self, item: Any) -> Ready:
        """One sample, opened, as the model takes it. Raises LimelightError, ImageError."""
        if isinstance(item, Parts):
            made = [self._part(part, item) for part in item.parts]
            made.sort(key=lambda one: one[1].argument != self.explained)
            inputs = {seen.argument: x for x, seen in made}
            return Ready(inputs, tuple(seen for _, seen in made), made[0][1].box if made else ())
        if is_ready(item):
            return Ready({"0": item})
        x, seen = self._picture(item, "0")
        return Ready({"0": x}, (seen,), seen.box)

    @property
    def features(self) -> dict[str, tuple[str, ...]]:
        """Names of features or channels by the site of the input that has them."""
        sites = {a: "input" if a == self.explained else f"input.{a}" for a in self.names}
        return {sites[argument]: names for argument, names in self.names.items()}

    @property
    def alone(self) -> bool:
        """Whether samples run one at a time: sentences differ in length, and models that compare
        pictures with sentences compare all of a batch with each other."""
        return "sentence" in self.kinds.values()

    def batch(
        self, model: nn.Module, samples: Sequence[Mapping[str, Tensor]], explained: str = ""
    ) -> Batch:
        """Samples of one shape as a batch on the model's device; another input may be explained."""
        stacked = {
            argument: torch.stack([s[argument] for s in samples], self._batch_dim(argument))
            for argument in samples[0]
        }
        axes = dict(self.axes)
        if not self.kinds and "0" not in axes:
            return Batch.of(input_for(model, stacked["0"]))
        return batch_of(model, stacked, axes, self.fixed, explained or self.explained)

    def _batch_dim(self, argument: str) -> int:
        words = self.axes.get(argument, "b").split()
        return words.index("b") if "b" in words else 0

    def _part(self, part: Part, whole: Parts) -> tuple[Tensor, Seen]:
        known = self.kinds.get(part.argument, part.kind)
        if part.kind != known:
            raise LimelightError(f"the sample is a {part.kind}, but the first one is a {known}")
        if isinstance(part.content, Signal):
            return self._numbers(part.content, part.argument)
        if part.kind == "sentence":
            return self._sentence(part.content, part.argument)
        if part.kind == "mask":
            return self._mask(part.content, part.argument)
        return self._picture(part.content, part.argument)

    def _picture(self, source: Any, argument: str) -> tuple[Tensor, Seen]:
        if self.photos is None:
            raise LimelightError("the sample is a picture, but the first one is none")
        image = read(source)
        ready = prepare(self.photos, image)
        return ready.tensor, Seen(argument, ready.crop, (image.height, image.width), ready.box)

    def _numbers(self, signal: Signal, argument: str) -> tuple[Tensor, Seen]:
        axes = self.axes.get(argument, "")
        if signal.names != (known := self.names.get(argument, ())):
            raise LimelightError(
                f"the sample has the channels {listed(signal.names)}, but the first one "
                f"{listed(known)}"
            )
        x = arranged(signal, axes)
        seen = Seen(argument, replace(signal, values=_first(x, axes), axes=_in_order(axes)))
        return (self._scaled(x, axes) if argument == self.explained else x), seen

    def _scaled(self, x: Tensor, axes: str) -> Tensor:
        words = [name for name in axes.split() if name != "b"]
        at = words.index("c") if "c" in words else None
        for name, values in (("mean", self.mean), ("std", self.std)):
            count = 1 if at is None else x.shape[at]
            if values and len(values) not in (1, count):
                raise OptionError(f"{name}={values} has {len(values)} numbers for {count} channels")
        shape = [-1 if i == at else 1 for i in range(x.ndim)]
        shift, scale = (
            torch.tensor(v or (d,), dtype=x.real.dtype).view(shape if len(v) > 1 else [1] * x.ndim)
            for v, d in ((self.mean, 0.0), (self.std, 1.0))
        )
        return (x - shift) / scale

    def _mask(self, content: Signal | str, argument: str) -> tuple[Tensor, Seen]:
        """A mask through the geometry of the pictures, white 1 and black 0; an array as it is."""
        axes = self.axes.get(argument, PICTURE)
        if Path(str(content)).suffix.lower() == ".npy":
            signal = of_numbers("mask", _loaded(str(content)), f"mask {str(content)!r}")
            return arranged(signal, axes), Seen(argument, signal)
        if self.photos is None or self.photos.transform is not None:
            raise LimelightError(
                "a mask follows the geometry of its picture, which is not known here: give .npy"
            )
        image = read(str(content)).convert("L")
        place = geometry(self.photos, image.size)
        (left, top), (rows, columns) = place.corner, self.photos.size
        resized = image.resize(place.resized, FILTERS["nearest"])
        crop = resized.crop((left, top, left + columns, top + rows))
        values = torch.from_numpy(np.asarray(crop, np.float32) / 255)
        return arranged(Signal("mask", values, "y x"), axes), Seen(argument, crop)

    def _sentence(self, text: Any, argument: str) -> tuple[Tensor, Seen]:
        wrapped = getattr(self.tokenizer, "wrapped", None)
        ids = self.tokenizer.encode(str(text)) if wrapped is None else wrapped.encode(str(text))
        if not ids:
            raise LimelightError("the sentence is empty")
        check_length(len(ids), self.longest, "the sentence")
        return torch.tensor(ids), Seen(argument, tuple(self.tokenizer.words(ids)))


def is_ready(item: object) -> TypeGuard[Tensor]:
    """Whether what a data set gives is an input already, not a picture: a tensor, but no bytes."""
    return isinstance(item, Tensor) and item.dtype != torch.uint8


def _first(x: Tensor, axes: str) -> Tensor:
    """A sample with its channels first, if it has any places; one channel where it has none."""
    words = [name for name in axes.split() if name != "b"]
    return x.movedim(words.index("c"), 0) if "c" in words else x[None]


def _in_order(axes: str) -> str:
    return " ".join(["c", *(name for name in axes.split() if name not in ("b", "c"))])


def _loaded(path: str) -> Any:
    try:
        return np.load(Path(path).expanduser(), allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise LimelightError(f"mask {path!r} cannot be read: {error}") from None


def listed(words: Iterable[str]) -> str:
    return ", ".join(words) or "without names"


def with_names(m: SaliencyMap, features: Mapping[str, Sequence[str]]) -> SaliencyMap:
    """A map with the names of the features or channels of the input that it is at."""
    names = tuple(features.get(str(m.site), ()))
    return replace(m, about=replace(m.about, features=names)) if names else m


def described(used: Preparation) -> str:
    """How inputs come about, in words that change when their numbers do; "" for photos alone."""
    words = [
        f"{kind} of {argument!r} as {used.axes.get(argument, TOKENS)}"
        for argument, kind in used.kinds.items()
    ]
    if not used.kinds and (axes := used.axes.get("0", PICTURE)) != PICTURE:
        words.append(f"inputs as {axes}")
    words += [f"{argument!r} is {', '.join(names)}" for argument, names in used.names.items()]
    words += [f"{n} {list(v)}" for n, v in (("mean", used.mean), ("std", used.std)) if v]
    words += [f"axes of {site}: {axes}" for site, axes in sorted(used.sites.items())]
    return "; ".join(words)
