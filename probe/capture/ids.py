"""Token ids on their way from the inputs to the embeddings that look them up.

Embeddings of positions and kinds of tokens look up numbers as well, but of counters and buffers:
what no input made is no input.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import ProbeError
from ..ops import Op, tensors
from .recording import Recording

# What is counted or compared by ids is about their places, and holds none of them.
_COUNTS = ("argmax", "argmin", "argsort", "argwhere", "nonzero", "bincount", "count_nonzero")
_LIKE = ("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randint_like")
_NEW = ("new_zeros", "new_ones", "new_full", "new_empty", "new_tensor")
_AFRESH = frozenset((*_COUNTS, *_LIKE, *_NEW))
# Of what they are given beside their first argument they take the shape, type or device alone.
_BY_THE_FIRST = frozenset(("expand", "view", "reshape", "type_as", "to"))
_ONE_BY_ONE = frozenset(("broadcast_tensors", "meshgrid"))


def follow(recording: Recording, op: Op, args: Any, kwargs: Any, out: Any) -> None:
    """Note that the results of an op hold ids of an input, where its arguments do."""
    if isinstance(out, Tensor) and not _may_be_ids(out):
        return
    if op.name in _AFRESH:
        return
    given = tensors(args[:1] if op.name in _BY_THE_FIRST and args else (args, kwargs))
    if op.name in _ONE_BY_ONE:
        for x, result in zip(given, tensors(out), strict=True):
            _hold(recording, _named(recording, x), [result])
        return
    name = next(filter(None, (_named(recording, x) for x in given)), None)
    _hold(recording, name, [*tensors(out), *op.targets(args, kwargs)])


def _hold(recording: Recording, name: str | None, results: list[Tensor]) -> None:
    if name is not None:
        recording.ids |= {id(x): (x, name) for x in results if _may_be_ids(x)}


def ids_of(recording: Recording, given: Any) -> str | None:
    """The name of the input whose ids are among the arguments of an op; None for no input's."""
    whole = [x for x in tensors(given) if _may_be_ids(x)]
    for x in whole:
        name = _named(recording, x)
        if name is not None:
            return name
    main = recording.ids.get(recording.main_ids)
    same = main is not None and any(
        x.shape == main[0].shape and torch.equal(x, main[0].to(x)) for x in whole
    )
    return recording.explained if same else None  # a script or a trip to numpy hid the way


def check_met(recording: Recording) -> None:
    """Raise ProbeError where embeddings were called, but none for the ids that are explained."""
    wanted = recording.grad or recording.requests.enters("")
    if wanted and recording.passed_by and not recording.met:
        raise ProbeError(
            f"the input {recording.explained!r} holds token ids, but of {recording.passed_by} "
            "embeddings that ran none looked them up: their way there is lost in floats, a script "
            "or numpy; give inputs_embeds in place of the ids"
        )


def _named(recording: Recording, x: Tensor) -> str | None:
    found = recording.ids.get(id(x))
    return None if found is None else found[1]


def _may_be_ids(x: Tensor) -> bool:
    return not (x.dtype == torch.bool or x.is_floating_point() or x.is_complex())
