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
    """Inputs of some samples; `index` numbers them in the whole call."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    index: tuple[int, ...]

    @staticmethod
    def of(x: Any) -> Batch:
        """A tensor, a tuple of arguments, or a mapping of keyword arguments; a batch as it is."""
        if isinstance(x, Batch):
            return x
        args: tuple[Any, ...] = (
            () if isinstance(x, Mapping) else x if isinstance(x, tuple) else (x,)
        )
        kwargs = dict(x) if isinstance(x, Mapping) else {}
        sizes = [t.shape[0] for _, t in leaves((args, kwargs)) if t.ndim]
        if not sizes or not sizes[0]:
            raise LimelightError(
                "the input holds no sample; give tensors whose first dimension is the batch"
            )
        return Batch(args, kwargs, tuple(range(sizes[0])))

    def __len__(self) -> int:
        return len(self.index)

    def take(self, places: Sequence[int]) -> Batch:
        """Some samples, by their places in this batch, repeats allowed."""
        if list(places) == list(range(len(self))):
            return self
        rows = torch.as_tensor(places, dtype=torch.long)

        def pick(_: str, t: Tensor) -> Tensor:
            return t[rows.to(t.device)] if t.ndim and t.shape[0] == len(self) else t

        args, kwargs = exchange((self.args, dict(self.kwargs)), pick)
        return Batch(args, kwargs, tuple(self.index[p] for p in places))

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
        """The batch with its float input exchanged; one sample's other inputs serve many copies."""
        whole = self if len(x) == len(self) else self.take([0] * len(x))
        old = whole.x
        args, kwargs = exchange((whole.args, dict(whole.kwargs)), lambda _, t: x if t is old else t)
        return replace(whole, args=args, kwargs=kwargs)


def chunks(count: int, size: int) -> list[range]:
    """Places 0 .. count in runs of at most `size`."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
