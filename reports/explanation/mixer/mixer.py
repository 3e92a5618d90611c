"""The figures of a model on one picture: those that its card names, or those of any attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from torch import nn

from ....models.card import CENTRE, DISTANCE, MAPS, Card, Figure
from ....probe.attribution import Axes
from ....probe.engine import Batch
from ....probe.errors import LimelightError, OptionError
from ....probe.sites import adapt
from ....probe.targets import Target
from ..contents import Mixer, MixerFigure
from ..samples import Samples
from . import choices, filters, gates, key_points, lines, over_picture, over_tokens
from .picture import Picture, Rows

OF_ATTENTION = (CENTRE, DISTANCE)
OF_TOKENS = (MAPS,)
_DRAWN: dict[str, Callable[[Picture, Figure], Rows]] = {
    "channels": over_picture.channels,
    "mean": over_picture.values,
    "norm": over_picture.values,
    "pictures": over_picture.pictures,
    "maps": over_picture.maps_of,
    "centre": over_picture.attention,
    "class": over_picture.attention,
    "connectivity": over_picture.connectivity,
    "tables": over_picture.tables,
    "choices": choices.choices,
    "token shares": over_picture.token_shares,
    "points": key_points.points,
    "without": key_points.without,
    "spectrum": lines.spectrum,
    "shares": lines.shares,
    "sorted": lines.sorted_channels,
    "heads": lines.heads,
    "steps": lines.steps,
    "functions": lines.functions,
    "singular values": lines.singular_values,
    "whole maps": over_tokens.whole_maps,
    "values": over_tokens.values,
    "denominators": over_tokens.denominators,
    "decay lengths": over_tokens.decay_lengths,
    "sharing": over_tokens.sharing,
    "shared entropies": over_tokens.shared_entropies,
    "filters": filters.filters,
    "filter energies": filters.energies,
    "gates": gates.beside_truth,
    "gate density": gates.density,
    "gate mass": gates.mass,
}


@runtime_checkable
class ShowsItself(Protocol):
    """A model whose configuration chooses its mixers, and that names their figures itself."""

    @property
    def shows(self) -> tuple[Figure, ...]:
        """In the place of those of its card."""
        ...


def figures_of(model: nn.Module, *, tokens: bool = False) -> tuple[Figure, ...]:
    """What the model or its card names; of others, what can be drawn of any attention.

    tokens   whether the model reads token ids, which lie on no picture
    Raises OptionError where there is neither.
    """
    card = getattr(model, "card", None)
    named = card.shows if isinstance(card, Card) else ()
    named = model.shows if isinstance(model, ShowsItself) else named
    if named or adapt(model).heads:
        return named or (OF_TOKENS if tokens else OF_ATTENTION)
    raise OptionError(
        "mixer=True shows what a token mixer does, but this model's card names no figures and no "
        "attention of it is known: leave it out"
    )


def mixer_of(
    model: nn.Module, x: Any, sample: str, axes: Axes = None, target: Target | None = None
) -> Mixer:
    """The figures of a model on one picture `1 c y x` or sequence `1 n`; why others have none.

    x       the picture; where the model is given more with it, a tuple or mapping of all, or a
            batch
    target  that methods among them explain; by default the likeliest class

    Raises OptionError where none can be drawn.
    """
    picture = Picture(model, Batch.of(x, axes, model), sample, axes, target)
    drawn, undrawn = [], []
    for figure in figures_of(model, tokens=picture.batch.ids):
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


def mixer_on(
    model: nn.Module, samples: Samples, axes: Axes = None, target: Target | None = None
) -> Mixer:
    """The same on the first photo of some samples, the first sequence of ids or of several inputs.

    Raises OptionError where there is none of them.
    """
    several = list(samples.inputs) if samples.together is not None else []
    names = several or [photo.sample for photo in samples.photos] or list(samples.inputs)
    batch = Batch.of(samples.batch(names[:1]), axes, model) if names else None
    if batch is None or not (several or samples.photos or batch.ids):
        raise OptionError(
            "mixer=True draws over pictures, token ids, or what several inputs mean to the model, "
            "but there are none: leave it out"
        )
    return mixer_of(model, batch, names[0], axes, target)
