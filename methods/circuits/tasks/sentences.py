"""Tasks written as sentences: indirect objects, years that are greater, arguments of docstrings."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal

from ....probe.errors import OptionError
from .prompts import Prompt, Tokenizer, completion
from .registry import task_maker
from .templates import (
    ARGUMENTS,
    CENTURIES,
    DOCUMENTED,
    FILLERS,
    FUNCTION,
    NAMES,
    NOUNS,
    PLACES,
    SENTENCES,
    THINGS,
    YEARS,
)

Negatives = Literal["matched", "published"]
Sides = Callable[[int], tuple[list[int], list[int]]]


@task_maker("ioi")
def ioi(
    draw: random.Random, tokenizer: Tokenizer, *, negatives: Negatives = "matched"
) -> Iterator[Prompt]:
    """Indirect object: "When Mary and John walked to the zoo, John gave a map to" -> " Mary".

    The two names come in either order. The corrupt prompt has a third name for the repeated
    subject; with negatives="published" it repeats no name either, but the third name stands for the
    indirect object, and that one for the subject's first mention (arXiv 2405.12522).
    """
    names = _whole(NAMES, tokenizer, 10, "names")
    while True:
        indirect, subject, third = draw.sample(names, 3)
        places = draw.choice((("first", "second"), ("second", "first")))
        fill = partial(
            draw.choice(SENTENCES).format, place=draw.choice(PLACES), thing=draw.choice(THINGS)
        )
        matched = negatives == "matched"
        a, b, again = (indirect, subject, third) if matched else (third, indirect, subject)
        yield Prompt(
            fill(again=subject, **dict(zip(places, (indirect, subject), strict=True))),
            fill(again=again, **dict(zip(places, (a, b), strict=True))),
            (f" {indirect}",),
            (f" {subject}",),
            changed=1 if matched else 2,
        )


@task_maker("greater_than", of="probability")
def greater_than(draw: random.Random, tokenizer: Tokenizer) -> Iterator[Prompt]:
    """Later years: "The war lasted from the year 1732 to the year 17" -> 33 to 99, not 00 to 32.

    The corrupt prompt says 01 for 32. Where a tokenizer reads digits one by one, the answers are
    tens digits, above and below that of the year (arXiv 2305.00586, made for two-digit tokens).
    """
    years = _after_century(tokenizer, [f"{year:02d}" for year in range(100)])
    split = [
        (c, y) for c in CENTURIES for y in range(2, 99) if years and _splits(tokenizer, c, y, 1)
    ]
    if split:
        return _years(draw, split, 1, lambda y: (years[y + 1 :], years[: y + 1]))
    digits = _after_century(tokenizer, [str(digit) for digit in range(10)])
    if digits:
        every = [(c, y) for c in CENTURIES for y in range(10, 90)]
        return _years(draw, every, 2, lambda y: (digits[y // 10 + 1 :], digits[: y // 10]))
    raise OptionError(
        "task 'greater_than' needs two-digit years or digits that are one token each, and this "
        "tokenizer groups digits otherwise: use another task or a file of prompts"
    )


def _splits(tokenizer: Tokenizer, century: int, *years: int) -> bool:
    """Whether these years are a token after the century's, and no token for all four digits."""
    return all(completion(tokenizer, f"the year {century}", f"{y:02d}") is not None for y in years)


def _after_century(tokenizer: Tokenizer, answers: list[str]) -> list[int]:
    """The ids of digits after a century, none unless each has one.

    Several centuries are tried, since a tokenizer may hold a whole year such as 1900 as a token.
    """
    years = []
    for answer in answers:
        ids = (completion(tokenizer, f"the year {c}", answer) for c in range(11, 100))
        years.append(next((i for i in ids if i is not None), None))
        if years[-1] is None:
            return []
    return [i for i in years if i is not None]


def _years(
    draw: random.Random, years: Sequence[tuple[int, int]], changed: int, sides: Sides
) -> Iterator[Prompt]:
    while True:
        noun, (century, year) = draw.choice(NOUNS), draw.choice(years)
        clean, corrupt = (
            YEARS.format(noun=noun, century=century, year=f"{y:02d}") for y in (year, 1)
        )
        good, bad = sides(year)
        yield Prompt(clean, corrupt, tuple(good), tuple(bad), changed)


@task_maker("docstring")
def docstring(
    draw: random.Random, tokenizer: Tokenizer, *, negatives: Negatives = "matched"
) -> Iterator[Prompt]:
    """The next argument to document: the third of three in order; wrong are the five others.

    Two arguments stand before the three and one after. The corrupt prompt keeps the docstring and
    names others from the third argument on; with negatives="published" the docstring's two
    arguments are others again ("random_random" of arXiv 2405.12522).
    """
    words = _whole(ARGUMENTS, tokenizer, 16, "argument names")
    fillers = _whole(FILLERS, tokenizer, 12, "filler words")
    while True:
        name, *names = draw.sample(words, 13)
        arguments, others, documented = names[:6], names[6:10], names[10:]
        texts = [" ".join(draw.sample(fillers, size)) for size in (3, 2, 2)]
        other = documented if negatives == "published" else arguments[2:4]
        yield Prompt(
            _function(name, arguments, arguments[2:4], texts),
            _function(name, arguments[:2] + others, other, texts),
            (f" {arguments[4]}",),
            tuple(f" {a}" for a in arguments if a != arguments[4]),
            changed=4 if negatives == "matched" else 6,
        )


def _function(
    name: str, arguments: Sequence[str], documented: Sequence[str], texts: Sequence[str]
) -> str:
    lines = (
        DOCUMENTED.format(argument=a, text=t) for a, t in zip(documented, texts[1:], strict=True)
    )
    return FUNCTION.format(
        name=name, arguments=", ".join(arguments), summary=texts[0], documented="".join(lines)
    )


def _whole(words: Sequence[str], tokenizer: Tokenizer, least: int, what: str) -> list[str]:
    """Those words that are one token after a space."""
    usable = [w for w in words if completion(tokenizer, "and", f" {w}") is not None]
    if len(usable) < least:
        raise OptionError(
            f"the task needs {least} {what} that are one token with a space before them, and this "
            f"tokenizer has {len(usable)} of {len(words)}: use a file of prompts in its words"
        )
    return usable
