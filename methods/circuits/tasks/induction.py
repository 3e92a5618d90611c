"""Induction: after a token comes what came after it before; needs no words, only ids."""

from __future__ import annotations

import random
from collections.abc import Iterator

from ....probe.errors import OptionError
from .pairs import Pair
from .prompts import Tokenizer, pair
from .registry import task_maker

PERIODS = (8, 31)


@task_maker("induction", text=False)
def induction(
    draw: random.Random, tokenizer: Tokenizer | int, *, length: int = 64, bos: int | None = None
) -> Iterator[Pair]:
    """A block of random tokens, repeated: the token after the last one is the one that was before.

    length   of every prompt, the id `bos` included; the block has 8 to 31 tokens, all different
    In the corrupt prompt the earlier occurrences of the last two tokens have changed places with
    two others of the block, so that the last one came before their successor: the wrong answer.
    Two, because a model that also reads the last but one must find the same answer there.
    """
    size = tokenizer if isinstance(tokenizer, int) else tokenizer.size
    ids = [i for i in range(size) if i != bos]
    room = length - (bos is not None)
    longest = min(PERIODS[1], len(ids), room - 1)
    if longest < PERIODS[0]:
        raise OptionError(
            f"task 'induction' repeats blocks of at least {PERIODS[0]} tokens, which needs as many "
            f"ids and a longer prompt, not {len(ids)} ids and length {length}"
        )
    start = [] if bos is None else [bos]
    words = None if isinstance(tokenizer, int) else tokenizer
    while True:
        block = draw.sample(ids, draw.randint(PERIODS[0], longest))
        clean = [block[i % len(block)] for i in range(room)]
        other, good, bad = _exchange(block, (room - 1) % len(block), draw)
        corrupt = [other[i % len(block)] for i in range(room - 2)] + clean[-2:]
        yield pair(start + clean, start + corrupt, [good], [bad], words)


def _exchange(block: list[int], last: int, draw: random.Random) -> tuple[list[int], int, int]:
    """The block with the pair that ends at `last` and one apart exchanged, and their successors."""
    period = len(block)
    place = last + draw.randint(3, period - 3)
    other = list(block)
    for a, b in ((last - 1, place - 1), (last, place)):
        other[a % period], other[b % period] = block[b % period], block[a % period]
    return other, block[(last + 1) % period], block[(place + 1) % period]
