"""A pair of prompts as text, and how it becomes token ids that align."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ....probe.errors import OptionError
from ....probe.sites import Tokenizer
from .pairs import Pair


class PromptError(OptionError):
    """A pair of prompts that this tokenizer cannot use."""


@dataclass(frozen=True)
class Prompt:
    """One clean prompt, its corrupt counterpart and the answers that tell them apart.

    good, bad   answers as text, with their leading space, or as token ids
    changed     the most tokens that may differ between the two; None for any number
    """

    clean: str
    corrupt: str
    good: tuple[str | int, ...]
    bad: tuple[str | int, ...]
    changed: int | None = None


def tokenise(
    prompt: Prompt, tokenizer: Tokenizer, *, bos: int | None = None, first: bool = False
) -> Pair:
    """The prompt as ids. Raises PromptError when the two do not align or an answer is not one id.

    bos     an id put before both
    first   of answers of several tokens take the first, less those that both sides share
    """
    clean, corrupt = tokenizer.encode(prompt.clean), tokenizer.encode(prompt.corrupt)
    _check(prompt, clean, corrupt)
    good = _answers(prompt.good, prompt.clean, clean, tokenizer, first)
    bad = _answers(prompt.bad, prompt.clean, clean, tokenizer, first)
    shared = set(good) & set(bad)
    if first:
        good, bad = ([i for i in side if i not in shared] for side in (good, bad))
    elif shared:
        word = tokenizer.words([min(shared)])[0]
        raise PromptError(f"{word!r} is a right and a wrong answer at once")
    if not good or not bad:
        raise PromptError(
            "no right or no wrong answer is left when shared first tokens are left out"
        )
    start = [] if bos is None else [bos]
    return pair(start + clean, start + corrupt, good, bad, tokenizer)


def pair(
    clean: list[int],
    corrupt: list[int],
    good: Sequence[int],
    bad: Sequence[int],
    tokenizer: Tokenizer | None = None,
) -> Pair:
    """Ids as a Pair, with their words where a tokenizer tells them."""
    words, other = ((), ()) if tokenizer is None else map(tokenizer.words, (clean, corrupt))
    return Pair(
        torch.tensor(clean),
        torch.tensor(corrupt),
        tuple(good),
        tuple(bad),
        tuple(words),
        tuple(other),
    )


def completion(tokenizer: Tokenizer, text: str, answer: str) -> int | None:
    """The id of `answer` after `text`, where it is one token there that changes none before it."""
    before, after = tokenizer.encode(text), tokenizer.encode(text + answer)
    return after[-1] if len(after) == len(before) + 1 and after[:-1] == before else None


def _check(prompt: Prompt, clean: list[int], corrupt: list[int]) -> None:
    if not clean:
        raise PromptError("the clean prompt is empty")
    if len(clean) != len(corrupt):
        raise PromptError(
            f"the clean prompt has {len(clean)} tokens and the corrupt one {len(corrupt)}: "
            "both must align, token by token"
        )
    different = sum(a != b for a, b in zip(clean, corrupt, strict=True))
    if not different:
        raise PromptError("the clean and the corrupt prompt are the same")
    if prompt.changed is not None and different > prompt.changed:
        raise PromptError(f"{different} tokens differ where {prompt.changed} should")


def _answers(
    answers: tuple[str | int, ...],
    text: str,
    ids: list[int],
    tokenizer: Tokenizer,
    first: bool,
) -> list[int]:
    answer_ids = [
        a if isinstance(a, int) else _answer(a, text, ids, tokenizer, first) for a in answers
    ]
    return list(dict.fromkeys(answer_ids))


def _answer(answer: str, text: str, ids: list[int], tokenizer: Tokenizer, first: bool) -> int:
    after = tokenizer.encode(text + answer)
    rest = after[len(ids) :]
    if after[: len(ids)] != ids or not rest or (len(rest) > 1 and not first):
        raise PromptError(_refusal(answer, text, ids, after, tokenizer))
    return rest[0]


def _refusal(answer: str, text: str, ids: list[int], after: list[int], tokenizer: Tokenizer) -> str:
    if not answer:
        return "an answer is empty"
    hint = ""
    if not answer.startswith(" ") and completion(tokenizer, text, f" {answer}") is not None:
        hint = f"; {f' {answer}'!r}, with a space before it, would be one"
    if after[: len(ids)] != ids:
        return f"the answer {answer!r} joins the prompt's last token{hint}"
    pieces = " ".join(repr(w) for w in tokenizer.words(after[len(ids) :])[:6])
    return (
        f"the answer {answer!r} is {len(after) - len(ids)} tokens, {pieces}, "
        f"where one is needed{hint}"
    )
