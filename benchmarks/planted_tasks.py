"""The prompts of the planted benchmark: sequences that ask four questions at every token.

A sequence is 8 different tokens of 16 and then the same ones in another order. At a token of the
second half, question t asks for the token of the first half that stands `OFFSETS[t]` after this
one there; its answers have their own 16 entries of the output vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TOKENS, HALF = 16, 8
LENGTH = 2 * HALF
OFFSETS = (1, -1, 2, -2)
NAMES = ("after", "before", "two after", "two before")


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts of one question, asked at the last token.

    clean, corrupt   ids `p n`; the last token is the same
    good, bad        the answers of the two, as entries of the output vocabulary `p`
    """

    clean: Tensor
    corrupt: Tensor
    good: Tensor
    bad: Tensor


def sequences(count: int, generator: torch.Generator) -> Tensor:
    """Ids `b n`."""
    first = torch.rand(count, TOKENS, generator=generator).argsort(1)[:, :HALF]
    order = torch.rand(count, HALF, generator=generator).argsort(1)
    return torch.cat([first, first.gather(1, order)], 1)


def answers(ids: Tensor) -> tuple[Tensor, Tensor]:
    """The answer to each question at the tokens of the second half, and where it is found.

    Tokens `b n t`, -100 where there is no answer, and the first occurrence of each token, `b n`.
    """
    first, second = ids[:, :HALF], ids[:, HALF:]
    seen = (second[:, :, None] == first[:, None]).int().argmax(-1)
    found = []
    for offset in OFFSETS:
        place = seen + offset
        known = (place >= 0) & (place < HALF)
        found.append(first.gather(1, place.clamp(0, HALF - 1)).masked_fill(~known, -100))
    return torch.stack(found, -1), seen


def prompts(task: int, count: int, seed: int, corrupt: str = "all") -> Prompts:
    """Prompts of question `task`.

    corrupt   "all": another sequence that ends in the same token, so that the heads of all
              questions change; "answer": the answer changes places with another token
    """
    generator = torch.Generator().manual_seed(seed)
    found: list[tuple[Tensor, Tensor]] = []
    while sum(len(clean) for clean, _ in found) < count:
        clean = sequences(count, generator)
        if corrupt == "all":
            other = _ending(sequences(count, generator), clean[:, -1])
        else:
            other = _exchanged(clean, task, generator)
        wanted = [answers(ids)[0][:, -1, task] for ids in (clean, other)]
        use = (wanted[0] >= 0) & (wanted[1] >= 0) & (wanted[0] != wanted[1])
        found.append((clean[use], other[use]))
    clean, other = (torch.cat(parts)[:count] for parts in zip(*found, strict=True))
    good, bad = (answers(ids)[0][:, -1, task] + task * TOKENS for ids in (clean, other))
    return Prompts(clean, other, good, bad)


def _ending(ids: Tensor, last: Tensor) -> Tensor:
    """Sequences with two tokens' names exchanged, so that they end in the wanted ones."""
    own, last = ids[:, -1:], last[:, None]
    return torch.where(ids == own, last, torch.where(ids == last, own, ids))


def _exchanged(ids: Tensor, task: int, generator: torch.Generator) -> Tensor:
    """Sequences whose answer has changed places with another token of the first half."""
    seen = answers(ids)[1]
    place = (seen[:, -1:] + OFFSETS[task]).clamp(0, HALF - 1)
    free = torch.rand(len(ids), HALF, generator=generator)
    free = free.scatter(1, seen[:, -1:], -1).scatter(1, place, -1)
    other = free.argmax(1, keepdim=True)
    a, b = ids.gather(1, place), ids.gather(1, other)
    return ids.scatter(1, place, b).scatter(1, other, a)
