"""Samples whose score is not finite: what was nan or infinite first, said in their maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..capture import guarded, input_tensors, keep_hooks
from ..results import SaliencyMap
from ..sites import hookable
from ..trace import leaves
from .batch import Batch


def with_causes(
    maps: Sequence[SaliencyMap], model: nn.Module, batch: Batch, place: Mapping[str, int]
) -> list[SaliencyMap]:
    """Maps without values where the score is not finite, and a caution that says why.

    place  of each sample in the batch
    """
    lost = {m.sample for m in maps if m.about.lost}
    causes = {sample: first_not_finite(model, batch.take([place[sample]])) for sample in lost}
    return [_lost(m, causes[m.sample]) if m.sample in lost else m for m in maps]


def _lost(m: SaliencyMap, cause: str) -> SaliencyMap:
    reason = f"the score is {m.about.score} and the map was dropped, for {cause}"
    empty = torch.full_like(m.values, torch.nan)
    return replace(m, values=empty, about=m.about.cautioned(reason))


def first_not_finite(model: nn.Module, one: Batch) -> str:
    """What is not finite on the way to the score of a sample: input, weight, or the first site."""
    for name, x in input_tensors(one.args, one.kwargs).items():
        if word := _word(x):
            return f"its input {name!r} holds {word}"
    for name, weight in model.named_parameters():
        if word := _word(weight):
            return f"the weight {name!r} holds {word}"
    for name, buffer in model.named_buffers():
        if (word := _word(buffer)) == "nan":  # masks hold infinity
            return f"the buffer {name!r} holds {word}"
    return _first_site(model, one)


def _first_site(model: nn.Module, one: Batch) -> str:
    found: list[str] = []

    def look(path: str, output: object) -> None:
        words = [word for _, t in leaves(output) if (word := _word(t))]
        if words and not found:
            found.append(f"{path or 'the output'} gives {words[0]}")

    one = one.copied()
    with torch.no_grad(), guarded(model, grad=False, evaluate=True) as undo:
        keep_hooks(model.modules(), undo)
        for path, module in model.named_modules():
            if hookable(module):
                module.register_forward_hook(lambda _, __, out, path=path: look(path, out))
        model(*one.args, **one.kwargs)
    return found[0] if found else "the target itself gives it"


def _word(x: Tensor) -> str:
    """`nan` or `infinity` where a tensor holds one, else nothing."""
    if not (x.is_floating_point() or x.is_complex()) or bool(x.isfinite().all()):
        return ""
    return "nan" if bool(x.isnan().any()) else "infinity"
