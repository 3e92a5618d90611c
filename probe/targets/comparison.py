"""Targets that compare an output with something given: an embedding, a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from ..errors import ImageError, TargetError
from .places import batched_mask, check_mask
from .reading import Reading
from .scalar import Target, of_part

if TYPE_CHECKING:
    import numpy as np

Error = Literal["absolute", "squared"]


def similar(embedding: Tensor | str | Path, *, at: str = "") -> Target:
    """Cosine similarity of the output `b d` to an embedding `d`, or `b d` for one per sample.

    The embedding of a second input is what the model returns for it: `similar(net(query))`. Of the
    path of a picture it is what the model returns for that, prepared as the samples are:
    `limelight.explain`, which shows it beside them, and `limelight.run` see to it.
    `at` as for `label`. Raises TargetError for an output of another shape, ImageError for no file.

    Example:
        >>> ll.maps(net, x, "gradient", target=ll.similar(net(x[:1]).detach()))[0].values.shape
        torch.Size([8, 8])
    """
    reading = Reading("part", at)
    if isinstance(embedding, str | Path):
        query = Path(embedding).expanduser()
        if not query.is_file():
            raise ImageError(f"picture {str(embedding)!r} does not exist")
        name = f"similarity to {query.stem}" + of_part(reading)
        return Target(name, _cosine, reading=reading, query=query)
    if embedding.ndim not in (1, 2):
        raise TargetError(
            f"an embedding is d numbers, or b d, one per sample, not {tuple(embedding.shape)}"
        )
    held = embedding.detach() if embedding.requires_grad else embedding
    rows = held if held.ndim == 2 else held[None]
    return Target("similarity" + of_part(reading), _cosine, rows, reading=reading)


def _cosine(embedded: Tensor, rows: Tensor) -> Tensor:
    if embedded.ndim != 2 or embedded.shape[1] != rows.shape[1]:
        raise TargetError(
            f"an embedding of {rows.shape[1]} numbers does not compare with an output "
            f"{tuple(embedded.shape)}"
        )
    return torch.cosine_similarity(embedded, rows.to(embedded), dim=1)


def difference(
    reference: Tensor | np.ndarray,
    mask: Tensor | np.ndarray | None = None,
    *,
    error: Error = "absolute",
    at: str = "",
    per_sample: bool | None = None,
) -> Target:
    """The mean difference of a restored picture to a reference, inside a mask.

    sum_p m_p sum_c |y_cp - r_cp| / (C sum_p m_p), or of (y - r)^2 with error="squared", for
    outputs `b c` and one to three places.

    reference   `c y x`, or `b c y x` for one per sample
    mask        the places `y x`, or `b y x` for one per sample; default: the whole picture
    per_sample  whether samples come first in the reference; by default they do in four dimensions
                and more: a reference `b c t` says True, `c z y x` False

    Raises TargetError for sizes that do not fit, an empty mask or an unknown error.

    Example:
        >>> restore = nn.Conv2d(3, 3, 3, padding=1)
        >>> target = ll.difference(torch.zeros(3, 8, 8), torch.ones(8, 8))
        >>> ll.maps(restore, x, "gradient", target=target)[0].values.shape
        torch.Size([8, 8])
    """
    if error not in ("absolute", "squared"):
        raise TargetError(f"error={error!r} is unknown: write 'absolute' or 'squared'")
    wanted = torch.as_tensor(reference).detach()
    many = wanted.ndim > 3 if per_sample is None else per_sample
    rows = wanted if many else wanted[None]
    marks = None if mask is None else _weights(mask, places=rows.ndim - 2)

    def read(picture: Tensor, rows: Tensor, marks: Tensor | None = None) -> Tensor:
        if picture.ndim < 3 or picture.shape[1:] != rows.shape[1:]:
            raise TargetError(
                f"a reference of {tuple(rows.shape[1:])} does not compare with an output "
                f"{tuple(picture.shape)}"
            )
        gap = picture - rows.to(picture)
        gap = gap.abs() if error == "absolute" else gap.square()
        if marks is None:
            return gap.flatten(1).mean(1)
        check_mask(marks, picture)
        weights = marks.to(gap)
        total = weights.flatten(1).sum(1) * gap.shape[1]
        return (gap * weights[:, None]).flatten(1).sum(1) / total

    reading = Reading("part", at)
    name = f"{error} difference" + (" in a region" if marks is not None else "")
    return Target(name + of_part(reading), read, rows, mask=marks, reading=reading)


def _weights(mask: Tensor | np.ndarray, places: int) -> Tensor:
    """A mask over so many places, samples in front."""
    marks = batched_mask(mask, torch.as_tensor(mask).ndim > places)
    if not bool((marks.double().flatten(1).sum(1) > 0).all()):
        raise TargetError("the mask of a difference is empty: mark at least one place")
    return marks
