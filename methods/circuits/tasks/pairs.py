"""What a circuit is found from: inputs that differ in one thing, and the answer that changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import overload

import torch
from torch import Tensor

from ....probe.errors import OptionError
from ....probe.targets import Given, Of, Target, contrast


@dataclass(frozen=True, eq=False, repr=False)
class Pair:
    """One clean input and its corrupt counterpart, of equal shape.

    clean, corrupt   what the model reads: token ids `n`, or a picture `c y x`
    good, bad        classes or tokens whose scores make the metric: good minus bad
    words, other     the tokens of the clean and the corrupt input as text, where they are text

    Example:
        >>> ll.Pair(torch.tensor([1, 2]), torch.tensor([1, 3]), good=(5,), bad=(6,))
        Pair(inputs of 2, good=(5,), bad=(6,))
    """

    clean: Tensor
    corrupt: Tensor
    good: tuple[int, ...]
    bad: tuple[int, ...]
    words: tuple[str, ...] = ()
    other: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.clean.shape != self.corrupt.shape:
            raise OptionError(
                f"a pair has inputs of shapes {tuple(self.clean.shape)} and "
                f"{tuple(self.corrupt.shape)}: both sides must align, position by position"
            )
        if not self.good or not self.bad:
            raise OptionError("a pair needs at least one good and one bad answer")

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.clean.shape))
        said = repr("".join(self.words)) if self.words else f"inputs of {shape}"
        return f"Pair({said}, good={self.good}, bad={self.bad})"


@dataclass(frozen=True, eq=False, repr=False)
class Pairs(Sequence[Pair]):
    """The pairs of a task.

    of      whether the metric compares mean logits, `logit`, or summed probabilities,
            `probability`
    about   how they were made: generator, seed, template version, file

    Example:
        >>> ll.task("induction", 64, count=4)
        Pairs('induction', 4 pairs, of='logit')
    """

    name: str
    pairs: tuple[Pair, ...]
    of: Of = "logit"
    about: str = ""

    def __post_init__(self) -> None:
        if self.of not in ("logit", "probability"):
            raise OptionError(f"pairs are compared by 'logit' or 'probability', not {self.of!r}")

    def __repr__(self) -> str:
        return f"Pairs({self.name!r}, {len(self)} pairs, of={self.of!r})"

    @overload
    def __getitem__(self, place: int) -> Pair: ...
    @overload
    def __getitem__(self, place: slice) -> Pairs: ...
    def __getitem__(self, place: int | slice) -> Pair | Pairs:
        chosen = self.pairs[place]
        return chosen if isinstance(chosen, Pair) else replace(self, pairs=chosen)

    def __len__(self) -> int:
        return len(self.pairs)

    def take(self, places: Sequence[int]) -> Pairs:
        """Some of the pairs, in that order."""
        return replace(self, pairs=tuple(self.pairs[i] for i in places))

    def target(self) -> Target:
        """The metric, one number per pair: good minus bad."""
        good_minus_bad = contrast([p.good for p in self], [p.bad for p in self], of=self.of)
        return good_minus_bad.told(self.given)

    @property
    def given(self) -> Given:
        """What a model is given with one side of the pairs."""
        ids = self.pairs[0].clean if self.pairs else None
        return Given(len(self), len(ids) if ids is not None and ids.ndim == 1 else 0)

    def batches(self, size: int) -> Iterator[PairBatch]:
        """Pairs of one shape together, at most `size` at a time, so that nothing is padded."""
        shapes: dict[tuple[int, ...], list[int]] = {}
        for place, pair in enumerate(self):
            shapes.setdefault(tuple(pair.clean.shape), []).append(place)
        for places in shapes.values():
            for start in range(0, len(places), size):
                batch = places[start : start + size]
                yield PairBatch(batch, self.take(batch))


@dataclass(frozen=True, eq=False)
class PairBatch:
    """Pairs of one shape, and their places among all."""

    places: list[int]
    pairs: Pairs

    @property
    def clean(self) -> Tensor:
        """`b n` or `b c y x`."""
        return torch.stack([p.clean for p in self.pairs])

    @property
    def corrupt(self) -> Tensor:
        """As `clean`."""
        return torch.stack([p.corrupt for p in self.pairs])
