"""The figures of a model on one picture: those that its card names, or those of any attention."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ....models.card import CENTRE, DISTANCE, Card, Figure
from ....probe.attribution import Axes
from ....probe.errors import LimelightError, OptionError
from ....probe.sites import adapt
from ..contents import Mixer, MixerFigure
from ..samples import Samples
from . import lines, over_picture
from .picture import Picture, Rows

OF_ATTENTION = (CENTRE, DISTANCE)
_DRAWN: dict[str, Callable[[Picture, Figure], Rows]] = {
    "channels": over_picture.channels,
    "mean": over_picture.values,
    "norm": over_picture.values,
    "centre": over_picture.attention,
    "class": over_picture.attention,
    "connectivity": over_picture.connectivity,
    "tables": over_picture.tables,
    "token shares": over_picture.token_shares,
    "spectrum": lines.spectrum,
    "heads": lines.heads,
    "functions": lines.functions,
    "singular values": lines.singular_values,
}


def figures_of(model: nn.Module) -> tuple[Figure, ...]:
    """What the model's card names; of others, what can be drawn of any attention.

    Raises OptionError where there is neither.
    """
    card = getattr(model, "card", None)
    named = card.shows if isinstance(card, Card) else ()
    if named or adapt(model).heads:
        return named or OF_ATTENTION
    raise OptionError(
        "mixer=True shows what a token mixer does, but this model's card names no figures and no "
        "attention of it is known: leave it out"
    )


def mixer_of(model: nn.Module, x: Tensor, sample: str, axes: Axes = None) -> Mixer:
    """The figures of a model on one picture `1 c y x`, and why others have none.

    Raises OptionError where none can be drawn.
    """
    picture = Picture(model, x, sample, axes)
    drawn, undrawn = [], []
    for figure in figures_of(model):
        if figure.draw not in _DRAWN:
            raise OptionError(
                f"figure {figure.title!r} is to draw {figure.draw!r}: write one of "
                f"{', '.join(map(repr, _DRAWN))}"
            )
        try:
            rows, note = _DRAWN[figure.draw](picture, figure)
            drawn.append(MixerFigure(figure.title, figure.about, tuple(rows), note))
        except LimelightError as error:
            undrawn.append((figure.title, str(error)))
    if not drawn:
        raise OptionError(f"mixer=True finds nothing to draw: {undrawn[0][1]}")
    return Mixer(sample, tuple(drawn), tuple(undrawn))


def mixer_on(model: nn.Module, samples: Samples, axes: Axes = None) -> Mixer:
    """The same on the first photo of some samples. Raises OptionError where there is none."""
    names = [photo.sample for photo in samples.photos[:1]]
    x = samples.batch(names) if names else None
    if not isinstance(x, Tensor):
        raise OptionError(
            "mixer=True draws over pictures that enter the model alone, but there are none: "
            "leave it out"
        )
    return mixer_of(model, x, names[0], axes)
