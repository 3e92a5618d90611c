"""A batch as a model's arguments, which can be split, repeated and perturbed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import LimelightError, MethodError
from ..trace import exchange, leaves


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs of some samples.

    index       their numbers in the whole call
    per_sample  places of the tensors with a row a sample, fixed for the whole call: those as long
                as its batch; all others serve every sample, however few are taken
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    index: tuple[int, ...]
    per_sample: frozenset[str]

    @staticmethod
    def of(x: Any) -> Batch:
        """A tensor, a tuple of arguments, or a mapping of keyword arguments; a batch as it is."""
        if isinstance(x, Batch):
            return x
        args: tuple[Any, ...] = (
            () if isinstance(x, Mapping) else x if isinstance(x, tuple) else (x,)
        )
        kwargs = dict(x) if isinstance(x, Mapping) else {}
        lengths = {place: t.shape[0] for place, t in leaves((args, kwargs)) if t.ndim}
        count = next(iter(lengths.values()), 0)
        if not count:
            raise LimelightError(
                "the input holds no sample; give tensors whose first dimension is the batch"
            )
        per_sample = frozenset(place for place, length in lengths.items() if length == count)
        return Batch(args, kwargs, tuple(range(count)), per_sample)

    def __len__(self) -> int:
        return len(self.index)

    def numbered(self, index: Sequence[int]) -> Batch:
        """The batch as part of a larger call, in which its samples have these numbers."""
        return replace(self, index=tuple(index))

    def take(self, places: Sequence[int]) -> Batch:
        """Some samples, by their places in this batch, repeats allowed."""
        if list(places) == list(range(len(self))):
            return self
        rows = torch.as_tensor(places, dtype=torch.long)

        def pick(place: str, t: Tensor) -> Tensor:
            return t[rows.to(t.device)] if place in self.per_sample else t

        args, kwargs = exchange((self.args, dict(self.kwargs)), pick)
        return replace(self, args=args, kwargs=kwargs, index=tuple(self.index[p] for p in places))

    @property
    def x(self) -> Tensor:
        """The tensor that path and pass methods perturb: the first float one."""
        for _, t in leaves((self.args, dict(self.kwargs))):
            if t.is_floating_point():
                return t
        raise MethodError(
            "this method perturbs the input, which must be a float tensor; for a token model give "
            "inputs_embeds instead of ids"
        )

    def with_x(self, x: Tensor) -> Batch:
        """The batch with its float input exchanged; one sample's other inputs serve many copies.

        Raises MethodError for copies of several samples, whose order nothing tells.
        """
        if len(x) != len(self) != 1:
            raise MethodError(
                f"{len(x)} inputs were given for a batch of {len(self)} samples; give one "
                "a sample, or many of a single sample"
            )
        whole = self if len(x) == len(self) else self.take([0] * len(x))
        old = whole.x
        args, kwargs = exchange((whole.args, dict(whole.kwargs)), lambda _, t: x if t is old else t)
        return replace(whole, args=args, kwargs=kwargs)


def chunks(count: int, size: int) -> list[range]:
    """Places 0 .. count in runs of at most `size`."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
