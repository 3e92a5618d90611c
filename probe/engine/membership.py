"""Which inputs hold a row a sample and which serve all, found by running one sample apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from ..capture import guarded
from ..errors import LimelightError
from ..trace import leaves
from .batch import Batch

_MOST = 4  # doubtful inputs; every set of them is a forward


def told_apart(model: nn.Module, batch: Batch) -> Batch:
    """The batch with its doubtful inputs told apart.

    One sample alone must give what it gives among the others: for inputs that belong to samples
    its own row is taken, those that serve all stay whole. A batch of one is doubled instead.
    Raises LimelightError where no choice agrees.
    """
    if not batch.doubtful:
        return batch
    if len(batch.doubtful) > _MOST:
        raise _unknown(batch, "there are too many to try")
    whole = _output(model, batch)
    for shared in _choices(batch.doubtful):
        chosen = replace(
            batch,
            rows={name: dim for name, dim in batch.rows.items() if name not in shared},
            doubtful=(),
        )
        if _agrees(model, chosen, whole):
            return chosen
    raise _unknown(batch, "one sample alone never gives what it gives among the others")


def _choices(doubtful: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Sets of inputs that may be shared, none first."""
    for count in range(len(doubtful) + 1):
        yield from combinations(doubtful, count)


def _agrees(model: nn.Module, batch: Batch, whole: dict[str, Tensor]) -> bool:
    alone = batch.take([0] if len(batch) > 1 else [0, 0])
    try:
        again = _output(model, alone)
    except Exception:
        return False
    compared = False
    for name, value in whole.items():
        other = again.get(name)
        if other is None or value.ndim == 0 or len(value) != len(batch):
            continue
        if other.shape != (len(alone), *value.shape[1:]) or not _close(other, value[:1]):
            return False
        compared = True
    return compared


def _close(rows: Tensor, row: Tensor) -> bool:
    scale = float(row.abs().max()) if row.numel() else 0.0
    return bool(((rows - row).abs() <= 1e-3 * scale + 1e-6).all())


def _output(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    copy = batch.copied()
    with torch.no_grad(), guarded(model, grad=False, evaluate=True):
        output: Any = model(*copy.args, **copy.kwargs)
    return {name: t.float() for name, t in leaves(output) if not t.is_complex()}


def _unknown(batch: Batch, why: str) -> LimelightError:
    names = ", ".join(batch.doubtful)
    return LimelightError(
        f"whether {names} hold a row a sample or serve all samples is not known ({why}); say it, "
        f"as in limelight.inputs(..., shared=[{batch.doubtful[0]!r}])"
    )
