"""What a page of an explanation shows: maps, samples, guesses, words, ledgers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...probe.errors import OptionError
from ...probe.relevance import Ledger
from ...probe.results import About, Maps, SaliencyMap
from ...probe.sites import Shape
from ..html import joined

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

KINDS = {"c": "table", "c t": "series", "c t y x": "volume", "c z y x": "volume"}
"""What the page draws samples as that are no pictures, by their axes."""


@dataclass(frozen=True)
class Guess:
    """One of the classes a model holds likely."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True, eq=False)
class Photo:
    """A picture as the model sees it.

    sample    the name that its maps carry
    image     the crop that entered the model, 8 bits a channel
    original  rows and columns of the file, when known
    crop      top, left, bottom, right of the crop in the file's pixels, when known
    """

    sample: str
    image: Image
    original: tuple[int, int] | None = None
    crop: tuple[float, ...] | None = None


@dataclass(frozen=True, eq=False)
class Sample:
    """A series, the row of a table or a volume, as the model sees it.

    values    channels and places
    axes      what these are: `c t`, `c`, `c z y x`
    features  names along `c`
    """

    sample: str
    values: Tensor
    axes: str
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        shape = tuple(self.values.shape)
        if self.axes not in KINDS or len(shape) != len(self.axes.split()):
            raise OptionError(
                f"a sample of shape {shape} over {self.axes!r} cannot be drawn: give one over "
                f"{', '.join(map(repr, KINDS))}"
            )
        if self.features and self.kind == "volume":
            raise OptionError("features= names channels of a series or columns of a table")
        if self.features and len(self.features) != shape[0]:
            raise OptionError(
                f"features= gives {len(self.features)} names, but {self.sample!r} has {shape[0]} "
                f"{'channels' if self.kind == 'series' else 'features'}: give a name for each"
            )

    @property
    def kind(self) -> str:
        """`table`, `series` or `volume`."""
        return KINDS[self.axes]


@dataclass(frozen=True, eq=False)
class Areas:
    """The class that a model predicts at each place of a photo.

    classes  `y x`, as numbers
    names    of the classes, by number; a class without one is "class 7"
    """

    classes: Tensor
    names: Sequence[str] = ()

    def name(self, number: int) -> str:
        return self.names[number] if number < len(self.names) else f"class {number}"


@dataclass(frozen=True, eq=False)
class Shapes:
    """What a model's output draws over a photo.

    shapes  in pixels of the photo as the model sees it, or relative to its sides
    read    the places of those that a target reads, by the target's name
    names   of the classes, by number; a class without one is "class 7"
    """

    shapes: Sequence[Shape]
    read: Mapping[str, Sequence[int]] = field(default_factory=dict)
    names: Sequence[str] = ()

    def name(self, label: int | str) -> str:
        if isinstance(label, str):
            return label
        return self.names[label] if 0 <= label < len(self.names) else f"class {label}"


@dataclass(frozen=True, eq=False)
class Curve:
    """Values over others; a number that is none leaves a gap.

    among  dots without a line between them, such as the heads whose mean is a line
    """

    name: str
    x: Tensor
    y: Tensor
    among: bool = False


@dataclass(frozen=True, eq=False)
class FigureRow:
    """Maps or pictures under one label, each with its own; or curves.

    alike   whether the pictures have one scale of colours, or each its own
    ends    of that scale, where they are not the least and the greatest value
    images  pictures in their own colours
    x, y    what the curves' values are
    large   whether a single picture fills the column
    """

    label: str
    maps: tuple[tuple[str, SaliencyMap], ...] = ()
    images: tuple[tuple[str, Image], ...] = ()
    alike: bool = True
    curves: tuple[Curve, ...] = ()
    x: str = ""
    y: str = ""
    ends: tuple[float, float] | None = None
    large: bool = False


@dataclass(frozen=True, eq=False)
class MixerFigure:
    """One figure of what a token mixer does on the first sample.

    note  what is left out
    """

    title: str
    about: str
    rows: tuple[FigureRow, ...]
    note: str = ""


@dataclass(frozen=True, eq=False)
class Mixer:
    """What a token mixer does on one sample.

    undrawn  figures that could not be drawn, each with the reason
    """

    sample: str
    figures: tuple[MixerFigure, ...]
    undrawn: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, eq=False)
class Contents:
    """What a model looks at in some samples.

    samples   those that are no photos: series, rows of a table, volumes
    top       the likeliest classes by sample, best first
    words     the tokens by sample, for maps over `n`
    title     the headline; by default it names the model
    about     what holds for all maps; by default each map's own
    skipped   pictures that could not be read, each with the reason
    ledgers   where the relevance of a method goes, by its name
    areas     the class at each place, by photo
    restored  the picture that the model makes of a photo, by photo
    shapes    what the model's output draws over a photo, by photo
    besides   what else the model is given with a sample, in words, by sample
    partners  photos that are shown beside a photo, by photo: with it they are one sample
    mixer     what the token mixer does on the first photo
    """

    maps: Maps
    photos: tuple[Photo, ...] = ()
    top: Mapping[str, Sequence[Guess]] = field(default_factory=dict)
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)
    title: str = ""
    about: About | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    ledgers: Mapping[str, Ledger] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()
    areas: Mapping[str, Areas] = field(default_factory=dict)
    restored: Mapping[str, Image] = field(default_factory=dict)
    shapes: Mapping[str, Shapes] = field(default_factory=dict)
    besides: Mapping[str, str] = field(default_factory=dict)
    partners: Mapping[str, Sequence[str]] = field(default_factory=dict)
    mixer: Mixer | None = None

    @property
    def cautions(self) -> list[str]:
        """Why maps mean little, and of which samples where it is not true of all."""
        of_all = dict.fromkeys(self.about.cautions if self.about else ())
        found: dict[str, dict[str, None]] = {}
        for m in self.maps:
            for reason in m.about.cautions:
                if reason not in of_all:
                    found.setdefault(reason, {})[m.sample] = None
        every = {m.sample for m in self.maps}
        return [*of_all, *(_told_of(names, every) + reason for reason, names in found.items())]


def _told_of(names: Collection[str], every: Collection[str]) -> str:
    if len(names) == len(every):
        return ""
    shown = list(names)[:3]
    more = [f"{len(names) - 3} more"] if len(names) > 3 else []
    return f"{joined([*shown, *more])}: "
