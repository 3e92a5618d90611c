"""A batch as a model's arguments, which can be split, repeated and perturbed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..capture import (
    argument_names,
    explained_input,
    input_name,
    input_tensors,
    is_tokens,
    movable_inputs,
    takes_ids,
)
from ..errors import LimelightError, MethodError
from ..trace import exchange


@dataclass(frozen=True, eq=False)
class Batch:
    """Inputs of some samples.

    index      their numbers in the whole call
    rows       the dimension that counts samples, by name, of every tensor with a row a sample; all
               others serve every sample, however few are taken
    doubtful   tensors as long as the batch of which nobody said that they belong to it
    explained  the name of the tensor whose maps are made at `input`, which path and pass methods
               perturb
    axes       of inputs where they were said, by address: `input`, `input.1`
    ids        whether the explained tensor holds ids, whose embedding is explained
    movable    tensors that paths could move: floats, no masks, neither shared nor fixed

    Names are those of keyword arguments, or positions: `mask`, `1`, `features.2`.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    index: tuple[int, ...]
    rows: Mapping[str, int]
    doubtful: tuple[str, ...] = ()
    explained: str = ""
    axes: Mapping[str, str] = field(default_factory=dict)
    ids: bool = False
    movable: tuple[str, ...] = ()

    @staticmethod
    def of(x: Any, axes: Mapping[str, str] | None = None, model: nn.Module | None = None) -> Batch:
        """A tensor, a tuple of arguments, or a mapping of keyword arguments; or a batch.

        axes   of inputs, as `limelight.maps` takes them
        model  that is given them: it names its arguments, and takes ids or does not
        """
        if isinstance(x, Batch):
            batch = x if not axes else _with_axes(x, axes)
        else:
            args = () if isinstance(x, Mapping) else x if isinstance(x, tuple) else (x,)
            kwargs = dict(x) if isinstance(x, Mapping) else {}
            names = () if model is None else argument_names(model)
            batch = batch_of(args, kwargs, axes or {}, names=names)
        return batch if model is None else replace(batch, ids=batch.ids and takes_ids(model))

    @property
    def members(self) -> Mapping[str, int]:
        """The dimension that counts samples, of tensors that are known to have a row a sample."""
        return {name: dim for name, dim in self.rows.items() if name not in self.doubtful}

    def __len__(self) -> int:
        return len(self.index)

    def numbered(self, index: Sequence[int]) -> Batch:
        """The batch as part of a larger call, in which its samples have these numbers."""
        return replace(self, index=tuple(index))

    def take(self, places: Sequence[int]) -> Batch:
        """Some samples, by their places in this batch, repeats allowed."""
        if list(places) == list(range(len(self))):
            return self
        chosen = torch.as_tensor(places, dtype=torch.long)

        def pick(place: str, t: Tensor) -> Tensor:
            dim = self.rows.get(input_name(place))
            return t if dim is None else t.index_select(dim, chosen.to(t.device))

        args, kwargs = exchange((self.args, dict(self.kwargs)), pick)
        return replace(self, args=args, kwargs=kwargs, index=tuple(self.index[p] for p in places))

    @property
    def x(self) -> Tensor:
        """The tensor that is explained, which path and pass methods perturb; bytes as floats.

        Raises MethodError for token ids, which cannot be moved.
        """
        x = input_tensors(self.args, self.kwargs)[self.explained]
        if self.ids:
            raise MethodError(
                "this method perturbs the input, which must be a float tensor; for a token model "
                "give inputs_embeds instead of ids"
            )
        return x if x.is_floating_point() or x.is_complex() else x.float()

    def explaining(self, name: str) -> Batch:
        """The batch with another of its tensors as the one that is explained.

        Raises MethodError for one without a row a sample, which no sample's map can be about.
        """
        if name == self.explained:
            return self
        if name not in self.rows:
            raise MethodError(
                f"input {name!r} was to be perturbed, but it serves all samples; give it a row a "
                "sample, or explain another input"
            )
        axes = dict(readdressed(self.axes.items(), self.explained, name))
        ids = is_tokens(input_tensors(self.args, self.kwargs)[name])
        return replace(self, explained=name, axes=axes, ids=ids)

    def with_x(self, x: Tensor) -> Batch:
        """The batch with its float input exchanged; one sample's other inputs serve many copies.

        Raises MethodError for copies of several samples, whose order nothing tells.
        """
        return self.with_inputs({self.explained: x})

    def with_inputs(self, values: Mapping[str, Tensor]) -> Batch:
        """The batch with tensors exchanged by name, all for as many samples. Raises as `with_x`."""
        name, x = next(iter(values.items()))
        count = x.shape[self.rows.get(name, 0)]
        if count != len(self) != 1:
            raise MethodError(
                f"{count} inputs were given for a batch of {len(self)} samples; give one "
                "a sample, or many of a single sample"
            )
        whole = self if count == len(self) else self.take([0] * count)
        args, kwargs = exchange(
            (whole.args, dict(whole.kwargs)), lambda p, t: values.get(input_name(p), t)
        )
        return replace(whole, args=args, kwargs=kwargs)

    def copied(self) -> Batch:
        """The batch with float tensors that a forward may write into."""
        args, kwargs = exchange(
            (self.args, dict(self.kwargs)), lambda _, t: t.clone() if t.is_floating_point() else t
        )
        return replace(self, args=args, kwargs=kwargs)


