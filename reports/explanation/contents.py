"""What a page of an explanation shows: maps, photos, guesses, words, ledgers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...probe.relevance import Ledger
from ...probe.results import About, Maps

if TYPE_CHECKING:
    from PIL.Image import Image


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
class Contents:
    """What a model looks at in some samples.

    top    the likeliest classes by sample, best first
    words  the tokens by sample, for maps over `n`
    title  the headline; by default it names the model
    about  what holds for all maps; by default each map's own
    skipped  pictures that could not be read, each with the reason
    ledgers  where the relevance of a method goes, by its name
    """

    maps: Maps
    photos: tuple[Photo, ...] = ()
    top: Mapping[str, Sequence[Guess]] = field(default_factory=dict)
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)
    title: str = ""
    about: About | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    ledgers: Mapping[str, Ledger] = field(default_factory=dict)
