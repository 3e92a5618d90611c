"""Pictures that targets name: read, prepared as the samples are, and embedded by the model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from ...models.inputs import PreparedPhoto, Preprocessing, input_for, prepare, read
from ...probe.capture import guarded
from ...probe.errors import OptionError
from ...probe.targets import Reading, Target


def prepared_query(path: Path, photos: Preprocessing | None) -> PreparedPhoto:
    """A picture as the model takes it.

    photos  how the samples are prepared; None where they are no photos
    Raises OptionError then, and ImageError for what is no picture.
    """
    if photos is None:
        raise OptionError(
            f"target similar:{path} embeds a picture as the samples are prepared, but these are "
            "no photos: give limelight.similar(net(query))"
        )
    return prepare(photos, read(path))


@torch.no_grad()
def embedding(model: nn.Module, x: Tensor, at: str) -> Tensor:
    """What a model returns for inputs `b c y x`, or a part of it: `b d`."""
    with guarded(model, grad=False, evaluate=True):
        return Reading("part", at)(model(x), len(x))


def with_embeddings(
    model: nn.Module, wanted: Iterable[Target], photos: Preprocessing | None
) -> list[Target]:
    """The targets, those that name a picture with its embedding. Raises as `prepared_query`."""
    return [_embedded(model, target, photos) for target in wanted]


def _embedded(model: nn.Module, target: Target, photos: Preprocessing | None) -> Target:
    if target.query is None:
        return target
    x = input_for(model, prepared_query(target.query, photos).tensor[None])
    try:
        found = embedding(model, x, target.reading.at if target.reading else "")
    except TypeError as error:  # another argument is missing
        raise OptionError(
            f"target similar:{target.query} embeds a picture, but {type(model).__name__} takes the "
            f"picture alone for no input ({error}): give limelight.similar(embedding)"
        ) from error
    return target.embedded(found)