def batch_of(
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    axes: Mapping[str, str],
    *,
    shared: Sequence[str] | None = None,
    fixed: Sequence[str] = (),
    explained: str | None = None,
    names: Sequence[str] = (),
) -> Batch:
    """A batch from what was said of its tensors; nothing is taken from their sizes.

    shared     names of tensors that serve all samples; None where nobody said
    explained  the tensor that is explained, by default the first float one that is no mask
    Raises LimelightError where tensors and what was said of them do not fit.
    """
    tensors = input_tensors(args, kwargs)
    if not tensors:
        raise _no_tensor([*args, *kwargs.values()])
    for name in (*(shared or ()), *fixed, *filter(None, [explained])):
        if name not in tensors:
            raise LimelightError(
                f"an input {name!r} was spoken of, but the inputs are {', '.join(tensors)}"
            )
    main = explained or explained_input(tensors, fixed=fixed, names=names)
    rows = {
        name: dim
        for name, t in tensors.items()
        if t.ndim and (dim := _batch_dim(name, t, name == main, axes)) is not None
    }
    lengths = {n: tensors[n].shape[d] for n, d in rows.items() if n not in (shared or ())}
    count = lengths.get(main, next(iter(lengths.values()), 0))
    if not count:
        raise LimelightError(
            "the input holds no sample; give tensors whose first dimension is the batch, not of "
            f"shape {tuple(tensors[main].shape)}"
        )
    if shared is not None and (odd := [n for n, length in lengths.items() if length != count]):
        raise LimelightError(
            f"the batch has {count} samples, but {', '.join(odd)} holds "
            f"{', '.join(str(lengths[n]) for n in odd)} rows; name it in shared=[...] if it serves "
            "all samples"
        )
    members = {n: rows[n] for n, length in lengths.items() if length == count}
    doubtful = [n for n in members if n != main and n not in axes and f"input.{n}" not in axes]
    open_ones = tuple(doubtful) if shared is None else ()
    known = {a: names for a, names in axes.items() if a.partition(".")[0] == "input"}
    ids = is_tokens(tensors[main])
    still = (*fixed, *(shared or ()))
    movable = movable_inputs(tensors, fixed=still, names=names)
    return Batch(args, kwargs, tuple(range(count)), members, open_ones, main, known, ids, movable)


def _no_tensor(given: Sequence[Any]) -> LimelightError:
    """The error for inputs without a tensor, by what was given instead."""
    words = ", ".join(type(value).__name__ for value in given) or "nothing"
    arrays = any(type(value).__module__ == "numpy" for value in given)
    what = "torch.from_numpy(x)" if arrays else "tensors whose first dimension is the batch"
    return LimelightError(f"the input holds no sample, it is {words} and no tensor; give {what}")


def _with_axes(batch: Batch, axes: Mapping[str, str]) -> Batch:
    """A batch of whose inputs more is said than when it was made."""
    whole = {**batch.axes, **axes}
    shared = [n for n in input_tensors(batch.args, batch.kwargs) if n not in batch.rows]
    again = batch_of(batch.args, batch.kwargs, whole, shared=shared, explained=batch.explained)
    doubtful = tuple(n for n in batch.doubtful if f"input.{n}" not in axes)
    index = batch.index if len(again) == len(batch) else again.index
    return replace(again, doubtful=doubtful, index=index, movable=batch.movable)


def _batch_dim(name: str, t: Tensor, main: bool, axes: Mapping[str, str]) -> int | None:
    """The dimension that counts samples: the first, or the one called `b`; None for none."""
    said = axes.get(f"input.{name}") or (axes.get("input") if main else None)
    if said is None:
        return 0
    words = said.split()
    if len(words) != t.ndim and not (main and is_tokens(t)):
        raise LimelightError(
            f"axes {said!r} were said for input {name!r}, but its shape is {tuple(t.shape)}; name "
            "each dimension once"
        )
    return words.index("b") if "b" in words else None


def inputs(
    *args: Any,
    shared: str | Sequence[str] = (),
    fixed: str | Sequence[str] = (),
    explained: str | None = None,
    axes: Mapping[str, str] | None = None,
    **kwargs: Any,
) -> Batch:
    """A model's arguments, and what they are, for every call that takes inputs.

        limelight.maps(net, limelight.inputs(images, prompts, shared="1"), "occlusion", target=2)

    shared     names of tensors that serve all samples, prompts or prototypes; all others have a
               row a sample
    fixed      masks and flags that no method moves
    explained  the tensor whose maps are made at `input`, by default the first float one that is
               no mask; the others are `input.1`, `input.mask`
    axes       of inputs by name, where no op tells: `{"0": "b t c"}`
    Names are keywords, or positions as text. Raises LimelightError for what does not fit.

    Example:
        >>> ll.maps(net, ll.inputs(x), "gradient", target=1)[0].values.shape
        torch.Size([8, 8])
    """
    names = [[n] if isinstance(n, str) else list(n) for n in (shared, fixed)]
    said = {f"input.{n}": a for n, a in (axes or {}).items()}
    batch = batch_of(args, kwargs, said, shared=names[0], fixed=names[1], explained=explained)
    main = f"input.{batch.explained}"
    return replace(batch, axes={"input" if a == main else a: n for a, n in said.items()})


def readdressed(
    axes: Iterable[tuple[str, str]], explained: str, name: str
) -> tuple[tuple[str, str], ...]:
    """Axes of inputs by address, where another tensor than `explained` is to be the input."""
    words = {"input": f"input.{explained}", f"input.{name}": "input"}
    return tuple((words.get(address, address), said) for address, said in axes)


def chunks(count: int, size: int) -> list[range]:
    """Places 0 .. count in runs of at most `size`."""
    return [range(start, min(start + size, count)) for start in range(0, count, size)]
