"""Targets that are classes: one, the best, one against others, one at a position."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import TargetError
from .class_scores import Which, interleave, picked, read_classes, said
from .reading import Reading
from .scalar import Target, given_classes, of_part
from .scale import Of

_MOST = 10_000


def label(
    which: Which,
    *,
    of: Of = "logit",
    at: str = "",
    dense: bool = False,
    position: int | None = None,
) -> Target:
    """The score of a class: an index, a name, or one of either per sample.

    of        the logit as the model gives it; its `probability`, by softmax over c, or by sigmoid
              where c is 1; the `log_probability`; `sigmoid`, where every class is a question of
              its own. What the model has squashed itself is not squashed again
    at        the part of an output of several: `logits`, `0.1`, `out`; default: the only one
    dense     the part is `b c` and places; known of `b c y x` and `b c z y x`
    position  the part is `b n c`, read at that position; known, -1, where token ids go in

    Dense outputs are summed over their places, probabilities after they were taken at each.
    Raises TargetError for a class, a part or a shape that does not fit.

    Example:
        >>> ll.maps(net, x, "gradient", target=ll.label([1, 2]))[1].target
        'class 2'
    """
    reading = Reading(at=at, of=of, dense=dense, position=position)
    rows, words = read_classes(which)
    name = said(which) if len(rows) == 1 else "label"
    name = name if words or len(rows) > 1 else f"class {name}"
    return Target(name + of_part(reading), picked, rows, words, given_classes, reading=reading)


def top(
    k: int = 1,
    *,
    of: Of = "logit",
    at: str = "",
    dense: bool = False,
    position: int | None = None,
) -> Target | tuple[Target, ...]:
    """The most probable class of each sample; with k > 1 the k most probable, one target each.

    Keywords as for `label`. Raises TargetError for k below 1 or above 10,000.

    Example:
        >>> len(ll.maps(net, x, "gradient", target=ll.top(2)))
        4
    """
    if k < 1:
        raise TargetError(f"top(k) counts from 1, not {k}")
    if k > _MOST:
        raise TargetError(f"top({k}) asks for a map of each of them: {_MOST} is the most")
    by_rank = tuple(ranked(rank, of=of, at=at, dense=dense, position=position) for rank in range(k))
    return by_rank[0] if k == 1 else by_rank


def ranked(
    rank: int,
    *,
    of: Of = "logit",
    at: str = "",
    dense: bool = False,
    position: int | None = None,
) -> Target:
    """The class at a rank: 0 the most probable, -1 the least. Keywords as for `label`.

    Example:
        >>> ll.maps(net, x, "gradient", target=ll.ranked(-1))[0].target  # doctest: +ELLIPSIS
        '...
    """

    def pick(scores: Tensor, rows: Tensor | None) -> Tensor:
        if rows is not None:
            return rows
        count = scores.shape[1]
        if not -count <= rank < count:
            raise TargetError(f"top {rank + 1} was asked, but the model has {count} classes")
        return scores.detach().argsort(dim=1, descending=True, stable=True)[:, rank]

    def read(scores: Tensor, rows: Tensor | None) -> Tensor:
        return picked(scores, pick(scores, rows))

    reading = Reading(at=at, of=of, dense=dense, position=position)
    name = f"top {rank + 1}" if rank >= 0 else "least" if rank == -1 else f"bottom {-rank}"
    return Target(name + of_part(reading), read, pick=pick, reading=reading)


def margin(
    a: Which,
    b: Which,
    *,
    of: Of = "logit",
    at: str = "",
    dense: bool = False,
    position: int | None = None,
) -> Target:
    """Score of `a` minus score of `b`. Keywords as for `label`.

    Example:
        >>> ll.maps(net, x, "gradient", target=ll.margin(1, 2))[0].target
        '1 - 2'
    """
    first, second = read_classes(a), read_classes(b)
    sizes = {len(first[0]), len(second[0])}
    size = max(sizes)
    if not sizes <= {1, size}:
        raise TargetError(
            f"margin takes one class or as many as samples on each side, not {len(first[0])} and "
            f"{len(second[0])}"
        )
    rows = torch.stack([r.expand(size) for r in (first[0], second[0])], 1)
    words = interleave(rows, first, second)
    reading = Reading(at=at, of=of, dense=dense, position=position)
    name = f"{said(a)} - {said(b)}" + of_part(reading)
    return Target(name, _difference, rows, words, reading=reading)


def _difference(scores: Tensor, rows: Tensor) -> Tensor:
    return picked(scores, rows[:, 0]) - picked(scores, rows[:, 1])


def contrast(
    good: Sequence[Sequence[int | str]],
    bad: Sequence[Sequence[int | str]],
    *,
    of: Of = "logit",
    at: str = "",
    dense: bool = False,
    position: int | None = None,
) -> Target:
    """The scores of several classes minus those of others, each sample with its own.

    Mean logit (or log-probability) of `good` minus that of `bad`; with of="probability" the sums.
    One list of classes on each side serves every sample. Keywords as for `label`.

    Example:
        >>> ll.maps(net, x, "gradient", target=ll.contrast([[1, 2]] * 2, [[0]] * 2))[0].values.shape
        torch.Size([8, 8])
    """
    if len(good) != len(bad) or not all(map(len, [*good, *bad])):
        raise TargetError(
            f"contrast takes classes for every sample on both sides, not {len(good)} and "
            f"{len(bad)} lists of them, some of which may be empty"
        )
    width = max(map(len, [*good, *bad]), default=1)
    sides = [[read_classes(list(side)) for side in pair] for pair in zip(good, bad, strict=True)]
    rows = torch.stack([torch.stack([_padded(r, width) for r, _ in pair]) for pair in sides])
    words = tuple(word for pair in sides for _, named in pair for word in named)

    def read(every: Tensor, rows: Tensor) -> Tensor:
        total = every.new_zeros(len(every))
        for side, sign in ((rows[:, 0], 1), (rows[:, 1], -1)):
            side = side.to(every.device)
            given = side >= 0
            if int(side.max()) >= every.shape[1]:
                raise TargetError(
                    f"class {int(side.max())} was asked, but the model has {every.shape[1]} classes"
                )
            gathered = every.gather(1, side.clamp(min=0).expand(len(every), -1)) * given
            summed = gathered.sum(1)
            total = total + sign * (summed if of == "probability" else summed / given.sum(1))
        return total

    reading = Reading(at=at, of=of, dense=dense, position=position)
    name = "good - bad"
    if len(rows) == 1:
        name = " - ".join("+".join(map(str, side)) for side in (good[0], bad[0]))
    return Target(name + of_part(reading), read, rows, words, reading=reading)


_NO_CLASS = -2  # beside -1, which stands for a name


def _padded(classes: Tensor, width: int) -> Tensor:
    return F.pad(classes, (0, width - len(classes)), value=_NO_CLASS)


def token(
    which: Which, position: int | Sequence[int] | Tensor = -1, *, of: Of = "logit", at: str = ""
) -> Target:
    """The score of a token at a position of a language model's output `b n v`.

    position  one for all, or one per sample, as where prompts are padded on the right
    `of` and `at` as for `label`. Raises TargetError for another output, or a position outside.

    Example:
        >>> ll.maps(lm, ids, "input_x_gradient", target=ll.token(9, position=-1))[0].values.shape
        torch.Size([5])
    """
    if not isinstance(position, int):
        return _at_positions(which, position, of, at)
    return _at_position(f"token {_spoken(which)} at {position}", which, position, of, at)


def choice(step: int, which: Which, *, of: Of = "logit", at: str = "") -> Target:
    """The score of a choice among k at a step of a sequence of choices, an output `b step k`.

    Such as the object that a gaze rests on next. `of` and `at` as for `label`; a negative step
    counts from the last. Raises TargetError for another output, or a step outside.

    Example:
        >>> ll.choice(2, 5).name
        '5 at step 2'
    """
    return _at_position(f"{_spoken(which)} at step {step}", which, step, of, at)


def _at_position(name: str, which: Which, position: int, of: Of, at: str) -> Target:
    reading = Reading(at=at, of=of, position=position)
    rows, words = read_classes(which)
    return Target(name + of_part(reading), picked, rows, words, reading=reading)


def _at_positions(which: Which, position: Sequence[int] | Tensor, of: Of, at: str) -> Target:
    rows, words = read_classes(which)
    held = torch.as_tensor(position)
    if held.ndim != 1 or held.is_floating_point() or held.dtype == torch.bool:
        raise TargetError(f"positions are whole numbers, one per sample, not {position!r}")

    def read(field: Tensor, rows: Tensor, places: Tensor) -> Tensor:
        places, count = places.to(field.device).expand(len(field)), field.shape[2]
        outside = places[(places < -count) | (places >= count)]
        if len(outside):
            raise TargetError(
                f"position {int(outside[0])} was asked, but the output has {count} positions"
            )
        return picked(field, rows).gather(1, (places % count)[:, None])[:, 0]

    reading = Reading("positions", at, of)
    name = f"token {_spoken(which)} at each sample's position" + of_part(reading)
    return Target(name, read, rows, words, mask=held, reading=reading)


def _spoken(which: Which) -> str:
    return repr(which) if isinstance(which, str) else said(which)
