"""Pictures beside samples: a query to which they are compared, with the maps of the same score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ...models.inputs import PreparedPhoto, Preprocessing, input_for, read
from ...probe.attribution import Methods
from ...probe.engine import Batch, maps_and_output
from ...probe.results import Maps
from ...probe.targets import Target
from ..datasets import embedding, prepared_query
from .samples import Samples, free_name, photo_of

_NOTE = "the maps of a query are those of its own similarity to each sample"


@dataclass(frozen=True, eq=False)
class Pairs:
    """The pictures that targets compare samples with, each with its target and its file."""

    model: nn.Module
    queries: tuple[tuple[Target, Path, PreparedPhoto], ...]

    @staticmethod
    def of(model: nn.Module, wanted: Sequence[Target], photos: Preprocessing | None) -> Pairs:
        """Raises ImageError for what is no picture, OptionError where samples are no photos."""
        asked = [(t, t.query) for t in wanted if t.query is not None]
        return Pairs(model, tuple((t, path, prepared_query(path, photos)) for t, path in asked))

    @property
    def notes(self) -> tuple[str, ...]:
        return (_NOTE,) if self.queries else ()

    def maps(
        self,
        x: Tensor | Batch,
        group: Sequence[str],
        samples: Samples,
        methods: Methods,
        **options: Any,
    ) -> Maps:
        """The maps of every query for its similarity to some samples, which become its partners."""
        found = Maps()
        inputs = x.x if isinstance(x, Batch) else x
        for target, path, ready in self.queries:
            names = [_partner(samples, name, path, ready) for name in group]
            one = input_for(self.model, ready.tensor[None])
            at = target.reading.at if target.reading else ""
            found += maps_and_output(
                self.model,
                one.expand(len(group), *one.shape[1:]),
                methods,
                target=target.embedded(embedding(self.model, inputs, at)),
                samples=names,
                **options,
            )[0]
        return found


def _partner(samples: Samples, name: str, path: Path, ready: PreparedPhoto) -> str:
    """The name under which a query stands beside a sample."""
    partner = free_name(f"{name}: {path.stem}", {photo.sample: photo for photo in samples.photos})
    samples.photos.append(photo_of(partner, ready, read(path)))
    samples.partners[name] = (*samples.partners.get(name, ()), partner)
    return partner
